"""The installed package is complete, can be imported from anywhere, and loads nothing that it does not need."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import d2vpr_hf
from tests.warm_python import warm_libraries

ROOT = Path(__file__).parents[1]
SENTENCE_FILES = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"}
_SPACE_SUFFIXES = {".py", ".css", ".js", ".md", ".txt"}
_FOLDERS = (  # of a source distribution
    *(
        ".ci",
        ".github",
        "benchmarks",
        "d2vpr_hf",
        "docker",
        "docs",
        "examples",
        "locks",
        "modeling",
        "spaces",
        "tests",
        "training",
    ),
)
_FILES = {
    *(".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "Makefile", "README.md"),
    *("SECURITY.md", "hubconf.py"),
    *("constraints-lowest.txt", "constraints.txt", "pyproject.toml"),
}


def python(*arguments, cwd, path=None):
    """Run Python without this session's path; `path` holds an installation to see."""
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def warm_python(code, *arguments, cwd, path=None):
    """Run a program as `python` does, in a process that has imported torch and transformers."""
    see = f"import sys; sys.path.insert(1, {str(path)!r})\n" if path else ""
    return warm_libraries().run(see + code, *arguments, cwd=cwd)


def build_wheel(source, folder):
    """Build a wheel of a folder or of a source distribution."""
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the project: a build leaves files next to the sources, and the next one reads them."""
    folder = tmp_path_factory.mktemp("tree")
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def source_distribution(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    command = ["-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder), str(tree)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.tar.gz"))


def files_of(folder):
    """Return the paths of a folder's files that belong to the project, not what Python and the build leave there."""
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel, unpacked as pip would, next to its dependencies in this environment."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_everything_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"d2vpr_hf/{path.relative_to(ROOT / 'd2vpr_hf').as_posix()}" for path in (ROOT / "d2vpr_hf").rglob("*.py")}
    for room in ("modeling", "training"):
        expected |= {f"d2vpr_hf/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / room).rglob("*.py")}
    expected |= {f"d2vpr_hf/training/{path.relative_to(ROOT / 'training').as_posix()}"
                 for kind in ("json", "yaml") for path in (ROOT / "training" / "configs").rglob(f"*.{kind}")}  # fmt: skip
    assets = {"config.json", "model.safetensors", "preprocessor_config.json", "validation.json", "README.md"} | SENTENCE_FILES
    expected |= {"d2vpr_hf/__init__.pyi", "d2vpr_hf/py.typed", *(f"d2vpr_hf/assets/d2vpr-tiny/{name}" for name in assets)}
    expected |= {f"d2vpr_hf/spaces/{path.name}" for path in (ROOT / "spaces").iterdir() if path.suffix in _SPACE_SUFFIXES}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {name.split("/")[0] for name in names} == {"d2vpr_hf", f"d2vpr_hf-{d2vpr_hf.__version__}.dist-info"}


def test_the_source_distribution_is_the_project(source_distribution):
    """`make test` needs the tests and their data, the versions to install, and the files that tests read."""
    with tarfile.open(source_distribution) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    generated = {name for name in names if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert names - generated == _FILES.union(*map(files_of, _FOLDERS))


def test_the_wheel_of_the_source_distribution_is_that_of_the_tree(wheel, source_distribution, tmp_path):
    contents = []
    for path in (wheel, build_wheel(source_distribution, tmp_path)):
        with zipfile.ZipFile(path) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")})
    assert contents[0].keys() == contents[1].keys()
    assert [name for name, content in contents[0].items() if contents[1][name] != content] == []


SEE_EVERYTHING = "import d2vpr_hf.modeling, d2vpr_hf.training; print(d2vpr_hf.modeling.__file__, d2vpr_hf.D2VPRModel.__name__)"


@pytest.mark.parametrize("anywhere", [True, False])
def test_the_wheel_works_from_anywhere(installed, tmp_path, anywhere):
    """In the repository root Python finds the bare folder first, which has no `modeling` in it."""
    cwd = tmp_path if anywhere else ROOT
    done = warm_python(SEE_EVERYTHING, cwd=cwd, path=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed / "d2vpr_hf" / "modeling" / "__init__.py"), "D2VPRModel"]
    done = python("-m", "d2vpr_hf", "--version", cwd=cwd, path=installed)
    assert done.stdout.strip() == d2vpr_hf.__version__, done.stderr


TOUCH = "import d2vpr_hf; d2vpr_hf.D2VPRConfig; from transformers import AutoConfig; AutoConfig.for_model('d2vpr')"


@pytest.mark.parametrize("anywhere", [True, False])
def test_the_current_installation_works_from_anywhere(tmp_path, anywhere):
    """Touching a class registers it; then everything can be imported."""
    done = warm_python(f"{TOUCH}; {SEE_EVERYTHING}", cwd=tmp_path if anywhere else ROOT)
    assert done.returncode == 0, done.stderr


LIST_MODULES = """
import contextlib, io, sys
before = set(sys.modules)
{code}
print(*sorted({{name for name in set(sys.modules) - before if name.split(".")[0] not in sys.stdlib_module_names}}))
"""
IMPORT = "import d2vpr_hf"
HELP = """
from d2vpr_hf.cli import main
sys.argv = ["d2vpr", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main()
"""
TYPER = {"annotated_doc", "click", "markdown_it", "mdurl", "pygments", "rich", "shellingham", "typer", "typing_extensions"}


def loaded_modules(code, cwd):
    """Return the modules outside the standard library that a new process loads to run some code."""
    done = python("-c", LIST_MODULES.format(code=code), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_loads_nothing_else(tmp_path):
    """A library or a room that is imported at the top costs every program that imports the package."""
    assert loaded_modules(IMPORT, tmp_path) == ["d2vpr_hf"]


def test_helping_loads_the_command_line_alone(tmp_path):
    """A room that a command imports at the top, and with it torch or numpy, delays `d2vpr --help` by seconds."""
    modules = loaded_modules(HELP, tmp_path)
    assert {name.split(".")[0] for name in modules} - TYPER == {"d2vpr_hf"}
    rooms = {name for name in modules if name.startswith("d2vpr_hf.")}
    at_once = {"d2vpr_hf.utils", "d2vpr_hf.utils.interrupts", "d2vpr_hf.utils.printable"}  # Ctrl-C, and texts of errors
    assert {name for name in rooms if name.split(".")[1] != "cli"} == at_once


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


HELP_OF_STAGES = """
import runpy, sys
folder = sys.argv[1]
sys.path[0] = folder
for stage in ("distill", "finetune"):
    sys.argv = [stage, "--help"]
    try:
        if folder:
            runpy.run_path(f"{folder}/{stage}.py", run_name="__main__")
        else:
            runpy.run_module(f"d2vpr_hf.training.{stage}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, end.code
"""


@pytest.mark.parametrize("folder", ["", str(ROOT / "training")], ids=["from the wheel", "as scripts"])
def test_training_starts_from_the_wheel_and_as_a_script(installed, tmp_path, folder):
    """A script's own folder comes first on Python's path: no file there may be named like a library."""
    done = warm_python(HELP_OF_STAGES, folder, cwd=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--places-per-batch") == 2
