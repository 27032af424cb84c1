"""Publish the Space: its folder and a wheel of this package go to the Hugging Face Hub together, in one commit."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url

_PACKAGE = Path(__file__).parents[1]
_SOURCES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "d2vpr_hf",
    "modeling",
    "training",
    "spaces",
)  # what a wheel is built from
_REQUIREMENT = "d2vpr-hf[demo]"
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", ".*", "*.whl")


def find_space_folder(package: Path = _PACKAGE) -> Path:
    """Return the folder of the Space's own files: part of the wheel, or beside the package in the source tree.

    Raises:
        FileNotFoundError: If it is in neither place.
    """
    for folder in (package / "spaces", package.parent / "spaces"):
        if (folder / "app.py").is_file():
            return folder
    raise FileNotFoundError(f"The Space's folder is neither in {package} nor beside it: install d2vpr-hf again.")


def push_space(
    name: str,
    *,
    wheel: Path | None = None,
    variables: Mapping[str, str] | None = None,
    private: bool | None = None,
    commit_message: str = "Upload the Space",
    token: str | None = None,
) -> str:
    """Put the Space on the Hugging Face Hub, with a wheel of this package that its requirements point to.

    The Hub installs the wheel by its public address, so the builder of a private Space cannot fetch it.

    Args:
        name: The Space, such as `"user/where"`; made if there is none.
        wheel: Of this package; by default built from the source tree.
        variables: Set in the Space's environment, such as `{"D2VPR_INDEX": "user/my-index"}`.
        private: Whether a new Space is private; `None` leaves it to the account's settings.
        commit_message: Of the upload.
        token: Access token; by default the one that is logged in with.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: If the wheel, the Space's folder or the source tree is not there.
        ValueError: If the wheel cannot be built.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        built = build_wheel(Path(scratch) / "wheel") if wheel is None else _check_wheel(wheel)
        repository = api.create_repo(name, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        folder = stage_space(Path(scratch) / "space", built, repository.repo_id)
        for key, value in (variables or {}).items():
            api.add_space_variable(repository.repo_id, key, value)
        commit = api.upload_folder(
            repo_id=repository.repo_id,
            repo_type="space",
            folder_path=folder,
            delete_patterns=["*.whl"],
            commit_message=commit_message,
        )
    return str(commit.commit_url)


def stage_space(out: Path, wheel: Path, name: str) -> Path:
    """Collect in a folder what is uploaded: the Space's files, the wheel, and requirements that name it with its hash.

    The hash makes the Hub install a wheel anew that has the version of the one before.
    """
    shutil.copytree(find_space_folder(), out, ignore=_LEFT_BEHIND)
    shutil.copy(wheel, out / wheel.name)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    address = f"{_REQUIREMENT} @ {hf_hub_url(name, wheel.name, repo_type='space')}#sha256={digest}"
    requirements = out / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines()
    requirements.write_text("\n".join(address if line == _REQUIREMENT else line for line in lines) + "\n", encoding="utf-8")
    return out


def build_wheel(out: Path) -> Path:
    """Build a wheel of this package from its source tree, in a copy, so that nothing of earlier builds gets into it.

    Raises:
        FileNotFoundError: If this package is installed without its sources.
        ValueError: If pip cannot build it.
    """
    root = _PACKAGE.parent
    if not (root / "pyproject.toml").is_file():
        raise FileNotFoundError(
            "A wheel is built from the source tree, and this package is installed without it. Give one with `--wheel`, or run "
            "this in a clone of the repository with `pip install -e .`."
        )
    with tempfile.TemporaryDirectory() as scratch:
        _copy_sources(root, Path(scratch))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), scratch]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"The wheel could not be built: {done.stderr.strip()[-1000:]}")
    return next(out.glob("*.whl"))


def _copy_sources(root: Path, out: Path) -> None:
    for name in _SOURCES:
        if (root / name).is_dir():
            shutil.copytree(root / name, out / name, ignore=_LEFT_BEHIND)
        else:
            shutil.copy(root / name, out)


def _check_wheel(wheel: Path) -> Path:
    if not (wheel.is_file() and wheel.suffix == ".whl"):
        raise FileNotFoundError(f"There is no wheel {wheel}; expected a file such as d2vpr_hf-0.1.0-py3-none-any.whl.")
    return wheel
