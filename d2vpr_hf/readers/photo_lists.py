"""Lists of photos that a user gives: the photos of a side, and the order to which row numbers of positives refer."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from d2vpr_hf.readers.at_names import is_at_name, places_from_names
from d2vpr_hf.readers.data_sets.array_files import read_names
from d2vpr_hf.readers.data_sets.listed_photos import ListedPhotos, list_table
from d2vpr_hf.readers.folder import CSV_READER, read_metadata
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.registry import read_places
from d2vpr_hf.readers.remarks import Remark, RemarkCounter, merge_remarks

PATH_COLUMNS = ("path", "image", "photo", "file", "filename", "file_name", "name", "image_path", "photo_path")


def read_photo_list(path: Path) -> list[str]:
    """Read the paths of a list: a text or CSV file with one a line, or a `.npy` file of texts.

    A CSV file may have a header; then its paths are those of the column `path`, `image`, `photo`, `file` or `name`, or of the
    only column. Empty lines are ignored.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, lists no photo, or has several columns of which none has such a name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give a list of photos: .txt, .csv or .npy, one path a line.")
    if path.suffix.lower() == ".npy":
        return read_names(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                names = _names_of_rows([row for row in csv.reader(file) if any(row)], path)
            else:
                names = [line.strip() for line in file if line.strip()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a text in UTF-8 with one path a line ({error}).") from error
    if not names:
        raise ValueError(f"{path} lists no photo. Expected one path a line.")
    return names


def read_listed_places(
    photos: Path, listing: Path, options: ReadOptions | None = None, *, with_positions: bool = True
) -> ListedPhotos:
    """Read the photos of a folder that a list names, in the order of the list.

    Args:
        photos: The folder that the paths of the list are relative to, or the CSV file with their positions.
        listing: A list that [`read_photo_list`] reads.
        options: Options of the readers; `None` for the defaults.
        with_positions: Whether to read positions from EXIF, XMP and sidecar files; `@` names and CSV files are always read.

    Raises:
        FileNotFoundError: If a file is missing, or none of the photos exists.
        ValueError: If the list, a name or a table is malformed.
    """
    options = options or ReadOptions()
    names = read_photo_list(listing)
    is_table = CSV_READER.accepts(photos) and options.positions in (None, "csv")
    folder = photos if photos.is_dir() else photos.parent
    listed = list_table(folder, names, str(listing))
    table, counter = listed.table, RemarkCounter()
    files = [table.photo(place) for place in table.places]
    if is_table:
        of_table = read_places(photos, options)
        by_path = {place.path: place for place in of_table.places}
        unplaced = [place.path for place in table.places if place.path not in by_path]
        if unplaced:
            counter.add(
                "assumed", "listed photos that the CSV file lacks, and that have no position", unplaced[0], len(unplaced)
            )
        table = replace(table, places=[by_path.get(place.path, place) for place in table.places], source=of_table.source)
    elif options.positions == "names" or (options.positions is None and any(map(is_at_name, files))):
        table = replace(table, places=places_from_names(files, folder, counter), source="names")
    elif with_positions:
        of_metadata = read_metadata(folder, files, options)
        counter_remarks: tuple[Remark, ...] = of_metadata.remarks
        table = replace(table, places=of_metadata.places, source=of_metadata.source, remarks=(*table.remarks, *counter_remarks))
    return replace(listed, table=replace(table, remarks=merge_remarks([*table.remarks, *counter.summary()])))


def _names_of_rows(rows: list[list[str]], path: Path) -> list[str]:
    """Return the paths of the rows of a CSV file."""
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = [number for number, name in enumerate(header) if name in PATH_COLUMNS]
    if columns:
        return [row[columns[0]].strip() for row in rows[1:] if len(row) > columns[0] and row[columns[0]].strip()]
    if len(header) > 1:
        raise ValueError(f"{path} has the columns {', '.join(header)}. Expected one of {', '.join(PATH_COLUMNS)}.")
    return [row[0].strip() for row in rows]
