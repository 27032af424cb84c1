"""Read a folder of photos with positions in a CSV file, in `@` names or in EXIF, and write such a CSV file."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d2vpr_hf.places.place import Place, all_with_utm
from d2vpr_hf.readers.at_names import is_at_name, place_from_name, places_from_names
from d2vpr_hf.readers.metadata.photo_place import PhotoPlaceReader
from d2vpr_hf.readers.metadata.sidecars import SidecarFolders, SidecarsOfOnePhoto
from d2vpr_hf.readers.photo_listing import LINKED_FOLDERS, PhotoListing, list_photos
from d2vpr_hf.readers.place_reader import PlaceReader
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.plain_values import plain_table
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.remarks import Remark, RemarkCounter, merge_remarks
from d2vpr_hf.readers.tables.csv_table import read_csv, write_csv
from d2vpr_hf.utils.atomic_files import store_file

UNREAD_TABLES = "CSV files in subfolders, whose positions are not read (give the CSV file, or its folder)"


def read_place(photo: Path) -> Place:
    """Read the place of one photo from its `@` name or its metadata; see [`read_photo`] for remarks on it."""
    return read_photo(photo).places[0]


def read_photo(photo: Path, options: ReadOptions | None = None) -> PlaceTable:
    """Return a table of one photo, with its place from its `@` name, or from EXIF, XMP or a sidecar file.

    Raises:
        ValueError: If its name begins with `@` and is malformed.
    """
    options = options or ReadOptions()
    if options.positions == "names" or (options.positions != "exif" and is_at_name(photo)):
        return plain_table(PlaceTable(photo.parent, [place_from_name(photo, photo.parent)], "names"))
    reader = PhotoPlaceReader(photo.parent, SidecarsOfOnePhoto(), options.assume_north_east)
    return plain_table(_table_of_metadata(reader, [photo]))


def write_places(table: PlaceTable, out: str | Path, overwrite: bool = False) -> None:
    """Write photos and their places to a CSV file that [`read_places`] reads; the file is written completely or not at all.

    Raises:
        FileExistsError, ValueError: As [`check_places_file`] does.
    """
    out = Path(out).resolve()
    check_places_file(out, table.folder, overwrite)
    folder = table.folder.resolve()
    places = [replace(place, path=Path(os.path.relpath(folder / place.path, out.parent)).as_posix()) for place in table.places]
    ids = {"place_id": table.place_ids, "group_id": table.group_ids}
    columns = {name: numbers for name, numbers in ids.items() if numbers is not None}
    store_file(out, lambda scratch: write_csv(scratch, places, columns))


def check_places_file(out: Path, folder: Path, overwrite: bool) -> None:
    """Check that a table of places may be written, before the photos are read.

    Args:
        out: The CSV file.
        folder: The folder of the photos.
        overwrite: Whether it may replace a file.

    Raises:
        FileExistsError: If the file exists already.
        ValueError: If its name does not end in `.csv`, or it is in the photos' folder and would be read instead of it.
    """
    if out.suffix.lower() != ".csv":
        raise ValueError(f"Expected a file that ends in .csv for the places, got {out}.")
    if out.resolve().parent == folder.resolve():
        raise ValueError(
            f"In {folder}, {out.name} would be taken for the table of all its photos. Give a file in another folder."
        )
    if out.is_dir() or (out.exists() and not overwrite):
        raise FileExistsError(f"{out} exists already. Give another file, or `overwrite=True` to replace a file.")


def _read_photo_folder(folder: Path, options: ReadOptions) -> PlaceTable:
    """Read the chosen source of positions; by default `@` names if any photo has one, else EXIF."""
    if options.positions == "csv" or options.columns:
        option = '`positions="csv"`' if options.positions == "csv" else "`columns=...`"
        raise ValueError(f"{folder} has no CSV file to read positions from. Leave {option} out, or give a folder with one.")
    listing = list_photos(folder)
    if options.positions is None and listing.tables:
        listing = replace(
            listing, remarks=(Remark("skipped", UNREAD_TABLES, len(listing.tables), listing.tables[0]), *listing.remarks)
        )
    if options.positions == "names" or (options.positions is None and any(is_at_name(file) for file in listing.photos)):
        counter = RemarkCounter()
        places = places_from_names(listing.photos, folder, counter)
        remarks = merge_remarks([*listing.remarks, *counter.summary()])
        return PlaceTable(folder, places, "names", listing.skipped, remarks=remarks)
    table = read_metadata(folder, listing.photos, options)
    return replace(table, skipped=listing.skipped, remarks=merge_remarks([*listing.remarks, *table.remarks]))


def read_metadata(folder: Path, photos: Sequence[Path], options: ReadOptions) -> PlaceTable:
    """Read the places of photos of a folder from EXIF, XMP and sidecar files."""
    return _table_of_metadata(PhotoPlaceReader(folder, SidecarFolders(), options.assume_north_east), photos)


def _table_of_metadata(reader: PhotoPlaceReader, photos: Sequence[Path]) -> PlaceTable:
    places = all_with_utm([reader.read(photo) for photo in photos])
    source = "exif" if any(place.has_position for place in places) else "none"
    return PlaceTable(reader.folder, places, source, remarks=reader.remarks.summary())


def _find_tables(folder: Path) -> list[Path]:
    return sorted(table for table in folder.glob("*.[cC][sS][vV]") if table.is_file())


def _read_csv_table(path: Path, options: ReadOptions) -> PlaceTable:
    """Read a CSV file, or the only one in a folder; photos of the folder that it does not list are skipped."""
    if options.positions in ("names", "exif"):
        if path.is_dir():
            return _read_photo_folder(path, options)
        raise ValueError(f'{path} is a CSV file. Leave `positions="{options.positions}"` out, or give the folder of photos.')
    tables = _find_tables(path) if path.is_dir() else [path]
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(
            f"{path} holds several CSV files ({names}). "
            'Give the one to read instead of the folder, or `positions="names"` or `positions="exif"` to read none of them.'
        )
    table = tables[0]
    content = read_csv(table, options.columns)
    if not content.places:
        raise ValueError(f"{table} lists no photo.")
    listed = {place.path for place in content.places}
    listing = list_photos(path, listed) if path.is_dir() else PhotoListing([])
    skipped = dict.fromkeys(_unlisted_photos(path, listing, listed), f"not listed in {table.name}") | listing.skipped
    return replace(content, skipped=skipped, remarks=(*listing.remarks, *content.remarks))


def _unlisted_photos(folder: Path, listing: PhotoListing, listed: set[str]) -> list[str]:
    """Return the paths of a folder's photos that a table does not list, neither by their path nor through a linked folder."""
    paths = [photo.relative_to(folder).as_posix() for photo in listing.photos]
    unlisted = [path for path in paths if path not in listed]
    if unlisted and any(remark.text == LINKED_FOLDERS for remark in listing.remarks):
        files = {os.path.realpath(folder / path) for path in listed}
        unlisted = [path for path in unlisted if os.path.realpath(folder / path) not in files]
    return unlisted


CSV_READER = PlaceReader(
    "csv",
    "a CSV file that lists photos, or a folder of photos with one",
    lambda path: bool(_find_tables(path)) if path.is_dir() else path.suffix.lower() == ".csv" and path.is_file(),
    _read_csv_table,
)
PHOTO_FOLDER_READER = PlaceReader(
    "photos", "a folder of photos, with positions in their names or in EXIF", Path.is_dir, _read_photo_folder
)
