"""The recipes of docs/extending.md do what they say, in as many files as they say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.photos import save_row

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = dict(re.findall(r"^## An? ([a-z ]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
OUTPUTS = {
    "aggregator": "torch.Size([1, 144])",
    "vector store": "True",
    "reader": "32T {'b.jpg': 'no position'}",
    "export format": "torch.Size([3, 2688])",
    "encoder": "9 True",
    "descriptor model": "9 True",
    "family": "DeiT, 0.0 M parameters {'pool': 'cls'}",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Apply all recipes to a copy of the package, in the layout of the wheel, and return the output of their examples."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "d2vpr_hf", tree / "d2vpr_hf", ignore=ignored)
    shutil.copytree(ROOT / "modeling", tree / "modeling", ignore=ignored)
    for section in SECTIONS.values():
        for name, text in _changes(section):
            if name.endswith(".diff"):
                subprocess.run(["git", "apply"], input=text, text=True, check=True, cwd=tree, capture_output=True)
            else:
                (tree / name).write_text(text, encoding="utf-8")
    (tree / "modeling").rename(tree / "d2vpr_hf" / "modeling")
    save_row(tree / "PHOTOS")
    for name, section in SECTIONS.items():
        examples = [text for _, text in BLOCK.findall(section) if text.splitlines()[0].endswith(" example")]
        (tree / f"{name.replace(' ', '_')}_example.py").write_text("\n".join(examples), encoding="utf-8")
    files = [f"{name.replace(' ', '_')}_example.py" for name in SECTIONS]
    code = f"import runpy\nfor file in {files}:\n    runpy.run_path(file)\n    print('----')\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(SECTIONS, done.stdout.split("----\n"), strict=False))


def _changes(section):
    """Yield the new files and the diffs of a recipe; the example is neither."""
    for language, text in BLOCK.findall(section):
        first = text.splitlines()[0]
        if language == "diff":
            yield f"{first.removeprefix('--- a/')}.diff", text
        elif first.endswith(".py"):
            yield first.removeprefix("# "), text


def test_there_is_a_recipe_for_each_thing_to_add():
    assert set(SECTIONS) == set(OUTPUTS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_recipe_touches_few_files(name):
    assert len(list(_changes(SECTIONS[name]))) <= 3


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_recipe_works(outputs, name):
    """A renamed method, table or file would leave a newcomer with a recipe that fails."""
    assert outputs[name].strip() == OUTPUTS[name]
