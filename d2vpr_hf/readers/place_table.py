"""A table of photos and their places, as every reader of files returns it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.photos import PhotoSource
from d2vpr_hf.readers.remarks import Remark


@dataclass(frozen=True)
class PlaceTable:
    """The photos of a folder; a [`d2vpr_hf.readers.PhotoCollection`].

    Attributes:
        folder: The folder that the places' paths are relative to.
        places: One place a photo, in the order of their paths (of the lines, for a CSV file).
        source: The source of the positions: `"csv"`, `"names"`, `"exif"`, `"gsv-cities"` or `"none"`.
        skipped: Photos of the folder that are not among the places, and listed photos that are missing, with the reason.
        place_ids: (N,) int64, the data set's place that each photo shows, from 0 without gaps; `None` if only positions are
            known.
        group_ids: (N,) int64, the group of each photo's place, from 0 without gaps. Places of different groups may overlap and
            must not share a training batch; `None` if all places may share one.
        remarks: Lines about files that were skipped, and values that were corrected or assumed.
    """

    folder: Path
    places: list[Place]
    source: str
    skipped: dict[str, str] = field(default_factory=dict)
    place_ids: NDArray[np.int64] | None = field(default=None, compare=False)
    group_ids: NDArray[np.int64] | None = field(default=None, compare=False)
    remarks: tuple[Remark, ...] = field(default=(), compare=False)

    @property
    def num_positions(self) -> int:
        """The number of photos whose position is known."""
        return sum(place.has_position for place in self.places)

    @property
    def count(self) -> int:
        """The number of photos, skipped ones included."""
        return len(self.places) + len(self.skipped)

    @property
    def base_folder(self) -> Path:
        """The folder of the photos, absolute and without links."""
        return self.folder.resolve()

    @property
    def paths(self) -> list[str]:
        """Paths of the photos, in the order of `places`."""
        return [place.path for place in self.places]

    def items(self) -> Iterator[tuple[Place, PhotoSource]]:
        """Yield each photo's place and file."""
        return ((place, self.photo(place)) for place in self.places)

    def rebase(self, folder: Path) -> "PlaceTable":
        """Return the table: its paths are relative to its folder only."""
        return self

    def photo(self, place: Place) -> Path:
        """Return the file of a place."""
        return self.folder / place.path


def is_file(path: Path) -> bool:
    """Return whether a path is one of a file; texts that cannot be paths, such as long ones, are not."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_any_photo(table: PlaceTable) -> None:
    """Check that a CSV file lists at least one photo that exists; otherwise its paths start from another folder.

    Raises:
        FileNotFoundError: If none exists.
    """
    if table.source == "csv" and table.places and not any(is_file(table.photo(place)) for place in table.places):
        raise FileNotFoundError(
            f"None of the {len(table.places)} photos that the CSV file in {table.folder} lists exists, such as "
            f"{table.photo(table.places[0])}. Paths start from the folder of the CSV file: correct them, or move the file."
        )
