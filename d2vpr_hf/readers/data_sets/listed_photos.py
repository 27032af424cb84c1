"""Tables of photos that a data set lists by name: missing ones are skipped, and rows of positives follow."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.remarks import RemarkCounter
from d2vpr_hf.readers.tables.table_paths import RESPELLED

MISSING = "no such file"
TWICE = "listed twice; the first is used"


@dataclass(frozen=True)
class ListedPhotos:
    """The photos of a list that exist.

    Attributes:
        table: Their table.
        rows: (N,) for each listed photo its row in the table, -1 if it is missing; a photo that is listed twice has one row.
    """

    table: PlaceTable
    rows: NDArray[np.int64]

    def new_positives(self, positives: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], ...]:
        """Return rows of positives in the list as rows of the table, sorted; missing photos are no longer positives."""
        renumbered = (self.rows[each] for each in positives)
        return tuple(np.unique(each[each >= 0]) for each in renumbered)


def list_table(
    folder: Path, names: Sequence[str], source: str, make_place: Callable[[int, str], Place] | None = None, kind: str = "none"
) -> ListedPhotos:
    """Return the table of listed photos. Each folder of the photos is listed once.

    Args:
        folder: The folder that names are relative to.
        names: Paths of the photos.
        source: Name of the list, for errors.
        make_place: Return the place of the photo with a number in the list and a path; `None` for places without a position.
        kind: The source of the positions, for the table.

    Raises:
        FileNotFoundError: If none of the photos exists.
        ValueError: If the list is empty, or a path leads out of the folder.
    """
    if not len(names):
        raise ValueError(f"{source} lists no photo.")
    files, remarks = FolderNames(folder), RemarkCounter()
    rows = np.full(len(names), -1, np.int64)
    places: list[Place] = []
    skipped: dict[str, str] = {}
    row_of: dict[str, int] = {}
    for number, name in enumerate(names):
        path = posixpath.normpath(name.replace("\\", "/").strip())
        if path.startswith(("/", "../")) or path in (".", ".."):
            raise ValueError(f"{source}, photo {number} (from 0): expected a path inside {folder}, got {name}.")
        spelling = files.find(path)
        if spelling is None:
            skipped[path] = MISSING
        elif spelling in row_of:
            rows[number] = row_of[spelling]
            skipped[f"{spelling} ({number})"] = TWICE
        else:
            if spelling != path:
                remarks.add("corrected", RESPELLED, spelling)
            row_of[spelling] = rows[number] = len(places)
            places.append(Place(spelling) if make_place is None else make_place(number, spelling))
    if not places:
        raise FileNotFoundError(
            f"None of the {len(names)} photos that {source} lists exists, such as {folder / names[0]}. Their paths start from "
            "the folder of the data set: give that folder, or unpack the photos in it."
        )
    return ListedPhotos(PlaceTable(folder, places, kind, skipped, remarks=remarks.summary()), rows)


def keep_rows(table: PlaceTable, rows: NDArray[np.int64]) -> PlaceTable:
    """Return a table with some of its places, in the order of `rows`."""
    return replace(table, places=[table.places[row] for row in rows.tolist()])


def find_base(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first folder in which one of the first names exists; `None` if there is none."""
    for folder in folders:
        files = FolderNames(folder)
        if any(files.find(posixpath.normpath(name.replace("\\", "/").strip())) is not None for name in names[:50]):
            return folder
    return None


class FolderNames:
    """The files in a folder and its subfolders; each is listed when it is needed, once.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, tuple[str, dict[str, str]]] = {}  # the spelling of each folder, and the names in it

    def find(self, path: str) -> str | None:
        """Return a path in the folder as the file system spells it, if its case or Unicode form differs; `None` without it."""
        parent, name = posixpath.split(path)
        if not name:  # the root of an absolute path
            return None
        if parent not in self._names:
            folder = parent if (self._folder / parent).is_dir() else self.find(parent)
            self._names[parent] = (folder or "", {} if folder is None else self._list(folder))
        folder, names = self._names[parent]
        spelling = names.get(name, names.get(_plain(name)))
        return None if spelling is None else f"{folder}/{spelling}" if folder else spelling

    def _list(self, parent: str) -> dict[str, str]:
        """Return the names in a folder by themselves, and by their plain form where that is unique."""
        try:
            with os.scandir(self._folder / parent) as entries:
                names = {entry.name: entry.name for entry in entries}
        except OSError:
            return {}
        folded: dict[str, str] = {}
        for name in names:
            key = _plain(name)
            folded[key] = "" if key in folded else name
        return {key: name for key, name in folded.items() if name} | names


def _plain(name: str) -> str:
    """Return a name in lower case and one Unicode form: archives of macOS have decomposed letters."""
    return unicodedata.normalize("NFC", name).casefold()
