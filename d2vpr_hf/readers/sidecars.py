"""Files next to a photo that hold its metadata: XMP as Lightroom and darktable write it, and JSON of Google Takeout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from d2vpr_hf.readers.takeout import takeout_names

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
            candidates = dict.fromkeys([*_xmp_names(photo), *takeout_names(photo.name)])
            yield from (photo.parent / name for name in candidates if name in names)

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
        candidates = dict.fromkeys([*_xmp_names(photo), *takeout_names(photo.name)])
        yield from (photo.parent / name for name in candidates if os.path.lexists(photo.parent / name))


def _xmp_names(photo: Path) -> Iterator[str]:
    """Yield the names of XMP files: `a.jpg.xmp` of darktable, `a.xmp` of Lightroom."""
    for stem in (photo.name, photo.stem):
        yield from (f"{stem}.xmp", f"{stem}.XMP")
