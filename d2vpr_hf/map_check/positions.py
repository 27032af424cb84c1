"""Positions of a map's photos as arrays: distances of many pairs, the nearest other position, and square areas."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2vpr_hf.places import Place
from d2vpr_hf.places.geometry import EARTH, arcs, distances_in_frame, frame_points
from d2vpr_hf.places.place import EARTH_RADIUS

NO_FRAME = -1  # of a photo without a position


@dataclass(frozen=True)
class MapPositions:
    """Positions of N photos, each in the first frame that it has, as [`frame_points`] orders them.

    Attributes:
        frames: Names of the frames.
        codes: (N,) number of each photo's frame, or `NO_FRAME`.
        points: (N, 3) coordinates in that frame, as of `comparable_coordinates`; NaN without a position.
        headings: (N,) headings of the photos in degrees, or yaws in a local frame; NaN if not known.
    """

    frames: tuple[str, ...]
    codes: NDArray[np.int64]
    points: NDArray[np.float64]
    headings: NDArray[np.float64]

    @classmethod
    def of(cls, places: Sequence[Place]) -> "MapPositions":
        """Return the positions of places.

        Raises:
            ValueError: If a UTM zone does not exist; the message names the place.
        """
        located = frame_points(places)
        codes = np.full(len(places), NO_FRAME)
        points = np.full((len(places), 3), np.nan)
        for number, (rows, coordinates) in reversed(list(enumerate(located.values()))):  # preferred frames overwrite others
            codes[rows] = number
            points[rows] = coordinates
        directions = [place.yaw if place.heading is None and place.is_local else place.heading for place in places]
        return cls(tuple(located), codes, points, np.array(directions, np.float64))

    def take(self, rows: NDArray[np.int64]) -> "MapPositions":
        """Return the positions of some photos."""
        return MapPositions(self.frames, self.codes[rows], self.points[rows], self.headings[rows])

    def distances(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the distances (...) in metres of photos whose numbers broadcast; infinite without a common frame."""
        first, second = np.broadcast_arrays(first, second)
        distances = np.full(first.shape, np.inf)
        for code, frame in enumerate(self.frames):
            both = (self.codes[first] == code) & (self.codes[second] == code)
            distances[both] = distances_in_frame(frame, self.points[first[both]], self.points[second[both]])
        return distances

    def to_nearest(self) -> NDArray[np.float64]:
        """Return the distance (N,) in metres of each photo to the nearest other one, as of [`distances`]; infinite without."""
        nearest = np.full(len(self.codes), np.inf)
        for code, frame in enumerate(self.frames):
            rows = np.flatnonzero(self.codes == code)
            if len(rows) > 1:
                straight = _straight_to_nearest(self.points[rows])
                nearest[rows] = arcs(straight) if frame == EARTH else straight
        return nearest


@dataclass(frozen=True)
class AreaGrid:
    """Square areas of a map, on the Earth between parallels and meridians.

    Attributes:
        side: Side of an area in metres.
        cells: (A, 3) frame, column and row of each area.
        numbers: (N,) number of each photo's area, or -1 without a position.
    """

    side: float
    cells: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, positions: MapPositions, side: float) -> "AreaGrid":
        """Divide a map into areas, and return those with photos."""
        cells = np.full((len(positions.codes), 3), NO_FRAME)
        for code, frame in enumerate(positions.frames):
            rows = np.flatnonzero(positions.codes == code)
            x, y = positions.points[rows, 0], positions.points[rows, 1]
            if frame == EARTH:
                north = EARTH_RADIUS * np.arcsin(np.clip(positions.points[rows, 2] / EARTH_RADIUS, -1, 1))
                turn = np.arctan2(y, x)
                x, y = EARTH_RADIUS * turn * _shrinkage(np.floor(north / side), side), north
            cells[rows] = np.column_stack([np.full(len(rows), code), np.floor(x / side), np.floor(y / side)]).astype(np.int64)
        located = np.flatnonzero(cells[:, 0] != NO_FRAME)
        distinct, inverse = np.unique(cells[located], axis=0, return_inverse=True)
        numbers = np.full(len(cells), -1)
        numbers[located] = inverse.reshape(-1)
        return cls(side, distinct, numbers)

    def corners(self, area: int) -> tuple[float, float, float, float]:
        """Return the west, south, east and north edges of an area: degrees on the Earth, else metres of its frame."""
        _, column, row = (self.cells[area] * 1.0).tolist()
        return column * self.side, row * self.side, (column + 1) * self.side, (row + 1) * self.side

    def degrees(self, area: int) -> tuple[float, float, float, float]:
        """Return west, south, east and north in degrees of an area in the frame `EARTH`."""
        west, south, east, north = self.corners(area)
        shrinkage = float(_shrinkage(self.cells[area, 2], self.side))
        to_degrees = math.degrees(1 / EARTH_RADIUS)
        west, east = (max(-180.0, min(180.0, edge / shrinkage * to_degrees)) for edge in (west, east))  # ends at the date line
        south, north = (max(-90.0, min(90.0, edge * to_degrees)) for edge in (south, north))
        return west, south, east, north


def _straight_to_nearest(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance (R,) of points (R, 3) to the nearest other one: in the plane where a height of both is not known."""
    is_flat = np.isnan(points[:, 2])
    solid, flat = points[~is_flat], points[is_flat, :2]
    nearest = np.full(len(points), np.inf)
    if len(solid):
        nearest[~is_flat] = cKDTree(solid).query(solid, k=2)[0][:, 1]
    if len(flat):
        nearest[is_flat] = cKDTree(points[:, :2]).query(flat, k=2)[0][:, 1]
        nearest[~is_flat] = np.minimum(nearest[~is_flat], cKDTree(flat).query(solid[:, :2])[0])
    return nearest


def _shrinkage(row: NDArray[np.floating] | np.int64, side: float) -> NDArray[np.float64]:
    """Return the length of a degree of longitude in the middle of a row of areas, relative to one on the equator."""
    middle = np.clip((np.asarray(row) + 0.5) * side / EARTH_RADIUS, -math.pi / 2, math.pi / 2)
    return np.maximum(np.cos(middle), 1e-6)
