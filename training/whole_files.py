"""Files and folders that appear whole or not at all."""

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError

WRITING_ERRORS = (OSError, RuntimeError, SafetensorError)  # a full disk, in the words of Python, torch and safetensors


def replace_file(path: Path, text: str) -> None:
    """Write a text file; until all of it is on the disk, what was there stays."""
    scratch = path.with_name(f".{path.name}.writing")
    try:
        scratch.write_text(text, encoding="utf-8")
        _flush(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def make_empty(folder: Path) -> None:
    """Make a folder, without what an earlier run may have left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def replace_folder(new: Path, place: Path) -> None:
    """Bring a finished folder to its place for good; what was there goes."""
    for path in [*new.rglob("*"), new]:
        _flush(path)
    old = _old(place)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    _flush(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(place: Path) -> None:
    """Bring back what [`replace_folder`] had moved away when it was killed, if the new one did not come to its place."""
    if _old(place).exists() and not place.exists():
        _old(place).rename(place)


def _old(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call for folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["WRITING_ERRORS", "make_empty", "replace_file", "replace_folder", "restore_folder"]
