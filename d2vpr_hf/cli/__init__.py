"""The command line. Each command is a plain function of the library behind a few lines that read options and print.

Everything heavy is imported inside the commands, so that `d2vpr --help` answers at once.
"""

from d2vpr_hf.cli.commands import app, main

__all__ = ["app", "main"]
