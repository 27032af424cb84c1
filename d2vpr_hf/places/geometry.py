"""Coordinates in which the positions of places are compared.

Degrees are compared on the sphere, as vectors from its centre: distances then hold across UTM zones, the equator, the date line
and the poles. Metres of a local frame, and metres without a UTM zone, are compared only within their frame.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2vpr_hf.places.place import EARTH_RADIUS, WITHOUT_ZONE, Place, local_frame, place_zone, with_degrees

EARTH = "the Earth"  # the frame of positions in degrees

Coordinates = tuple[float, float, float]


def comparable_coordinates(place: Place) -> dict[str, Coordinates]:
    """Return a place's coordinates in metres by the name of their frame, in the order in which frames are preferred.

    - `"the local frame ..."`: x, y and z; z is NaN if it is not known.
    - `"the Earth"`: the vector from the centre of a sphere of `EARTH_RADIUS`, from degrees, or from UTM metres with a zone.
    - `"UTM metres without a zone"`: east, north and NaN.

    The dictionary is empty for a place without a position.
    """
    coordinates: dict[str, Coordinates] = {}
    if place.x is not None and place.y is not None:
        coordinates[local_frame(place.frame)] = (place.x, place.y, math.nan if place.z is None else place.z)
    located = with_degrees(place)
    if located.latitude is not None and located.longitude is not None:
        x, y, z = earth_vectors(located.latitude, located.longitude).tolist()
        coordinates[EARTH] = (x, y, z)
    elif place.utm_east is not None and place.utm_north is not None:
        frame = WITHOUT_ZONE if not place.utm_zone else f"{place_zone(place)}, out of its bounds"
        coordinates[frame] = (place.utm_east, place.utm_north, math.nan)
    return coordinates


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
    steps = np.nan_to_num(first - second, nan=0.0)
    straight = np.linalg.norm(steps, axis=-1)
    return arcs(straight) if frame == EARTH else straight


def pairwise_distances(places: Sequence[Place]) -> NDArray[np.float64]:
    """Return the distances in metres (N, N) between places; infinite for two places without a common frame."""
    coordinates = [comparable_coordinates(place) for place in places]
    frames = list(dict.fromkeys(frame for frames in coordinates for frame in frames))  # preferred frames come first
    distances = np.full((len(places), len(places)), np.inf)
    for frame in reversed(frames):
        rows = np.array([row for row, frames in enumerate(coordinates) if frame in frames])
        points = np.array([coordinates[row][frame] for row in rows])
        distances[np.ix_(rows, rows)] = distances_in_frame(frame, points[:, None], points[None])
    return distances
