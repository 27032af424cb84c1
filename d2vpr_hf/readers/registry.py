"""The readers of folders and files, and collections of photos from any source.

A new reader is a [`PlaceReader`] in a module of its own, and an entry in `READERS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from d2vpr_hf.readers.folder import CSV_READER, PHOTO_FOLDER_READER
from d2vpr_hf.readers.photo_collection import PhotoCollection
from d2vpr_hf.readers.place_dataset import DatasetPhotos
from d2vpr_hf.readers.place_reader import PlaceReader
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.plain_values import plain_table
from d2vpr_hf.readers.read_options import ReadOptions

if TYPE_CHECKING:
    from d2vpr_hf.readers.place_dataset import PlaceDataset

READERS: tuple[PlaceReader, ...] = (CSV_READER, PHOTO_FOLDER_READER)  # the first that accepts a path reads it


def read_places(photos: str | Path, options: ReadOptions | None = None) -> PlaceTable:
    """Read the places of a folder of photos, or of the CSV file that lists them.

    Positions are read from a CSV file in the folder; without one from `@` names, if any photo has such a name (then all photos
    must have one); otherwise from EXIF, XMP and sidecar files. Photos without a known position stay in the table.

    Args:
        photos: A folder, whose subfolders are searched too, or a CSV file.
        options: Options of the readers; `None` for the defaults.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no photo.
        NotADirectoryError: If `photos` is a file that no reader accepts.
        ValueError: If a name or a table is malformed, or the folder has several CSV files.
    """
    path = Path(photos)
    for reader in READERS:
        if reader.accepts(path):
            return plain_table(reader.read(path, options or ReadOptions()))
    expected = "; ".join(f"{reader.accepted} ({reader.name})" for reader in READERS)
    if path.exists():
        raise NotADirectoryError(f"{path} is not a folder. Give one of: {expected}.")
    raise FileNotFoundError(f"There is no folder {path}. Give one of: {expected}.")


def read_all_places(photos: Sequence[str | Path], options: ReadOptions | None = None) -> list[PlaceTable]:
    """Read several folders or CSV files with the same options, of which `columns` applies to those that are tables.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As [`read_places`] does.
    """
    return [read_places(path, each) for path, each in zip(photos, options_of_paths(photos, options), strict=True)]


def options_of_paths(photos: Sequence[str | Path], options: ReadOptions | None = None) -> list[ReadOptions]:
    """Return the options for each of several paths: without `columns` for paths that are not tables, if any path is a table."""
    options = options or ReadOptions()
    has_table = [CSV_READER.accepts(Path(path)) for path in photos]
    return [options if each or not any(has_table) else replace(options, columns={}) for each in has_table]


def as_collection(photos: str | Path | PhotoCollection | PlaceDataset) -> PhotoCollection:
    """Return the collection of the photos in a folder, a CSV file or a data set; return a collection unchanged."""
    if isinstance(photos, str | Path):
        return read_places(photos)
    datasets = sys.modules.get("datasets")  # slow to import; without it there is no data set
    if datasets is not None and isinstance(photos, datasets.Dataset | datasets.IterableDataset):
        return DatasetPhotos(photos)
    return photos
