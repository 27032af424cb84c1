"""Publish the Space: upload its folder and a wheel of this package to the Hugging Face Hub in one commit."""

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
)  # files and folders that the wheel is built from
_REQUIREMENT = "d2vpr-hf[demo]"
_IGNORE = shutil.ignore_patterns("__pycache__", ".*", "*.whl")


def find_space_folder(package: Path = _PACKAGE) -> Path:
    """Return the folder of the Space's files: in the installed package, or next to the package in the source tree.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    for folder in (package / "spaces", package.parent / "spaces"):
        if (folder / "app.py").is_file():
            return folder
    raise FileNotFoundError(f"There is no folder of the Space in {package} or next to it. Install d2vpr-hf again.")


def push_space(
    name: str,
    *,
    wheel: Path | None = None,
    variables: Mapping[str, str] | None = None,
    private: bool | None = None,
    commit_message: str = "Upload the Space",
    token: str | None = None,
) -> str:
    """Upload the Space to the Hugging Face Hub, with a wheel of this package that its requirements name.

    The Hub installs the wheel by its public address, so the builder of a private Space cannot fetch it.

    Args:
        name: The Space, such as `"user/where"`; it is created if there is none.
        wheel: Wheel of this package; by default one is built from the source tree.
        variables: Environment variables of the Space, such as `{"D2VPR_INDEX": "user/my-index"}`.
        private: Whether a new Space is private; `None` for the account's default.
        commit_message: Message of the commit.
        token: Access token; by default that of `hf auth login`.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: If the wheel, the Space's folder or the source tree is missing.
        ValueError: If the wheel cannot be built.
    """
    if wheel is not None and not (wheel.is_file() and wheel.suffix == ".whl"):
        raise FileNotFoundError(f"There is no wheel {wheel}; expected a file such as d2vpr_hf-0.1.0-py3-none-any.whl.")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch) / "wheel") if wheel is None else wheel
        repository = api.create_repo(name, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        folder = stage_space(Path(scratch) / "space", wheel, repository.repo_id)
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
    """Make the folder to upload: the Space's files, the wheel, and requirements that name the wheel with its hash.

    The hash makes the Hub install a new wheel that has the same version as the one before.
    """
    shutil.copytree(find_space_folder(), out, ignore=_IGNORE)
    shutil.copy(wheel, out / wheel.name)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    address = f"{_REQUIREMENT} @ {hf_hub_url(name, wheel.name, repo_type='space')}#sha256={digest}"
    requirements = out / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines()
    requirements.write_text("\n".join(address if line == _REQUIREMENT else line for line in lines) + "\n", encoding="utf-8")
    return out


def build_wheel(out: Path) -> Path:
    """Build a wheel of this package from a copy of its source tree, so that files of earlier builds cannot get into it.

    Raises:
        FileNotFoundError: If this package is installed without its sources.
        ValueError: If pip cannot build it.
    """
    root = _PACKAGE.parent
    if not (root / "pyproject.toml").is_file():
        raise FileNotFoundError(
            "A wheel is built from the source tree, and this package is installed without it. Give `wheel=...`, or run this in "
            "a clone of the repository with `pip install -e .`."
        )
    with tempfile.TemporaryDirectory() as scratch:
        for name in _SOURCES:
            if (root / name).is_dir():
                shutil.copytree(root / name, Path(scratch) / name, ignore=_IGNORE)
            else:
                shutil.copy(root / name, scratch)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), scratch]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"The wheel could not be built: {done.stderr.strip()[-1000:]}")
    return next(out.glob("*.whl"))
