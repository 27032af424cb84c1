"""Imports of optional libraries, which the extras of this package install."""

import importlib
from types import ModuleType


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(f'{name} cannot be imported ({error}): pip install "d2vpr-hf[{extra}]" installs it.') from error
