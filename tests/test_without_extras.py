"""The package with the extra `models` alone: what works on folders of photos, and errors that name the extra of the rest."""

import importlib.metadata
import json
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests.command_line import PROGRAM
from tests.photos import save_row
from tests.warm_python import PACKAGE, WarmPython

EXTRAS = {  # modules that an installation with the extra `models` alone does not have
    "accelerate": "train",
    "bitsandbytes": "dev",
    "datasets": "datasets",
    "gradio": "demo",
    "h5py": "hdf5",
    "matplotlib": "plots",
    "mcp": "demo",
    "milvus_lite": "milvus",
    "onnx": "export",
    "onnxruntime": "onnxruntime",
    "onnxscript": "export",
    "openvino": "openvino",
    "optimum": "dev",
    "pandas": "datasets",
    "peft": "dev",
    "pymilvus": "milvus",
    "pytorch_metric_learning": "train",
    "sentence_transformers": "dev",
    "sklearn": "train",
    "tensorboard": "dev",
}
HIDE = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
hidden = {set(EXTRAS)}
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.partition(".")[0] in hidden else find(name, *rest))
"""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def run():
    """Return a function that runs a command in a process that cannot import the libraries of extras."""
    warm = WarmPython(HIDE + PACKAGE, ENVIRONMENT)
    return lambda cwd, *arguments: warm.run(PROGRAM, *arguments, cwd=cwd, environment=ENVIRONMENT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos and their index, which a new process builds."""
    folder = tmp_path_factory.mktemp("core")
    save_row(folder / "photos")
    command = [sys.executable, "-c", HIDE + PROGRAM, "index", "photos", "--out", "index"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_folders_are_searched_and_evaluated(folder, run):
    photo = sorted((folder / "photos").iterdir())[3]
    results = {}
    for name, *arguments in (
        ("info", "index", "--json"),
        ("search", "index", photo, "--top-k", "2", "--json"),
        ("localize", "index", photo, "--json"),
        ("evaluate", "--database", "photos", "--queries", "photos", "--json", "report.json"),
    ):
        results[name] = run(folder, name, *arguments)
        assert results[name].returncode == 0, (name, results[name].stderr)
    assert json.loads(results["info"].stdout)["count"] == 9
    assert photo.name in results["search"].stdout
    assert "recall at 100 % precision 100.0" in results["evaluate"].stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("index", "--dataset", "user/streets", "--out", "other"), "datasets"),
        (("search", "index", "PHOTO", "--plot", "matches.png"), "plots"),
        (("evaluate", "--database", "photos", "--queries", "photos", "--plots", "pictures"), "plots"),
        (("calibrate", "index", "--queries", "photos", "--plots", "pictures"), "plots"),
        (("demo", "--out", "demo"), "plots"),
        (("space",), "demo"),
        (("export", "embedded", "graph", "--format", "onnx"), "export"),
        (("export", "embedded", "graph", "--format", "openvino"), "export"),
        (("search", "index", "PHOTO", "--backend", "openvino"), "export"),
        (("index", "photos", "--out", "other", "--store", "milvus", "--uri", "places.db"), "milvus"),
    ],
)
def test_an_error_names_the_extra(folder, run, arguments, extra):
    photo = next((folder / "photos").iterdir())
    done = run(folder, *(photo if argument == "PHOTO" else argument for argument in arguments))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"d2vpr-hf[{extra}]" in done.stderr.replace("\n", ""), done.stderr
    assert {path.name for path in folder.iterdir()} <= {"photos", "index", "report.json"}


def test_the_extras_exist():
    """Their names are those of the errors, and what they install is not installed without them."""
    requirements = [Requirement(line) for line in importlib.metadata.requires("d2vpr-hf")]
    core = {each.name.replace("-", "_") for each in requirements if each.marker is None}
    assert not core & ({"torch", "transformers"} | set(EXTRAS))
    models = {each.name for each in requirements if each.marker and each.marker.evaluate({"extra": "models"})}
    assert models == {"torch", "transformers"}
    assert set(EXTRAS.values()) <= set(importlib.metadata.metadata("d2vpr-hf").get_all("Provides-Extra"))
