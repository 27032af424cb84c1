"""Read a folder of photos, wherever its positions are: in a CSV file, in `@` names, in EXIF, or nowhere."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.at_names import is_at_name, place_from_name
from d2vpr_hf.readers.csv_table import read_csv, write_csv
from d2vpr_hf.readers.exif import place_from_exif
from d2vpr_hf.readers.photos import find_photos
from d2vpr_hf.utils.atomic_files import store_file


@dataclass(frozen=True)
class PlaceTable:
    """The photos of a folder.

    Attributes:
        folder: The folder that the places' paths are relative to.
        places: One place a photo, in the order of their paths (of the lines, for a CSV file).
        source: Where the positions come from: `"csv"`, `"names"`, `"exif"`, `"gsv-cities"` or `"none"`.
        skipped: Photos that lie in the folder and are not among the places, or should lie there, with the reason.
        place_ids: (N,) int64, which of the data set's places each photo shows, from 0 without gaps; `None` where it knows
            positions only.
        group_ids: (N,) int64, the group of each photo's place, from 0 without gaps. Places of different groups may overlap and
            must not share a training batch; `None` where any may.
    """

    folder: Path
    places: list[Place]
    source: str
    skipped: dict[str, str] = field(default_factory=dict)
    place_ids: NDArray[np.int64] | None = field(default=None, compare=False)
    group_ids: NDArray[np.int64] | None = field(default=None, compare=False)

    @property
    def num_positions(self) -> int:
        """Number of photos whose position is known."""
        return sum(place.has_position for place in self.places)

    def photo(self, place: Place) -> Path:
        """Return the file of a place."""
        return self.folder / place.path


def read_places(photos: str | Path) -> PlaceTable:
    """Read the places of a folder of photos, or of the CSV file that lists them.

    A CSV file in the folder wins; then `@` names, if any photo has one (then all must); then EXIF. Photos without a known
    position stay in the table.

    Args:
        photos: A folder, searched all levels deep, or a CSV file.

    Raises:
        FileNotFoundError: If there is no such folder, or no photo in it.
        ValueError: If a name or a table is malformed, or the folder has several CSV files.
    """
    path = Path(photos)
    if path.suffix.lower() == ".csv" and path.is_file():
        return _from_csv(path)
    files = find_photos(path)
    table = _find_table(path)
    if table is not None:
        return _from_csv(table, files)
    if any(is_at_name(file) for file in files):
        return PlaceTable(path, [place_from_name(file, path) for file in files], "names")
    places = [place_from_exif(file, path) for file in files]
    return PlaceTable(path, places, "exif" if any(place.has_position for place in places) else "none")


def write_places(table: PlaceTable, out: str | Path, overwrite: bool = False) -> None:
    """Write photos and their places as a CSV file that [`read_places`] reads, whole or not at all.

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
    """Check that a table of places may be written before the photos are read.

    Args:
        out: The CSV file.
        folder: Where the photos lie.
        overwrite: Whether it may replace a file.

    Raises:
        FileExistsError: If something is there already.
        ValueError: If it is no CSV file by its name, or lies in the photos' folder and would be read instead of it.
    """
    if out.suffix.lower() != ".csv":
        raise ValueError(f"Expected a file that ends in .csv for the places, got {out}.")
    if out.resolve().parent == folder.resolve():
        raise ValueError(
            f"In {folder}, {out.name} would be taken for the table of all its photos. Give a file in another folder."
        )
    if out.is_dir() or (out.exists() and not overwrite):
        raise FileExistsError(f"{out} exists already. Give another file, or `--overwrite` to replace a file.")


def read_place(photo: Path) -> Place:
    """Read the place of one photo from its name or its EXIF."""
    return place_from_name(photo, photo.parent) if is_at_name(photo) else place_from_exif(photo, photo.parent)


def _find_table(folder: Path) -> Path | None:
    tables = sorted(folder.glob("*.[cC][sS][vV]"))
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise ValueError(f"{folder} holds several CSV files ({names}). Give the one to read instead of the folder.")
    return tables[0] if tables else None


def _from_csv(table: Path, files: list[Path] | None = None) -> PlaceTable:
    places, ids = read_csv(table)
    if not places:
        raise ValueError(f"{table} lists no photo.")
    listed = {place.path for place in places}
    names = [file.relative_to(table.parent).as_posix() for file in files or []]
    skipped = {name: f"not listed in {table.name}" for name in names if name not in listed}
    return PlaceTable(table.parent, places, "csv", skipped, **ids)
