"""Libraries that are installed only where they are wanted."""

import importlib
from types import ModuleType


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a library of an extra of this package.

    Raises:
        ImportError: If it is not installed; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(f'{name} cannot be imported ({error}): pip install "d2vpr-hf[{extra}]" brings it.') from error
