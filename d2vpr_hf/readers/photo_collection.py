"""The interface of everything that photos are indexed from: tables of files, Hugging Face data sets, other sources."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.photos import PhotoSource
from d2vpr_hf.readers.remarks import Remark


class PhotoCollection(Protocol):
    """Photos with their places."""

    @property
    def count(self) -> int | None:
        """The number of photos, skipped ones included; `None` if it is not known, as for a stream."""

    @property
    def base_folder(self) -> Path:
        """The folder that relative paths of `items` start from; an empty path if the photos have no folder."""

    @property
    def skipped(self) -> Mapping[str, str]:
        """Photos that `items` does not yield, with the reason."""

    @property
    def remarks(self) -> Sequence[Remark]:
        """Lines about files that were skipped, and values that were corrected or assumed."""

    @property
    def paths(self) -> Collection[str] | None:
        """Paths of all photos of `items`; `None` if they are known only when the photos are read."""

    def items(self) -> Iterator[tuple[Place, PhotoSource]]:
        """Yield each photo's place and the source of its pixels, not decoded."""

    def rebase(self, folder: Path) -> "PhotoCollection":
        """Return the collection with paths relative to another folder; the collection itself if its folder is fixed."""


def name_in_folder(folder: Path, photo: Path) -> str:
    """Return a photo's path as an index stores it: relative to a folder if the photo is in it, else absolute."""
    plain, resolved = photo.absolute(), photo.parent.resolve() / photo.name
    for path in (plain, resolved) if ".." not in plain.parts else (resolved,):
        if folder.is_absolute() and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.as_posix()
