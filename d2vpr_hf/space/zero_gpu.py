"""ZeroGPU, the Hub's shared GPUs: a Space has one only while a function that is decorated by `spaces.GPU` runs.

The package `spaces` runs such a function in a process that it forks: arguments and results are pickled. It refuses to start a
Space without a decorated function. A folder of this repository is called `spaces` too, so the package is only imported on
ZeroGPU, and checked.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def is_zero_gpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this Space runs on ZeroGPU, by the variable that the package `spaces` reads."""
    return environment.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def import_spaces() -> ModuleType | None:
    """Import the package `spaces` on ZeroGPU, which must happen before torch uses a GPU; elsewhere return `None`.

    Raises:
        ImportError: If there is no such package, or another one of this name.
    """
    if not is_zero_gpu():
        return None
    spaces = importlib.import_module("spaces")
    if not hasattr(spaces, "GPU"):
        raise ImportError(
            f"The package `spaces` of the Hub is needed on ZeroGPU, and {list(spaces.__path__)} was imported. Run app.py in a "
            "folder without a folder `spaces`."
        )
    return spaces


def on_gpu(function: Callable[..., Any], seconds: Callable[..., int]) -> Callable[..., Any]:
    """Return a function that has a GPU while it runs on ZeroGPU; elsewhere the function itself.

    Args:
        function: A function of picklable arguments and results.
        seconds: Returns the longest time that it takes, from the same arguments.
    """
    spaces = import_spaces()
    return function if spaces is None else spaces.GPU(duration=seconds)(function)
