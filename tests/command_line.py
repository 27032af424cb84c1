"""Two ways to run the command line: as a program, or in this process, which allows monkeypatching."""

import contextlib
import io
import sys
from unittest.mock import patch

import pytest

from d2vpr_hf.cli import main
from tests.warm_python import warm_package

PROGRAM = "from d2vpr_hf.cli import main; main()"


def run_program(*arguments):
    """Run `d2vpr` in a process of its own, and return the exit status, stdout and stderr."""
    done = warm_package().run(PROGRAM, *arguments)
    return done.returncode, done.stdout, done.stderr


def run(*arguments):
    """Run `d2vpr` in this process, and return the exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["d2vpr", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as raised,
    ):
        main()
    return raised.value.code or 0, out.getvalue(), err.getvalue()
