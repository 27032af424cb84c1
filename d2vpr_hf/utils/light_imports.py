"""Imports that spare a program torch and transformers, which take seconds to load. This module loads no library."""

import importlib.util
import sys
import threading
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_IMPORTS = threading.Lock()


def loaded_torch() -> Any:
    """Return torch if the program has imported it already, otherwise `None`."""
    if sys.modules.get("torch") is None:
        return None
    import torch  # waits for an import that another thread has begun

    return torch


def import_alone(name: str) -> ModuleType:
    """Import a module of a package without running the package's `__init__.py`.

    An import of the whole package finds the same module later, so that its constants and classes exist once.

    Args:
        name: Full name of a module that imports no other module of its package.
    """
    with _IMPORTS:
        if name in sys.modules:
            return sys.modules[name]
        package = importlib.util.find_spec(name.rpartition(".")[0])
        spec = None if package is None else PathFinder.find_spec(name, package.submodule_search_locations)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"There is no module {name}.", name=name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
