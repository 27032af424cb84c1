"""An int8 export, which takes ten seconds, made once for all tests of this folder."""

import pytest
from typer.testing import CliRunner

from d2vpr_hf.cli.commands import app
from tests.photos import at_name, save


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for i in range(6):
        for side in ("database", "queries"):
            save(folder / side / at_name(500_000 + 100 * i, 4_000_000), i)
    return folder


@pytest.fixture(scope="session")
def quantised(tmp_path_factory, tiny_folder, world):
    """ONNX, int8, by the command line; and what it said."""
    out = tmp_path_factory.mktemp("int8") / "out"
    options = [
        "--precision",
        "int8",
        "--photos",
        world / "queries",
        "--database",
        world / "database",
        "--queries",
        world / "queries",
    ]
    done = CliRunner().invoke(app, ["export", str(tiny_folder), str(out), *map(str, options)], catch_exceptions=False)
    return out, done.output
