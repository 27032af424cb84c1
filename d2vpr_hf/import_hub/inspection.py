"""Read the licence, entries and dependencies of a repository from its files. None of them is executed."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

_LICENSE_NAMES = re.compile(r"(un)?licen[cs]e([-._].*)?|copying([-._].*)?", re.IGNORECASE)
_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_MAX_SOURCE = 4 << 20  # bytes of a Python file that is parsed

# the text that begins first decides: licences of one family name each other further down
_LICENSE_TEXTS = (
    ("GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL-3.0"),
    ("GNU LESSER GENERAL PUBLIC LICENSE", "LGPL-3.0"),
    ("GNU GENERAL PUBLIC LICENSE Version 3", "GPL-3.0"),
    ("GNU GENERAL PUBLIC LICENSE Version 2", "GPL-2.0"),
    ("Apache License Version 2.0", "Apache-2.0"),
    ("Mozilla Public License Version 2.0", "MPL-2.0"),
    ("Attribution-NonCommercial-NoDerivatives 4.0", "CC-BY-NC-ND-4.0"),
    ("Attribution-NonCommercial-ShareAlike 4.0", "CC-BY-NC-SA-4.0"),
    ("Attribution-NonCommercial 4.0", "CC-BY-NC-4.0"),
    ("Permission is hereby granted, free of charge", "MIT"),
    ("Redistribution and use in source and binary forms", "BSD-2-Clause"),
)


@dataclass(frozen=True)
class Inspection:
    """Contents of a repository.

    Attributes:
        license_file: Name of the licence's file; `None` if there is none.
        license: SPDX identifier that the text of the file has; `None` without a file, or for another text.
        python_files: Names of all Python files, sorted.
        num_files: Number of all files.
        entries: Public names of functions and classes of `hubconf.py`; imported ones are among them.
        imports_all: Whether `hubconf.py` has `from ... import *`, so that there may be more entries.
        dependencies: Packages that `hubconf.py` lists in `dependencies`.
        repositories: Other repositories that the code loads by `torch.hub.load`, such as `facebookresearch/dinov2`.
    """

    license_file: str | None
    license: str | None
    python_files: tuple[str, ...]
    num_files: int
    entries: tuple[str, ...]
    imports_all: bool
    dependencies: tuple[str, ...]
    repositories: tuple[str, ...]

    @property
    def missing_dependencies(self) -> list[str]:
        """The dependencies that are not installed here."""
        return [name for name in self.dependencies if not _is_installed(name.partition(".")[0])]

    def check_entry(self, entry: str) -> None:
        """Raise ValueError if `hubconf.py` certainly has no entry of a name."""
        if entry not in self.entries and not self.imports_all:
            raise ValueError(f"hubconf.py has no entry {entry!r}. It has: {', '.join(self.entries) or 'none'}.")


def inspect_code(folder: Path) -> Inspection:
    """Read the files of a repository.

    Raises:
        FileNotFoundError: If there is no `hubconf.py`.
        ValueError: If `hubconf.py` is not Python.
    """
    hubconf = folder / "hubconf.py"
    if not hubconf.is_file():
        raise FileNotFoundError("The repository has no hubconf.py at its top, so that torch.hub cannot load it.")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    python_files = tuple(name for name in files if name.endswith(".py"))
    tree = _parse(hubconf)
    if tree is None:
        raise ValueError("hubconf.py is not valid Python of this version.")
    license_file = next((name for name in files if _LICENSE_NAMES.fullmatch(name)), None)
    repositories = {name for file in python_files for name in _loaded_repositories(_parse(folder / file))}
    return Inspection(
        license_file,
        None if license_file is None else recognise_license((folder / license_file).read_text("utf-8", "replace")),
        python_files,
        len(files),
        _entries(tree),
        any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body),
        _dependencies(tree),
        tuple(sorted(repositories)),
    )


def recognise_license(text: str) -> str | None:
    """Return the SPDX identifier of a licence's text; `None` if it is none of the usual ones."""
    joined = _plain_text(text)
    positions = {joined.find(_plain_text(beginning)): identifier for beginning, identifier in _LICENSE_TEXTS}
    positions.pop(-1, None)  # of texts that are not in it
    first = positions[min(positions)] if positions else None
    return "BSD-3-Clause" if first == "BSD-2-Clause" and "neither the name of" in joined else first


def _is_installed(name: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ValueError, ImportError):  # of modules that were made without a file
        return False


def _plain_text(text: str) -> str:
    return re.sub(r"[\s,]+", " ", text).lower()


def _parse(path: Path) -> ast.Module | None:
    """Parse a Python file; `None` if it is too large or not valid."""
    if path.stat().st_size > _MAX_SOURCE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of escapes in the texts of other people's code
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _entries(tree: ast.Module) -> tuple[str, ...]:
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names if alias.name != "*"]
        elif isinstance(node, ast.Assign) and not isinstance(node.value, ast.Constant | ast.List | ast.Tuple | ast.Dict):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return tuple(dict.fromkeys(name for name in names if not name.startswith("_")))


def _dependencies(tree: ast.Module) -> tuple[str, ...]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(it, ast.Name) and it.id == "dependencies" for it in node.targets):
            try:
                value = ast.literal_eval(node.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                return ()
            names = value if isinstance(value, list | tuple) else ()
            return tuple(name for name in names if isinstance(name, str) and _PACKAGE.fullmatch(name))
    return ()


def _is_hub_load(function: ast.expr) -> bool:
    """Return whether a function is `torch.hub.load` or `hub.load`."""
    if not isinstance(function, ast.Attribute) or function.attr != "load":
        return False
    module = function.value
    return getattr(module, "attr", None) == "hub" or getattr(module, "id", None) == "hub"


def _loaded_repositories(tree: ast.Module | None) -> set[str]:
    """Return the repositories that calls of `torch.hub.load` name."""
    if tree is None:
        return set()
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_hub_load(node.func))
    names = {
        arg.value for call in calls for arg in call.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
    }
    return {name.partition(":")[0] for name in names if re.fullmatch(r"[\w-]+/[\w.-]+(:.+)?", name)}
