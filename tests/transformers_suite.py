"""transformers' own common model tests, of exactly the installed version.

They are not in its wheel but in its source distribution. `python tests/transformers_suite.py` fetches that into `.cache/`
(`make test` does so), with the hash of locks/ for the version there; `load_suite()` imports them from there.
"""

import importlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import transformers

NAME = f"transformers-{transformers.__version__}"
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".cache" / NAME / "tests"
PACKAGE = "transformers_suite_tests"
# two base classes come from folders that the source distribution leaves out; they test exporting and text generation
ABSENT = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}


def fetch_suite() -> None:
    """Download the source distribution from the package index and unpack its tests."""
    if FOLDER.is_dir():
        return
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(_requirement(transformers.__version__), encoding="utf-8")
        command = ["download", "--quiet", "--no-deps", "--no-binary", "transformers", "--dest", scratch]
        command += ["--requirement", str(requirements)]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
            members = [member for member in archive if member.name.startswith(f"{NAME}/tests/")]
            archive.extractall(FOLDER.parents[1], members, filter="data")


def _requirement(version: str) -> str:
    """Return pip's requirement of transformers; the locked version has hashes, which pip then checks."""
    packages = (ROOT / "locks" / "packages.txt").read_text(encoding="utf-8")
    locked = re.search(rf"^transformers=={re.escape(version)} .*\n(?:    --hash.*\n)+", packages, re.MULTILINE)
    return locked[0] if locked else f"transformers=={version}\n"


def load_suite() -> ModuleType:
    """Import the common model tests.

    Raises:
        FileNotFoundError: If they were not fetched.
    """
    if not FOLDER.is_dir():
        raise FileNotFoundError(f"{FOLDER} is missing; `python tests/transformers_suite.py` fetches it.")
    _package(PACKAGE, [str(FOLDER)])
    for name, mixin in ABSENT.items():
        folder, _ = name.split(".")
        _package(f"{PACKAGE}.{folder}", [])
        stand_in = ModuleType(f"{PACKAGE}.{name}")
        setattr(stand_in, mixin, type(mixin, (), {}))
        sys.modules[stand_in.__name__] = stand_in
    return importlib.import_module(f"{PACKAGE}.test_modeling_common")


def _package(name: str, path: list[str]) -> None:
    package = ModuleType(name)
    package.__path__ = path
    sys.modules[name] = package


if __name__ == "__main__":
    fetch_suite()
