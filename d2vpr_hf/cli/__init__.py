"""The command line. Each command reads its options, calls a function of the library and prints the result.

Commands import the rest of the library when they run, so that `d2vpr --help` needs none of it.
"""

from d2vpr_hf.cli.commands import app, main

__all__ = ["app", "main"]
