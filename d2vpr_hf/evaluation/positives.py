"""Positives: the database photos of a query's place, by distance, by distance and heading, or by frame number."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD
from d2vpr_hf.places.geometry import arcs, chord, earth_vectors
from d2vpr_hf.places.place import EARTH_RADIUS, number_values
from d2vpr_hf.places.place_columns import take_texts

_PATHS_AT_ONCE = 100_000  # of which a checksum makes a text


class Positives(Protocol):
    """The database rows of each query's positives; for data sets with their own ground truth, a list of arrays."""

    def __len__(self) -> int:
        """Return the number of queries."""

    def __getitem__(self, query: int, /) -> NDArray[np.integer]:
        """Return the rows (P,) of a query's positives."""


@dataclass(frozen=True)
class PhotoSet:
    """Information about the N photos of a database or of queries, apart from their descriptors; `None` if unknown.

    Attributes:
        positions: (N, 2) or (N, 3) metres, in the same frame for database and queries; a third coordinate that is NaN is a
            height that is not known, and is not compared. With `in_degrees`, latitudes and longitudes (N, 2).
        headings: (N,) degrees.
        frames: (N,) integers, the photos' numbers in aligned sequences of database and queries.
        paths: N unique names, relative to `folder`.
        conditions: N words such as `"night"`; `None` for a photo without one.
        folder: Folder of the photos.
        in_degrees: Whether positions are latitudes and longitudes, and distances are measured on the sphere.
        regions: N names of local frames, or of sequences; photos of two regions never show the same place. `None` for one
            region.
    """

    positions: NDArray[np.floating] | None = None
    headings: NDArray[np.floating] | None = None
    frames: NDArray[np.integer] | None = None
    paths: Sequence[str] | None = None
    conditions: Sequence[str | None] | None = None
    folder: Path | None = None
    in_degrees: bool = False
    regions: Sequence[str] | None = None

    def check_length(self, count: int, side: str) -> None:
        """Raise ValueError unless every known attribute has `count` entries and all numbers are finite."""
        for name in ("positions", "headings", "frames", "paths", "conditions", "regions"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(f"Expected {name} of {count} {side} photos, one for each descriptor, got {len(values)}.")
            if isinstance(values, np.ndarray) and name == "positions":
                values = values[:, :2]
            if isinstance(values, np.ndarray) and not np.isfinite(values).all():
                raise ValueError(f"The {name} of the {side} photos are not all finite. Remove the photos without {name}.")

    def take(self, rows: NDArray[np.integer]) -> "PhotoSet":
        """Return the photos of some rows, in the order of `rows`."""
        return PhotoSet(
            positions=None if self.positions is None else self.positions[rows],
            headings=None if self.headings is None else self.headings[rows],
            frames=None if self.frames is None else self.frames[rows],
            paths=None if self.paths is None else take_texts(self.paths, rows),
            conditions=None if self.conditions is None else [self.conditions[row] for row in rows],
            folder=self.folder,
            in_degrees=self.in_degrees,
            regions=None if self.regions is None else [self.regions[row] for row in rows],
        )

    def path(self, row: int) -> str:
        """Return the path of a photo, or its row as text if paths are unknown."""
        return str(row) if self.paths is None else self.paths[row]

    def checksum(self, count: int) -> str:
        """Return the SHA-256 digest of names, positions (to the millimetre), headings and frames, in hexadecimal."""
        digest = hashlib.sha256()
        for start in range(0, count, _PATHS_AT_ONCE):
            numbers = range(start, min(start + _PATHS_AT_ONCE, count))
            paths = map(str, numbers) if self.paths is None else self.paths[start : numbers.stop]
            digest.update((("\n" if start else "") + "\n".join(paths)).encode())
        for values in (self.positions, self.headings, self.frames):
            digits = 8 if self.in_degrees and values is self.positions else 3
            digest.update(b"none" if values is None else np.round(np.asarray(values, np.float64), digits).tobytes())
        if self.regions is not None:  # added later; older checksums of one region still match
            digest.update("\n".join(self.regions).encode())
        return digest.hexdigest()

    def points(self) -> NDArray[np.float64]:
        """Return points with comparable straight distances: positions in metres, or vectors (N, 3) from the Earth's centre."""
        positions = np.asarray(self.positions, np.float64)
        return earth_vectors(positions[:, 0], positions[:, 1]) if self.in_degrees else positions


@dataclass(frozen=True)
class PositiveRule:
    """The rule by which a database photo is a positive of a query.

    Attributes:
        positive_dist_threshold: Largest distance in metres, inclusive; `None` if `frame_tolerance` is given.
        heading_tolerance: Largest difference of the headings in degrees, inclusive; `None` if headings do not matter.
        frame_tolerance: Largest difference of the frame numbers, inclusive; if given, frame numbers are compared instead of
            positions.
    """

    positive_dist_threshold: float | None = POSITIVE_DIST_THRESHOLD
    heading_tolerance: float | None = None
    frame_tolerance: int | None = None

    def __post_init__(self) -> None:
        if self.frame_tolerance is not None:
            object.__setattr__(self, "positive_dist_threshold", None)
        elif self.positive_dist_threshold is None or not 0 < self.positive_dist_threshold < np.inf:
            raise ValueError(f"`positive_dist_threshold` must be above 0 metres, got {self.positive_dist_threshold}.")
        if self.frame_tolerance is not None and self.frame_tolerance < 0:
            raise ValueError(f"`frame_tolerance` must be at least 0 frames, got {self.frame_tolerance}.")
        if self.heading_tolerance is not None and not 0 <= self.heading_tolerance <= 180:
            raise ValueError(f"`heading_tolerance` must be within 0 and 180 degrees, got {self.heading_tolerance}.")

    def find(self, database: PhotoSet, queries: PhotoSet) -> "NearbyPositives":
        """Find the positives of each query.

        Raises:
            ValueError: If the positions, headings or frames that the rule needs are unknown, or only one side is in degrees.
        """
        points = self._points(database, "database"), self._points(queries, "query")
        radius = self._radius
        if self.frame_tolerance is None:
            _check_units(database, queries)
            radius = chord(radius) if queries.in_degrees else radius
        if database.regions is not None or queries.regions is not None:
            points = _separate_regions(points, (database.regions, queries.regions), radius)
        if self.heading_tolerance is None:
            return NearbyPositives(*points, radius)
        headings = self._need(database.headings, "headings", "database"), self._need(queries.headings, "headings", "query")
        return NearbyPositives(*points, radius, headings, self.heading_tolerance)

    def group(self, queries: PhotoSet) -> NDArray[np.int64]:
        """Return the number of each query's place (Q,): the cells of a grid, whose side is the threshold, are the places.

        Joining neighbours instead would make a whole drive one place. Cells are numbered in the order of their positions. With
        `frame_tolerance=0`, each frame is a place. For degrees, the rows of the grid are circles of latitude, and each is
        divided into cells of about that width.
        """
        points, side = self._points(queries, "query"), self._radius or 1.0
        if self.frame_tolerance is None and queries.in_degrees:
            cells = _cells_of_degrees(np.asarray(queries.positions, np.float64), side)
        else:
            cells = np.floor(np.nan_to_num(points, nan=0.0) / side)
        if queries.regions is not None:
            cells = np.column_stack([cells, number_values(queries.regions)])
        return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as JSON values, for reports."""
        return {
            "positive_dist_threshold": self.positive_dist_threshold,
            "heading_tolerance": self.heading_tolerance,
            "frame_tolerance": self.frame_tolerance,
        }

    def __str__(self) -> str:
        if self.frame_tolerance is not None:
            near = f"within {self.frame_tolerance} frames"
        else:
            near = f"within {self.positive_dist_threshold:g} m"
        return near if self.heading_tolerance is None else f"{near} and {self.heading_tolerance:g}°"

    @property
    def _radius(self) -> float:
        return float(self.frame_tolerance if self.positive_dist_threshold is None else self.positive_dist_threshold)  # type: ignore[arg-type]

    def _points(self, photos: PhotoSet, side: str) -> NDArray[np.float64]:
        """Return the points whose distances decide: positions (N, 2 or 3), or frame numbers (N, 1)."""
        if self.frame_tolerance is not None:
            return np.asarray(self._need(photos.frames, "frames", side), np.float64)[:, None]
        self._need(photos.positions, "positions", side)
        return photos.points()

    def _need(self, values: NDArray[Any] | None, name: str, side: str) -> NDArray[Any]:
        if values is None:
            raise ValueError(f"Positives {self} need {name} of the {side} photos, which are unknown.")
        return values


class NearbyPositives:
    """The database photos near each query, looked up in a k-d tree for one query at a time to save memory.

    Args:
        database: (N, M) points. If the third coordinate of a point is NaN, it is not compared.
        queries: (Q, M) points.
        radius: Largest distance, inclusive.
        headings: Degrees of the database (N,) and the queries (Q,); `None` if headings do not matter.
        heading_tolerance: Largest difference of headings in degrees, inclusive.
    """

    def __init__(
        self,
        database: NDArray[np.float64],
        queries: NDArray[np.float64],
        radius: float,
        headings: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
        heading_tolerance: float = 180.0,
    ) -> None:
        if database.ndim != 2 or queries.ndim != 2 or database.shape[1] != queries.shape[1]:
            raise ValueError(
                f"Expected positions (N, M) and (Q, M) with equal numbers of coordinates, "
                f"got {database.shape} and {queries.shape}."
            )
        self._points = (database, queries) if np.isnan(database).any() or np.isnan(queries).any() else None
        if self._points is not None:  # heights are compared one by one, within the circle
            database, queries = (np.delete(points, 2, axis=1) for points in self._points)
        self._tree = cKDTree(database)
        self._queries, self._radius = queries, radius
        self._headings, self._heading_tolerance = headings, heading_tolerance

    def __len__(self) -> int:
        return len(self._queries)

    def __getitem__(self, query: int, /) -> NDArray[np.int64]:
        rows = np.array(self._tree.query_ball_point(self._queries[query], self._radius), dtype=np.int64)
        if self._points is not None:
            steps = np.nan_to_num(self._points[0][rows] - self._points[1][query], nan=0.0)
            rows = rows[np.linalg.norm(steps, axis=1) <= self._radius]
        if self._headings is None:
            return rows
        return rows[angle_between(self._headings[0][rows], self._headings[1][query]) <= self._heading_tolerance]


def photo_distances(
    queries: PhotoSet, query_rows: NDArray[np.int64], database: PhotoSet, database_rows: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Return the distances in metres (K,) of K queries and K database photos; infinite for two regions.

    Heights that are not known are not compared. `None` if positions are unknown.
    """
    if queries.positions is None or database.positions is None:
        return None
    _check_units(database, queries)
    steps = queries.take(query_rows).points() - database.take(database_rows).points()
    metres = np.linalg.norm(np.nan_to_num(steps, nan=0.0), axis=1)
    if queries.in_degrees:
        metres = arcs(metres)
    if queries.regions is not None and database.regions is not None:
        pairs = zip(query_rows.tolist(), database_rows.tolist(), strict=True)
        metres[[queries.regions[query] != database.regions[row] for query, row in pairs]] = np.inf
    return metres


def _check_units(database: PhotoSet, queries: PhotoSet) -> None:
    if database.in_degrees != queries.in_degrees:
        units = ["degrees" if photos.in_degrees else "metres" for photos in (database, queries)]
        raise ValueError(f"The database has positions in {units[0]}, the queries in {units[1]}. Give both in the same unit.")


def _separate_regions(
    points: tuple[NDArray[np.float64], NDArray[np.float64]],
    regions: tuple[Sequence[str] | None, Sequence[str] | None],
    radius: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Add a coordinate to the points of database and queries that separates those of two regions by more than the radius."""
    names = [[""] * len(side) if named is None else list(named) for side, named in zip(points, regions, strict=True)]
    numbers = number_values(names[0] + names[1]) * (2 * radius + 1)
    separated = [np.column_stack([side, gaps]) for side, gaps in zip(points, np.split(numbers, [len(names[0])]), strict=True)]
    return separated[0], separated[1]


def _cells_of_degrees(positions: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Return the row and column (N, 2) of the cell of each position, on a grid of about `side` metres on the sphere."""
    latitudes, longitudes = np.radians(positions).T
    rows = np.floor(latitudes * EARTH_RADIUS / side)
    widths = EARTH_RADIUS * np.cos(np.clip((rows + 0.5) * side / EARTH_RADIUS, -np.pi / 2, np.pi / 2))
    turns = (longitudes + np.pi) % (2 * np.pi) - np.pi  # 180 and -180 degrees are one meridian
    return np.column_stack([rows, np.floor(turns * np.maximum(widths, side) / side)])


def angle_between(first: NDArray[np.floating], second: float | NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the angle between directions in degrees, from 0 to 180: between 350 and 10 it is 20."""
    return np.abs((first - second + 180) % 360 - 180)
