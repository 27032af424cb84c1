"""Read a folder of photos, wherever its positions are: in a CSV file, in `@` names, in EXIF, or nowhere."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers.at_names import is_at_name, place_from_name
from d2vpr_hf.readers.csv_table import read_csv
from d2vpr_hf.readers.exif import place_from_exif
from d2vpr_hf.readers.photos import find_photos
from d2vpr_hf.readers.places import Place


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
    """

    folder: Path
    places: list[Place]
    source: str
    skipped: dict[str, str] = field(default_factory=dict)
    place_ids: NDArray[np.int64] | None = field(default=None, compare=False)

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
    places = read_csv(table)
    if not places:
        raise ValueError(f"{table} lists no photo.")
    listed = {place.path for place in places}
    names = [file.relative_to(table.parent).as_posix() for file in files or []]
    skipped = {name: f"not listed in {table.name}" for name in names if name not in listed}
    return PlaceTable(table.parent, places, "csv", skipped)


__all__ = ["PlaceTable", "read_place", "read_places"]
