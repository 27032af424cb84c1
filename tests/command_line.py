"""Ways to run the command line: as a program, or in this process, where the test can change what it does."""

import subprocess
import sys

import pytest

from d2vpr_hf.cli import main


def run(*arguments):
    """Run the program: exit status, stdout, stderr."""
    done = subprocess.run([sys.executable, "-m", "d2vpr_hf", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def run_here(monkeypatch, capsys, *arguments):
    """Run it in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["d2vpr", *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        main()
    return raised.value.code or 0, *capsys.readouterr()
