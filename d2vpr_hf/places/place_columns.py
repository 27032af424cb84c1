"""Fields of many places as columns, so that millions of positions can be compared without an object for each place."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from d2vpr_hf.places.place import WITHOUT_ZONE, Place, all_with_degrees, local_frame, place_zone
from d2vpr_hf.places.utm_zones import AT_EQUATOR, BAND_S_NORTH, SOUTHERN_NORTH

Codes = tuple[NDArray[np.int64], list[str]]  # the number (N,) of each place's text, -1 for none, and the different texts


class PlaceColumns:
    """The fields of places as arrays, made when they are first used.

    Args:
        places: The places; a sequence that makes a [`Place`] only when it is indexed needs no memory for all of them.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @functools.cached_property
    def paths(self) -> Sequence[str]:
        """Paths of the photos."""
        return [place.path for place in self.places]

    @property
    def conditions(self) -> Sequence[str | None] | None:
        """Conditions of the photos; `None` if they are not needed."""
        return [place.condition for place in self.places]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a field of numbers (N,); NaN for values that are not known."""
        return np.array([getattr(place, name) for place in self.places], np.float64)

    def codes(self, name: str) -> Codes:
        """Return the number of each place's text in a field, and the different texts; an empty text counts as none."""
        numbers: dict[str, int] = {}
        texts = (getattr(place, name) for place in self.places)
        codes = [numbers.setdefault(text, len(numbers)) if text else -1 for text in texts]
        return np.array(codes, np.int64), list(numbers)

    @functools.cached_property
    def local_points(self) -> NDArray[np.float64]:
        """Local metres (N, 3); NaN for values that are not known."""
        return np.column_stack([self.numbers(name) for name in "xyz"])

    @functools.cached_property
    def utm_points(self) -> NDArray[np.float64]:
        """UTM metres (N, 2); NaN for values that are not known."""
        return np.column_stack([self.numbers("utm_east"), self.numbers("utm_north")])

    @functools.cached_property
    def stated_degrees(self) -> NDArray[np.float64]:
        """Latitudes and longitudes (N, 2) that the places have themselves; NaN for values that are not known."""
        return np.column_stack([self.numbers("latitude"), self.numbers("longitude")])

    @functools.cached_property
    def degrees(self) -> NDArray[np.float64]:
        """Latitudes and longitudes (N, 2), of UTM metres too; NaN for values that are not known."""
        degrees = self.stated_degrees.copy()
        lacking = np.flatnonzero(~is_known(degrees) & is_known(self.utm_points) & (self.codes("utm_zone")[0] >= 0)).tolist()
        for row, place in zip(lacking, all_with_degrees([self.places[row] for row in lacking]), strict=True):
            if place.latitude is not None and place.longitude is not None:
                degrees[row] = place.latitude, place.longitude
        return degrees

    @functools.cached_property
    def has_position(self) -> NDArray[np.bool_]:
        """Whether any kind of position is known (N,)."""
        return is_known(self.stated_degrees) | is_known(self.utm_points) | is_known(self.local_points[:, :2])

    @functools.cached_property
    def local_frames(self) -> Codes:
        """The local frame of each place that has local metres."""
        codes, names = self.codes("frame")
        codes[~is_known(self.local_points[:, :2])] = -1
        unnamed = is_known(self.local_points[:, :2]) & (codes < 0)
        codes[unnamed] = len(names)
        return codes, [*map(local_frame, names), local_frame(None)]

    @functools.cached_property
    def utm_frames(self) -> Codes:
        """The UTM zone with its hemisphere, or the frame without a zone, of each place that has UTM metres.

        Places of one zone text differ in their hemisphere only by the size of their coordinates; one of each size decides.

        Raises:
            ValueError: If a zone does not exist; the message names the place.
        """
        zones, latitude = self.codes("utm_zone")[0], self.stated_degrees[:, 0]
        east, north = self.utm_points.T
        with np.errstate(invalid="ignore"):
            sizes = (
                np.isnan(latitude),
                latitude >= 0,
                np.abs(latitude) > AT_EQUATOR,
                north < SOUTHERN_NORTH[1] / 2,
                north < 0,
                (north >= BAND_S_NORTH[0]) & (north <= BAND_S_NORTH[1]),
                (north >= SOUTHERN_NORTH[0]) & (north <= SOUTHERN_NORTH[1]),
                (east >= 100_000) & (east < 1_000_000),
            )
        kinds = zones + 1
        for size in sizes:
            kinds = 2 * kinds + size
        codes, numbers = np.full(len(zones), -1, np.int64), dict[str, int]()
        placed = np.flatnonzero(is_known(self.utm_points))
        _, firsts, kinds = np.unique(kinds[placed], return_index=True, return_inverse=True)
        frames = [place_zone(self.places[int(row)]) for row in placed[firsts]]
        names = [WITHOUT_ZONE if zone is None else str(zone) for zone in frames]
        of_kind = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
        codes[placed] = of_kind[kinds.reshape(-1)]
        return codes, list(numbers)


class ColumnTexts(Sequence[str]):
    """The texts of a column, which are made when they are used.

    Args:
        column: A column without nulls.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __iter__(self) -> Iterator[str]:
        return (text for chunk in self._column.iterchunks() for text in chunk.to_pylist())

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            return list(self._column.slice(start, max(0, stop - start)).to_pylist()[::step])
        return str(self._column[row].as_py())

    def take(self, rows: NDArray[np.integer]) -> ColumnTexts:
        """Return the texts of some rows."""
        return ColumnTexts(self._column.take(pa.array(rows)))


def take_texts(texts: Sequence[str], rows: NDArray[np.integer]) -> Sequence[str]:
    """Return the texts of some rows."""
    return texts.take(rows) if isinstance(texts, ColumnTexts) else [texts[row] for row in rows]


def is_known(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether all numbers of each row (N,) are known and finite."""
    return np.asarray(np.isfinite(values).all(axis=1))
