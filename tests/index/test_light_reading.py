"""An index is read without the libraries that encode and search: they take seconds to load, also to print a line."""

import subprocess
import sys

import numpy as np
import pytest

from tests.index.workers import begin, frame

HEAVY = ("torch", "transformers", "datasets", "faiss")

READING = """
import sys
from d2vpr_hf.index import PlaceIndex
index = PlaceIndex.open(sys.argv[1])
assert index.info()["count"] == 8 and index.verify() == [] and len(list(index.places)) == 8
assert index.descriptors[:].shape == (8, 16) and index.settings.fingerprint == "bytes"
"""
COMMAND = """
import sys
from d2vpr_hf.cli.commands import app
sys.argv = ["d2vpr", *sys.argv[1:]]
try:
    app()
except SystemExit as error:
    assert not error.code, error.code
"""
LOADED = f"print('loaded:', sorted(set({HEAVY}) & set(sys.modules)))"


def loaded(program: str, *arguments: str) -> str:
    """Run a program in a new process and return the heavy libraries that it loaded, as it prints them."""
    run = subprocess.run([sys.executable, "-c", program + LOADED, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].removeprefix("loaded: ")


@pytest.fixture(params=["none", "half", "int8", "bits"])
def folder(request, tmp_path):
    with begin(tmp_path / "index", dtype="float32") as index:
        for number in range(8):
            index.add(*frame(number))
        index.build_store(request.param)
    assert index.search(frame(3)[0], 1)[0][0].row == 3
    return index.folder


def test_the_library_reads_an_index_without_heavy_imports(folder):
    """A store in the folder is opened by the first search, not with the index."""
    assert loaded(READING, str(folder)) == "[]"


@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["search", "--help"]], ids=" ".join)
def test_commands_that_encode_nothing_load_no_heavy_library(tmp_path, arguments):
    with begin(tmp_path / "index") as index:
        index.add(np.eye(16)[:1], frame(0)[1])
    paths = [str(index.folder)] if arguments[0] == "info" else []
    assert loaded(COMMAND, *arguments, *paths) == "[]"
