"""Visual place recognition with D²-VPR: find out where a photo was taken, by comparing it with photos of known positions.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that `import d2vpr_hf` is quick.
"""

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import Any

# In the repository root Python finds this folder before the installed package; its subpackages `modeling` and `training`
# are then found through the installation.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"

_MODULES = {  # public name: module that defines it
    alias.name: node.module
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom) and node.module is not None
    for alias in node.names
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        from d2vpr_hf.utils.optional_imports import name_models_extra

        raise name_models_extra(error) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
