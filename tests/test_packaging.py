"""What is installed: everything, importable from anywhere, and quickly."""

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

import d2vpr_hf

ROOT = Path(__file__).parents[1]
_SPACE_SUFFIXES = {".py", ".css", ".js", ".md", ".txt"}


def python(*arguments, cwd, path=None):
    """Run Python without this session's path; `path` holds an installation to see."""
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    with FileLock(tmp_path_factory.getbasetemp().parent / "wheel.lock"):  # test processes would build in the same folder
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel, unpacked as pip would, beside its dependencies in this environment."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_everything(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"d2vpr_hf/{path.relative_to(ROOT / 'd2vpr_hf').as_posix()}" for path in (ROOT / "d2vpr_hf").rglob("*.py")}
    for room in ("modeling", "training"):
        expected |= {f"d2vpr_hf/{room}/{path.name}" for path in (ROOT / room).glob("*.py")}
    expected |= {f"d2vpr_hf/training/{path.relative_to(ROOT / 'training').as_posix()}"
                 for kind in ("json", "yaml") for path in (ROOT / "training" / "configs").rglob(f"*.{kind}")}  # fmt: skip
    assets = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md")
    expected |= {"d2vpr_hf/py.typed", *(f"d2vpr_hf/assets/d2vpr-tiny/{name}" for name in assets)}
    expected |= {f"d2vpr_hf/spaces/{path.name}" for path in (ROOT / "spaces").iterdir() if path.suffix in _SPACE_SUFFIXES}
    assert expected <= names
    assert {name.split("/")[0] for name in names} == {"d2vpr_hf", f"d2vpr_hf-{d2vpr_hf.__version__}.dist-info"}


SEE_EVERYTHING = "import d2vpr_hf.modeling, d2vpr_hf.training; print(d2vpr_hf.modeling.__file__, d2vpr_hf.D2VPRModel.__name__)"


@pytest.mark.parametrize("anywhere", [True, False])
def test_the_wheel_works_from_anywhere(installed, tmp_path, anywhere):
    """In the repository root Python finds the bare folder first, which has no `modeling` in it."""
    cwd = tmp_path if anywhere else ROOT
    done = python("-c", SEE_EVERYTHING, cwd=cwd, path=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed / "d2vpr_hf" / "modeling" / "__init__.py"), "D2VPRModel"]
    done = python("-m", "d2vpr_hf", "--version", cwd=cwd, path=installed)
    assert done.stdout.strip() == d2vpr_hf.__version__, done.stderr


@pytest.mark.parametrize("anywhere", [True, False])
def test_the_current_installation_works_from_anywhere(tmp_path, anywhere):
    done = python("-c", SEE_EVERYTHING, cwd=tmp_path if anywhere else ROOT)
    assert done.returncode == 0, done.stderr


def fastest(*arguments, cwd):
    """The least of five runs, start of the interpreter included: other work on the machine only adds."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert python(*arguments, cwd=cwd).returncode == 0
        times.append(time.perf_counter() - start)
    return min(times)


def test_importing_and_helping_are_quick(tmp_path):
    assert fastest("-c", "import d2vpr_hf", cwd=tmp_path) < 0.2
    assert fastest("-m", "d2vpr_hf", "--help", cwd=tmp_path) < 0.7


def test_importing_is_silent_and_changes_nothing(tmp_path):
    code = "import sys, d2vpr_hf; print(sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)))"
    done = python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_all_public_names_exist():
    for name in d2vpr_hf.__all__:
        assert callable(getattr(d2vpr_hf, name)), name
    assert set(d2vpr_hf.__all__) <= set(dir(d2vpr_hf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        d2vpr_hf.nothing  # noqa: B018


def test_touching_a_class_registers_it(tmp_path):
    code = "import d2vpr_hf; d2vpr_hf.D2VPRConfig; from transformers import AutoConfig; AutoConfig.for_model('d2vpr')"
    assert python("-c", code, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("stage", ["distill", "finetune"])
def test_training_starts_from_the_wheel_and_as_a_script(installed, tmp_path, stage):
    """A script's own folder comes first on Python's path: no file there may be named like a library."""
    as_module = python("-m", f"d2vpr_hf.training.{stage}", "--help", cwd=tmp_path, path=installed)
    as_script = python(str(ROOT / "training" / f"{stage}.py"), "--help", cwd=tmp_path, path=installed)
    for done in (as_module, as_script):
        assert done.returncode == 0, done.stderr
        assert "--places-per-batch" in done.stdout
