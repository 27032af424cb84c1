"""Files next to a photo that hold its metadata: XMP as Lightroom and darktable write it, and JSON of Google Takeout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from d2vpr_hf.readers.metadata.takeout import takeout_names

LARGEST_METADATA = 16 * 2**20  # bytes; masks of Lightroom make XMP files of a few million

_ENDINGS = (".xmp", ".json")


class SidecarFolders:
    """Finds the sidecar files of photos. Each folder is listed once, so that photos without sidecars cost nothing."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def find(self, photo: Path) -> Iterator[Path]:
        """Yield the files that may hold the metadata of a photo, those with XMP first."""
        names = self._listed(photo.parent)
        if names:
            yield from (photo.parent / name for name in _candidates(photo) if name in names)

    def _listed(self, folder: Path) -> frozenset[str]:
        """Return the names of all files in a folder that may be sidecars."""
        if folder not in self._names:
            names: list[str] = []
            with contextlib.suppress(OSError):  # a folder whose files may be read, but not listed
                names = [file.name for file in folder.iterdir()]
            self._names[folder] = frozenset(name for name in names if name.lower().endswith(_ENDINGS))
        return self._names[folder]


class SidecarsOfOnePhoto:
    """Finds the sidecar files of a single photo without listing its folder, which may hold a million files."""

    def find(self, photo: Path) -> Iterator[Path]:
        """Yield the files that may hold the metadata of a photo, as [`SidecarFolders.find`] does."""
        yield from (photo.parent / name for name in _candidates(photo) if os.path.lexists(photo.parent / name))


def _candidates(photo: Path) -> dict[str, None]:
    """Return the names that the sidecar files of a photo may have, with suffixes in lower or upper case."""
    suffixes = dict.fromkeys((photo.suffix, photo.suffix.lower(), photo.suffix.upper()))
    photos = [f"{photo.stem}{suffix}" for suffix in suffixes]
    names = [f"{name}.xmp" for name in (*photos, photo.stem)]  # of darktable, and of Lightroom
    names += [name for each in photos for name in takeout_names(each)]
    return dict.fromkeys(spelling for name in names for spelling in (name, name[:-4] + name[-4:].upper()))
