"""docs/architecture.md is true: every file has its place on the map, and every step of a walk exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALKS = PAGE.split("## Three walks")[1].split("## Decisions")[0]
STEP = re.compile(r"`([A-Za-z_]\w*)(?:\.(\w+))?`[^`]{0,60}?\(`?([\w/]+\.py)`?\)|\(`([a-z_]\w*)`,\s+`([\w/]+\.py)`\)")


def steps():
    for name, method, file, function, other_file in STEP.findall(WALKS):
        yield (name or function, method, file or other_file)


def test_the_map_names_every_file():
    """A file that is not on the map is a file that a newcomer does not find."""
    files = [path for folder in ("modeling", "d2vpr_hf", "training") for path in (ROOT / folder).rglob("*.py")]
    missing = [str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py" and f"`{path.name}`" not in PAGE]
    assert not missing


@pytest.mark.parametrize(("name", "method", "file"), sorted(set(steps())))
def test_a_step_of_a_walk_exists(name, method, file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined, f"{file} defines no {name}"
    assert not method or method in {node.name for node in ast.walk(defined[name]) if isinstance(node, ast.FunctionDef)}


def test_the_walks_are_short():
    for walk in WALKS.split("\n**")[1:]:
        assert len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) <= 10
    assert len(set(steps())) >= 18  # the pattern finds the steps
