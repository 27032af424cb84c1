"""How the scripts of both stages start and end."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from transformers.utils.logging import disable_progress_bar

from d2vpr_hf.training.options import Options, parse_options


def run_script(kind: type[Options], train: Callable[[Options], Any]) -> None:
    """Run a stage with the options of the command line; what the user can put right is one line on stderr and status 1."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("d2vpr_hf").setLevel(logging.INFO)
    disable_progress_bar()  # transformers draws one for every file it writes
    try:
        train(parse_options(kind, sys.argv[1:]))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.stderr.write(f"{type(error).__name__}: {_message(error)}\n")
        sys.exit(1)


def _message(error: Exception) -> str:
    """Return an error's message; of one that a loading process raised, without that process's traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if "in DataLoader worker process" in text else text
