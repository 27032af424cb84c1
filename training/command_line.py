"""The command line of the three training scripts: options, log, errors and exit status."""

import logging
import re
import sys
from collections.abc import Callable
from typing import Any

from transformers.utils.logging import disable_progress_bar

from d2vpr_hf.training.options import Options, parse_options
from d2vpr_hf.training.training_run import RunStoppedError
from d2vpr_hf.utils.interrupts import (
    InterruptedBySignalError,
    SignalHandler,
    exit_status,
    raise_interrupted,
    signal_name,
)
from d2vpr_hf.utils.printable import printable_text


def run_script(kind: type[Options], train: Callable[[Options], Any]) -> None:
    """Run a stage with the options of the command line, and exit with a status unless it succeeds.

    An error that the user can correct is printed as one line on stderr, with status 1. A run that Ctrl-C or SIGTERM stopped
    ends with status 130 or 143, and a line about its checkpoint.

    Args:
        kind: The stage's options.
        train: The stage's function.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("d2vpr_hf").setLevel(logging.INFO)
    disable_progress_bar()  # transformers draws one for every file it writes
    try:
        with SignalHandler(raise_interrupted):
            train(parse_options(kind, sys.argv[1:]))
    except InterruptedBySignalError as interrupt:  # before the first step, or after the last one
        advice = "`--resume` continues from its newest checkpoint, if there is one."
        sys.stderr.write(f"{signal_name(interrupt.number)} stopped the run while it was not training. {advice}\n")
        sys.exit(exit_status(interrupt.number))
    except RunStoppedError as stopped:
        sys.stderr.write(f"{_message(stopped)}\n")
        sys.exit(stopped.exit_status)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.stderr.write(f"{type(error).__name__}: {_message(error)}\n")
        sys.exit(1)


class _PrintableFormatter(logging.Formatter):
    """The text of log lines, in which names of files cannot steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_text(super().format(record))


def _message(error: Exception) -> str:
    """Return an error's message without the traceback of a loading process, and with flags in place of parameters.

    Errors have parameters between backticks: `resume=True` becomes `--resume`, `max_grad_norm=1` becomes `--max-grad-norm 1`.
    """
    text = str(error).strip()
    if "in DataLoader worker process" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return printable_text(re.sub(r"`([a-z_]+)=([^`]+)`", lambda match: f"`{_flag(match[1], match[2])}`", text))


def _flag(name: str, value: str) -> str:
    flag = "--" + name.replace("_", "-")
    return flag if value == "True" else f"{flag} {value}"
