"""Measure the structure of a source tree: lines, files, rooms, imports, functions and helpers.

python benchmarks/structure.py                       # this tree, as JSON
python benchmarks/structure.py --tree ../older       # another checkout
python benchmarks/structure.py --helpers             # list short helpers that are called once
"""

import argparse
import ast
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LIBRARY = ("d2vpr_hf", "training", "spaces")  # without `modeling`, which is published unchanged
SHORT = 2  # statements of a short helper


def modules(tree: Path, folders: tuple[str, ...] = LIBRARY) -> dict[str, ast.Module]:
    """Parse the modules of a tree, by their dotted names."""
    parsed = {}
    for folder in folders:
        for path in sorted((tree / folder).rglob("*.py")):
            parts = path.relative_to(tree).with_suffix("").parts
            dotted = ".".join(parts if folder in ("d2vpr_hf", "spaces") else ("d2vpr_hf", *parts))
            parsed[dotted.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions and methods of a module."""
    yield from (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def short_helpers(parsed: dict[str, ast.Module]) -> list[str]:
    """List private functions and methods of at most two statements that are referred to once in the whole tree."""
    references: Counter[str] = Counter()
    for module in parsed.values():
        for node in ast.walk(module):
            if isinstance(node, ast.Name):
                references[node.id] += 1
            elif isinstance(node, ast.Attribute):
                references[node.attr] += 1
    helpers = []
    for name, module in parsed.items():
        for function in functions(module):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            is_private = function.name.startswith("_") and not function.name.startswith("__")
            if is_private and len(body) <= SHORT and references[function.name] == 1:
                helpers.append(f"{name}:{function.lineno} {function.name}")
    return helpers


def import_edges(parsed: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Return the pairs of rooms of which one imports the other."""
    edges = set()
    for name, module in parsed.items():
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("d2vpr_hf"):
                edges.add((room(name), room(node.module)))
    return {(source, target) for source, target in edges if source != target}


def room(module: str) -> str:
    """Return the room of a module: a folder, or a file at the top of the library."""
    return ".".join(module.split(".")[:2])


def measure(tree: Path) -> dict[str, object]:
    """Return the figures of a tree."""
    parsed = modules(tree)
    lengths = [function.end_lineno - function.lineno + 1 for module in parsed.values() for function in functions(module)]  # type: ignore[operator]
    sources = [path for folder in LIBRARY for path in (tree / folder).rglob("*.py")]
    return {
        "files": len(sources),
        "lines": sum(path.read_text(encoding="utf-8").count("\n") for path in sources),
        "loose_files": len(list((tree / "d2vpr_hf").glob("*.py"))),
        "functions": len(lengths),
        "median_function": statistics.median(lengths),
        "short_helpers_called_once": len(short_helpers(parsed)),
        "import_edges_of_rooms": len(import_edges(parsed)),
        "import_edges_of_files": len(file_edges(parsed)),
    }


def file_edges(parsed: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Return the pairs of modules of which one imports the other."""
    pairs = set()
    for name, module in parsed.items():
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and node.module and re.match(r"d2vpr_hf\b", node.module):
                pairs.add((name, node.module))
    return pairs


def main() -> None:
    """Print the figures of a tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--helpers", action="store_true", help="list short helpers that are called once")
    arguments = parser.parse_args()
    if arguments.helpers:
        print("\n".join(short_helpers(modules(arguments.tree))))
    else:
        print(json.dumps(measure(arguments.tree), indent=1))


if __name__ == "__main__":
    main()
