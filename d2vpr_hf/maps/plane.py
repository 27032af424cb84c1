"""A plane in metres on which positions are projected, x to the east and y to the north."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places import Place
from d2vpr_hf.places.geometry import EARTH, arcs, earth_degrees, earth_vectors, frame_points
from d2vpr_hf.places.place import LOCAL_FRAME, WITHOUT_ZONE, all_with_degrees

_EQUATOR = 6_378_137.0  # metres; radius of the sphere of the web maps' projection
HIGHEST = 85.0  # degrees of latitude, near the edge of web maps
_POLAR = 84.0  # degrees of latitude; maps of places beyond it are drawn around their centre


@dataclass(frozen=True)
class Plane:
    """The projection of places to a plane.

    Attributes:
        frame: `None` for latitudes and longitudes; otherwise the name of the frame, from [`frame_points`].
        latitude, longitude: The middle of the map in degrees. Distances in the Mercator projection are true metres at this
            latitude, and the map ends half around the Earth from this longitude, so that it can cross the date line.
        is_polar: Whether directions and distances from the middle are drawn, instead of the Mercator projection of web maps.
    """

    frame: str | None
    latitude: float = 0.0
    longitude: float = 0.0
    is_polar: bool = False

    @classmethod
    def of(cls, places: Sequence[Place]) -> "Plane | None":
        """Return the plane in which most places have a position; degrees are preferred. `None` if no place has a position."""
        frames = frame_points(places)
        if not frames:
            return None
        counts = {frame: len(rows) for frame, (rows, _) in frames.items()}
        num_placed = len(np.unique(np.concatenate([rows for rows, _ in frames.values()])))
        if 2 * counts.get(EARTH, 0) < num_placed:
            frame = max(sorted(counts), key=lambda name: counts[name])
            if frame != EARTH:
                return cls(frame)
        degrees = _degrees(places)
        degrees = degrees[np.isfinite(degrees).all(axis=1)]
        latitude = float(np.median(degrees[:, 0]))
        if abs(latitude) > _POLAR:
            return cls(None, *earth_degrees(earth_vectors(degrees[:, 0], degrees[:, 1]).mean(axis=0)), is_polar=True)
        return cls(None, latitude, _middle_longitude(degrees[:, 1]))

    @property
    def is_web_map(self) -> bool:
        """Whether the plane is that of web maps and their tiles."""
        return self.frame is None and not self.is_polar

    @property
    def is_north_up(self) -> bool:
        """Whether north is up in the whole plane: axes of local frames have any direction, and meridians meet at a pole."""
        return self.is_web_map or (self.frame is not None and not self.frame.startswith((LOCAL_FRAME, WITHOUT_ZONE)))

    def project(self, places: Sequence[Place]) -> NDArray[np.float64]:
        """Return x and y of each place in metres (N, 2); NaN for places without a position in this frame."""
        if self.frame is None:
            degrees = _degrees(places)
            return self._around_middle(degrees) if self.is_polar else self._mercator(degrees)
        projected = np.full((len(places), 2), np.nan)
        rows, points = frame_points(places).get(self.frame, (np.empty(0, np.int64), np.empty((0, 3))))
        projected[rows] = points[:, :2]
        return projected

    def _mercator(self, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Mercator coordinates of degrees (N, 2), scaled to true metres at the plane's latitude."""
        latitudes = np.where(np.abs(degrees[:, 0]) <= HIGHEST, degrees[:, 0], np.nan)
        longitudes = degrees[:, 1] + 360 * np.round((self.longitude - degrees[:, 1]) / 360)  # the turn nearest to the middle
        return self._radius * np.stack([np.radians(longitudes), np.arcsinh(np.tan(np.radians(latitudes)))], axis=1)

    def _around_middle(self, degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return true distances from the middle in true directions (azimuthal equidistant projection), (N, 2) metres."""
        phi, turn = math.radians(self.latitude), math.radians(self.longitude)
        east = np.array([-math.sin(turn), math.cos(turn), 0.0])
        north = np.array([-math.sin(phi) * math.cos(turn), -math.sin(phi) * math.sin(turn), math.cos(phi)])
        vectors = earth_vectors(degrees[:, 0], degrees[:, 1])
        directions = vectors @ np.stack([east, north], axis=1)
        distances = arcs(np.linalg.norm(vectors - earth_vectors(self.latitude, self.longitude), axis=1))
        lengths = np.linalg.norm(directions, axis=1)
        return directions * (distances / np.maximum(lengths, 1e-9))[:, None]

    def stretch(self, y: float) -> float:
        """Return the metres in this plane of a true metre at a height of the plane."""
        return math.cos(math.radians(self.latitude)) * math.cosh(y / self._radius) if self.is_web_map else 1.0

    def world(self) -> float:
        """Return the width of the whole web map in metres; the map is centred at 0."""
        return 2 * math.pi * self._radius

    @property
    def _radius(self) -> float:
        return _EQUATOR * math.cos(math.radians(self.latitude))


def _degrees(places: Sequence[Place]) -> NDArray[np.float64]:
    """Return latitude and longitude of each place (N, 2), NaN where they are not known."""
    pairs = [
        (math.nan, math.nan) if place.latitude is None or place.longitude is None else (place.latitude, place.longitude)
        for place in all_with_degrees(places)
    ]
    return np.array(pairs, np.float64).reshape(-1, 2)


def _middle_longitude(longitudes: NDArray[np.float64]) -> float:
    """Return the longitude in the middle of all, which is opposite the widest gap between them."""
    ordered = np.unique(longitudes % 360)
    gaps = np.diff(ordered, append=ordered[0] + 360)
    widest = int(np.argmax(gaps))
    middle = float(ordered[widest] + gaps[widest] / 2 + 180)
    return (middle + 180) % 360 - 180
