"""The positions that a frame may have: those of its matches, and those that earlier frames lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places import Place
from d2vpr_hf.places.geometry import EARTH, distances_in_frame, earth_degrees, frame_points
from d2vpr_hf.places.place import LOCAL_FRAME, with_utm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class States:
    """S possible positions of a frame.

    Attributes:
        places: Their places.
        frames: (S,) name of the frame of each position, as in [`frame_points`]; of several, the preferred one.
        points: (S, 3) coordinates in this frame, metres.
        headings: (S,) compass heading of the camera in degrees, or the same from a yaw; NaN if it is not known.
        directions: (S,) the heading where directions in the frame can be compared with it (y is north there); NaN elsewhere.
        spreads: (S,) metres by which the position may be wrong; 0 for a photo of the map.
    """

    places: tuple[Place, ...]
    frames: NDArray[np.str_]
    points: Floats
    headings: Floats
    directions: Floats
    spreads: Floats

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of_places(cls, places: Sequence[Place]) -> States:
        """Make the states of places, all of which have a position."""
        names = np.full(len(places), "", dtype=object)
        points = np.full((len(places), 3), np.nan)
        for name, (rows, coordinates) in reversed(frame_points(places).items()):
            names[rows], points[rows] = name, coordinates
        headings, directions = np.full((2, len(places)), np.nan)
        for row, place in enumerate(places):
            is_local = names[row].startswith(LOCAL_FRAME)
            if is_local and place.yaw is not None:  # counterclockwise from x, as in ROS (REP 103)
                headings[row] = directions[row] = (90.0 - place.yaw) % 360.0
            elif place.heading is not None:
                headings[row] = place.heading
                directions[row] = np.nan if is_local else place.heading
        return cls(tuple(places), names.astype(str), points, headings, directions, np.zeros(len(places)))

    def take(self, rows: NDArray[np.integer]) -> States:
        """Return some of the states."""
        places = tuple(self.places[row] for row in rows.tolist())
        columns = (self.frames, self.points, self.headings, self.directions, self.spreads)
        return States(places, *(column[rows] for column in columns))

    def join(self, others: States) -> States:
        """Return these states followed by others."""
        names = ("frames", "points", "headings", "directions", "spreads")
        columns = {name: np.concatenate([getattr(self, name), getattr(others, name)]) for name in names}
        return States(places=(*self.places, *others.places), **columns)

    def widen(self, metres: float) -> States:
        """Return the states with positions that may be wrong by `metres` more."""
        return replace(self, spreads=self.spreads + metres)

    def move(self, metres: float, turn: float, camera_direction: float) -> States:
        """Return the states after a movement in the direction of travel; a state without a direction stays and widens.

        Args:
            metres: Length of the movement.
            turn: Change of the heading in degrees, clockwise; half of it counts for the direction of the movement.
            camera_direction: Degrees from the direction of travel to that of the camera, clockwise.
        """
        travel = self.directions - camera_direction + turn / 2
        is_moved = np.isfinite(travel)
        angles = np.radians(np.where(is_moved, travel, 0.0))
        east, north = axes(self.frames, self.points)
        steps = metres * (np.sin(angles)[:, None] * east + np.cos(angles)[:, None] * north)
        points = np.where(is_moved[:, None], self.points + steps, self.points)
        places = tuple(
            _place_at(place, frame, point) if moved else place
            for place, frame, point, moved in zip(self.places, self.frames.tolist(), points, is_moved.tolist(), strict=True)
        )
        spreads = self.spreads + np.where(is_moved, 0.0, metres)
        headings, directions = self.headings + turn, self.directions + turn
        return States(places, self.frames, points, headings, directions, spreads)


def axes(frames: NDArray[np.str_], points: Floats) -> tuple[Floats, Floats]:
    """Return the unit vectors (S, 3) that point east and north at points (S, 3) of frames; x and y in flat frames."""
    east, north = np.tile([1.0, 0.0, 0.0], (len(points), 1)), np.tile([0.0, 1.0, 0.0], (len(points), 1))
    on_earth = frames == EARTH
    if on_earth.any():
        up = points[on_earth] / np.linalg.norm(points[on_earth], axis=1, keepdims=True)
        turn = np.arctan2(up[:, 1], up[:, 0])
        east[on_earth] = np.stack([-np.sin(turn), np.cos(turn), np.zeros_like(turn)], axis=1)
        north[on_earth] = np.cross(up, east[on_earth])
    return east, north


def state_distances(first: States, second: States) -> Floats:
    """Return the distances (S, T) in metres between states; infinite for two frames."""
    distances = np.full((len(first), len(second)), np.inf)
    for name in set(first.frames.tolist()) & set(second.frames.tolist()):
        rows, columns = np.flatnonzero(first.frames == name), np.flatnonzero(second.frames == name)
        distances[np.ix_(rows, columns)] = distances_in_frame(name, first.points[rows][:, None], second.points[columns][None])
    return distances


def bearings(first: States, second: States) -> Floats:
    """Return the compass bearings (S, T) in degrees from states to others of the same frame."""
    east, north = axes(first.frames, first.points)
    steps = np.nan_to_num(second.points[None] - first.points[:, None], nan=0.0)
    return np.asarray(np.degrees(np.arctan2((steps * east[:, None]).sum(-1), (steps * north[:, None]).sum(-1))))


def _place_at(place: Place, frame: str, point: Floats) -> Place:
    """Return a place without a path at other coordinates of its frame."""
    x, y = point[:2].tolist()
    if frame == EARTH:
        latitude, longitude = earth_degrees(point)
        return with_utm(Place("", latitude=latitude, longitude=longitude, heading=place.heading))
    if frame.startswith(LOCAL_FRAME):
        return Place("", x=x, y=y, z=place.z, yaw=place.yaw, frame=place.frame, heading=place.heading)
    return Place("", utm_east=x, utm_north=y, utm_zone=place.utm_zone, heading=place.heading)
