"""Numbers of map photos near positions, by which the probabilities of movements sum to 1."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2vpr_hf.places.geometry import EARTH, earth_vectors
from d2vpr_hf.places.place_columns import PlaceColumns, is_known
from d2vpr_hf.sequences.states import Floats, States

_SAMPLE = 2000  # photos whose distance to the next position is measured
_SAME_SPOT = 1.0  # metres within which photos show views of one position
SPACING = (5.0, 25.0)  # metres; the spacing of a map is kept between them


class Density(Protocol):
    """The positions of a map."""

    @property
    def num_photos(self) -> int:
        """The number of photos with a position."""

    @property
    def spacing(self) -> float:
        """Usual distance in metres between neighbouring positions."""

    def count(self, states: States, radii: NDArray[np.float64]) -> Floats:
        """Return the number of the map's photos within a radius (S,) in metres of each state, at least 1: (S,)."""


class MapDensity:
    """The positions of a map's photos in k-d trees, one for each frame.

    Args:
        columns: The fields of the photos' places.
    """

    def __init__(self, columns: PlaceColumns) -> None:
        points_of = _points_of_frames(columns)
        self._trees = {name: cKDTree(points) for name, points in points_of.items()}
        self._num_photos = sum(map(len, points_of.values()))
        self._spacing = _spacing(points_of)

    @property
    def num_photos(self) -> int:
        """The number of photos with a position."""
        return self._num_photos

    @property
    def spacing(self) -> float:
        """Usual distance in metres between neighbouring positions, within `SPACING`."""
        return self._spacing

    def count(self, states: States, radii: NDArray[np.float64]) -> Floats:
        """Return the number of the map's photos within a radius (S,) in metres of each state, at least 1: (S,)."""
        counts = np.ones(len(states))
        for name in set(states.frames.tolist()) & self._trees.keys():
            tree, rows = self._trees[name], np.flatnonzero(states.frames == name)
            points = states.points[rows][:, : tree.m]
            counts[rows] = tree.query_ball_point(points, np.maximum(radii[rows], 0.0), return_length=True)
        return np.maximum(counts, 1.0)


def _points_of_frames(columns: PlaceColumns) -> dict[str, Floats]:
    """Return the points of the photos in each frame; a photo with several positions is in the preferred frame only."""
    points_of: dict[str, Floats] = {}
    is_left = np.ones(len(columns), bool)
    local, degrees = columns.local_points, columns.degrees
    _add_frames(points_of, columns.local_frames, local[:, :2], is_left)
    on_earth = is_left & is_known(degrees)
    if on_earth.any():
        points_of[EARTH] = earth_vectors(*degrees[on_earth].T)
        is_left &= ~on_earth
    _add_frames(points_of, columns.utm_frames, columns.utm_points, is_left)
    return points_of


def _add_frames(
    points_of: dict[str, Floats], frames: tuple[NDArray[np.int64], list[str]], points: Floats, is_left: NDArray[np.bool_]
) -> None:
    """Add the points of flat frames, and take their photos from those that are left."""
    codes, names = frames
    for number, name in enumerate(names):
        inside = is_left & (codes == number) & np.isfinite(points).all(axis=1)
        if inside.any():
            earlier = points_of.get(name)
            points_of[name] = points[inside] if earlier is None else np.concatenate([earlier, points[inside]])
            is_left &= ~inside


def _spacing(points_of: dict[str, Floats]) -> float:
    """Return the median distance from a position to the nearest other one, for a sample of the largest frame."""
    points = max(points_of.values(), key=len, default=np.empty((0, 2)))
    if len(points):
        points = np.unique(np.round(points / _SAME_SPOT), axis=0) * _SAME_SPOT
    if len(points) < 2:
        return SPACING[1]
    step = max(1, len(points) // _SAMPLE)
    distances = cKDTree(points).query(points[::step], k=2)[0][:, 1]
    return float(np.clip(np.median(distances), *SPACING))
