"""The readers of folders and files, and collections of photos from any source.

A new reader is a [`PlaceReader`] in a module of its own, and an entry in `READERS`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from d2vpr_hf.readers.folder import CSV_READER, PHOTO_FOLDER_READER
from d2vpr_hf.readers.photo_collection import PhotoCollection
from d2vpr_hf.readers.place_dataset import DatasetPhotos
from d2vpr_hf.readers.place_reader import PlaceReader
from d2vpr_hf.readers.place_table import PlaceTable

if TYPE_CHECKING:
    from d2vpr_hf.readers.place_dataset import PlaceDataset

READERS: tuple[PlaceReader, ...] = (CSV_READER, PHOTO_FOLDER_READER)  # the first that accepts a path reads it


def read_places(photos: str | Path) -> PlaceTable:
    """Read the places of a folder of photos, or of the CSV file that lists them.

    A CSV file in the folder wins; then `@` names, if any photo has one (then all must); then EXIF. Photos without a known
    position stay in the table.

    Args:
        photos: A folder, searched all levels deep, or a CSV file.

    Raises:
        FileNotFoundError: If there is no such folder, or no photo in it.
        NotADirectoryError: If it is a file that no reader accepts.
        ValueError: If a name or a table is malformed, or the folder has several CSV files.
    """
    path = Path(photos)
    for reader in READERS:
        if reader.accepts(path):
            return reader.read(path)
    expected = "; ".join(f"{reader.accepted} ({reader.name})" for reader in READERS)
    if path.exists():
        raise NotADirectoryError(f"{path} is not a folder. Give one of: {expected}.")
    raise FileNotFoundError(f"There is no folder {path}. Give one of: {expected}.")


def as_collection(photos: str | Path | PhotoCollection | PlaceDataset) -> PhotoCollection:
    """Return the collection of the photos in a folder, a CSV file or a data set; a collection itself."""
    if isinstance(photos, str | Path):
        return read_places(photos)
    datasets = sys.modules.get("datasets")  # slow to import; without it there is no data set
    if datasets is not None and isinstance(photos, datasets.Dataset | datasets.IterableDataset):
        return DatasetPhotos(photos)
    return photos
