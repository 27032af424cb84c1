"""Imports of optional libraries, which the extras of this package install."""

import importlib
import importlib.util
from types import ModuleType


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, extra, str(error)) from error


def check_extra(module: str, extra: str) -> None:
    """Check that an optional library is installed, without importing it.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra, "it is not installed")


def _missing(module: str, extra: str, reason: str) -> ImportError:
    return ImportError(
        f'{module.partition(".")[0]} cannot be imported ({reason}): pip install "d2vpr-hf[{extra}]" installs it.'
    )
