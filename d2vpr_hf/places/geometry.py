"""Coordinates in which the positions of places are compared.

Degrees are compared on the sphere, as vectors from its centre: distances then hold across UTM zones, the equator, the date line
and the poles. Metres of a local frame, and metres without a UTM zone, are compared only within their frame.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2vpr_hf.places.place import (
    EARTH_RADIUS,
    LOCAL_FRAME,
    WITHOUT_ZONE,
    Place,
    all_with_degrees,
    local_frame,
    place_zone,
)

EARTH = "the Earth"  # the frame of positions in degrees
_BLOCK = 50_000  # places

Coordinates = tuple[float, float, float]
FramePoints = dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]  # rows (R,) and coordinates (R, 3) by frame


def comparable_coordinates(place: Place) -> dict[str, Coordinates]:
    """Return a place's coordinates in metres by the name of their frame, in the order in which frames are preferred.

    - `"the local frame ..."`: x, y and z; z is NaN if it is not known.
    - `"the Earth"`: the vector from the centre of a sphere of `EARTH_RADIUS`, from degrees, or from UTM metres with a zone.
    - `"UTM zone 32 north"`: east, north and NaN; for metres outside the zone's bounds, which have no degrees.
    - `"UTM metres without a zone"`: east, north and NaN, without degrees.

    The dictionary is empty for a place without a position; numbers that are not finite are not a position.
    """
    return {frame: _coordinates(points[0]) for frame, (_, points) in frame_points([place]).items()}


def _coordinates(point: NDArray[np.float64]) -> Coordinates:
    x, y, z = point.tolist()
    return x, y, z


def frame_points(places: Sequence[Place]) -> FramePoints:
    """Return the rows (R,) and coordinates (R, 3) of the places in each frame, as [`comparable_coordinates`] describes them.

    Frames are in the order in which they are preferred. Many places at once are several times as fast as one by one.

    Raises:
        ValueError: If a UTM zone does not exist; the message names the place.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    points: dict[str, list[Coordinates]] = defaultdict(list)
    degrees: list[tuple[int, float, float]] = []
    for row, place in enumerate(all_with_degrees(places)):
        if place.x is not None and place.y is not None:
            frame = local_frame(place.frame)
            rows[frame].append(row)
            points[frame].append((place.x, place.y, math.nan if place.z is None else place.z))
        if place.latitude is not None and place.longitude is not None:
            degrees.append((row, place.latitude, place.longitude))
        if place.utm_east is not None and place.utm_north is not None and (place.utm_zone or place.latitude is None):
            zone = place_zone(place)
            frame = WITHOUT_ZONE if zone is None else str(zone)
            rows[frame].append(row)
            points[frame].append((place.utm_east, place.utm_north, math.nan))
    frames = {frame: (np.array(rows[frame]), np.array(points[frame], np.float64)) for frame in rows}
    if degrees:
        located = np.array(degrees, np.float64)
        frames[EARTH] = located[:, 0].astype(np.int64), earth_vectors(located[:, 1], located[:, 2])
    placed = {}
    for frame in sorted(frames, key=_preference):
        numbers, coordinates = frames[frame]
        is_finite = np.isfinite(coordinates[:, :2]).all(axis=1)
        if is_finite.any():
            placed[frame] = numbers[is_finite], coordinates[is_finite]
    return placed


def _preference(frame: str) -> int:
    """Return the rank of a frame: local frames, degrees, UTM zones, metres without a zone."""
    if frame == EARTH:
        return 1
    if frame == WITHOUT_ZONE:
        return 3
    return 0 if frame.startswith(LOCAL_FRAME) else 2


def earth_vectors(latitudes: ArrayLike, longitudes: ArrayLike) -> NDArray[np.float64]:
    """Return vectors (..., 3) in metres from the centre of the sphere to positions (...) in degrees."""
    phi, turn = np.radians(latitudes), np.radians(longitudes)
    return EARTH_RADIUS * np.stack([np.cos(phi) * np.cos(turn), np.cos(phi) * np.sin(turn), np.sin(phi)], axis=-1)


def earth_degrees(vector: ArrayLike) -> tuple[float, float]:
    """Return latitude and longitude in degrees of a vector (3,) from the centre of the sphere, of any length above 0."""
    x, y, z = np.asarray(vector, np.float64).tolist()
    return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))


def chord(arc: float) -> float:
    """Return the straight distance of two points on the sphere in metres, from their distance along the surface."""
    return 2 * EARTH_RADIUS * math.sin(min(arc / EARTH_RADIUS, math.pi) / 2)


def arcs(chords: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return distances along the surface in metres (...), from straight distances (...) of points on the sphere."""
    return 2 * EARTH_RADIUS * np.arcsin(np.minimum(np.asarray(chords, np.float64) / (2 * EARTH_RADIUS), 1.0))


def distances_in_frame(frame: str, first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the distances in metres of points (..., 3) and (..., 3) of one frame; along the surface in the frame `EARTH`.

    A height that is NaN is not known: the distance is then that in the plane.
    """
    if frame == EARTH:
        return arcs(np.linalg.norm(first - second, axis=-1))
    return np.asarray(np.linalg.norm(np.nan_to_num(first - second, nan=0.0), axis=-1))


def distances_in_frames(frames: FramePoints, count: int) -> NDArray[np.float64]:
    """Return the distances in metres (N, N) between `count` places, from their [`frame_points`].

    They are infinite for two places without a common frame.
    """
    distances = np.full((count, count), np.inf)
    for frame, (rows, points) in reversed(frames.items()):  # preferred frames overwrite others
        inside = ... if len(rows) == count else np.ix_(rows, rows)  # the first one is faster
        distances[inside] = distances_in_frame(frame, points[:, None], points[None])
    return distances


def distances_from(place: Place, places: Sequence[Place]) -> NDArray[np.float64]:
    """Return the distances in metres (N,) from a place to others; infinite for those without a common frame."""
    origins = frame_points([place])
    parts = [np.empty(0)]
    for block in place_blocks(places):
        distances = np.full(len(block), np.inf)
        for frame, (rows, points) in reversed(frame_points(block).items()):
            if frame in origins:
                distances[rows] = distances_in_frame(frame, points, origins[frame][1])
        parts.append(distances)
    return np.concatenate(parts)


def place_blocks(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Yield places in blocks: all places of a large index would take much memory at once."""
    remaining = iter(places)
    while block := list(itertools.islice(remaining, _BLOCK)):
        yield block
