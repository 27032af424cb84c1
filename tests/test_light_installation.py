"""The package without torch, as `pip install "d2vpr-hf[onnxruntime]"` installs it: graphs run, models with weights are refused.

Here a process cannot import these libraries; `make light` runs the same tests where they are not installed.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.photos import save_row

MISSING = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "gradio",
    "matplotlib",
    "onnx",
    "onnxscript",
    "openvino",
)
HIDE = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.partition(".")[0] in {MISSING} else find(name, *rest))
"""
COMMAND = """
from d2vpr_hf.cli import main
sys.argv = ["d2vpr", *sys.argv[1:]]
main()
"""
IMPORTS = """
import importlib
import d2vpr_hf
for name in ("PlaceIndex", "PlaceEncoder", "index_photos", "search_photos", "localize_photos", "read_places", "evaluate"):
    getattr(d2vpr_hf, name)
uses = (
    lambda: d2vpr_hf.D2VPRModel,
    lambda: d2vpr_hf.load_model,
    lambda: d2vpr_hf.simulate,
    lambda: d2vpr_hf.PlaceEncoder(),
    lambda: importlib.import_module("d2vpr_hf.modeling"),
)
for number, use in enumerate(uses):
    try:
        use()
    except ImportError as error:
        assert 'pip install "d2vpr-hf[models]"' in str(error), error
    else:
        raise AssertionError(f"use {number} raised no error")
"""


def run(cwd, program, *arguments):
    environment = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HIDE + program, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos, the graph of the embedded model, and an index that was built with the graph."""
    folder = tmp_path_factory.mktemp("light")
    save_row(folder / "photos")
    if "D2VPR_GRAPH" in os.environ:
        (folder / "graph").symlink_to(Path(os.environ["D2VPR_GRAPH"]).resolve())
    elif importlib.util.find_spec("onnxscript") is None:
        pytest.skip("no graph: `make light` makes one")
    else:
        export_tiny_model(folder)
    done = run(folder, COMMAND, "index", "photos", "--model", "graph", "--out", "index")
    assert done.returncode == 0, done.stderr
    return folder


def export_tiny_model(folder):
    """Write the graph of a tiny random model, in this process, which has torch."""
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder
    from d2vpr_hf.export import export
    from tests.conftest import save_folder, tiny_model

    save_folder(tiny_model(), folder / "model")
    export(PlaceEncoder(folder / "model"), folder / "graph")


def test_a_graph_does_the_whole_job(folder):
    photo = sorted((folder / "photos").iterdir())[3]
    results = {}
    for name, *arguments in (
        ("info", "index", "--json"),
        ("search", "index", photo, "--top-k", "2", "--json"),
        ("localize", "index", photo, "--json"),
        ("evaluate", "--database", "photos", "--queries", "photos", "--model", "graph"),
    ):
        results[name] = run(folder, COMMAND, name, *arguments)
        assert results[name].returncode == 0, (name, results[name].stderr)
    assert json.loads(results["info"].stdout)["count"] == 9
    assert photo.name in results["search"].stdout
    assert json.loads(results["localize"].stdout)[0]["matches"][0]["path"].endswith(photo.name)


def test_doctor_examines_an_installation_without_torch(folder):
    done = run(folder, COMMAND, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    sections = json.loads(done.stdout)["sections"]
    assert sections["backends"]["torch"] is None and sections["self-test"]["passed"] is True
    assert "needs torch" in sections["self-test"]["subject"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "index", "photos", "--model", "embedded"),
        ("export", "embedded", "other"),
        ("convert", "weights.pth", "other"),
        ("simulate", "other", "--places", "4", "--seed", "1"),
    ],
)
def test_an_error_names_the_extra_for_models(folder, arguments):
    done = run(folder, COMMAND, *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert 'pip install "d2vpr-hf[models]"' in done.stderr.replace("\n", " "), done.stderr
    assert not (folder / "other").exists()


def test_the_library_names_the_extra_for_models(tmp_path):
    done = run(tmp_path, IMPORTS)
    assert done.returncode == 0, done.stderr
