"""A plane in metres on which positions are projected, x to the east and y to the north."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places import Place, flat_coordinates
from d2vpr_hf.places.place import with_degrees

_EQUATOR = 6_378_137.0  # metres; radius of the sphere of the web maps' projection
_HIGHEST = 85.0  # degrees of latitude, near the edge of web maps


@dataclass(frozen=True)
class Plane:
    """The projection of places to a plane.

    Attributes:
        frame: `None` for the Mercator projection of latitudes and longitudes, as in web maps; otherwise the name of the flat
            frame, from [`flat_coordinates`].
        latitude: Latitude in degrees at which distances in the Mercator projection are true metres.
    """

    frame: str | None
    latitude: float = 0.0

    @classmethod
    def of(cls, places: Sequence[Place]) -> "Plane | None":
        """Return the plane in which most places have a position; degrees are preferred. `None` if no place has a position."""
        latitudes = [place.latitude for place in map(with_degrees, places) if place.latitude is not None]
        if latitudes and 2 * len(latitudes) >= sum(place.has_position for place in places):
            return cls(None, float(np.clip(np.median(latitudes), -_HIGHEST, _HIGHEST)))
        frames = [name for place in places for name in list(flat_coordinates(place))[:1]]
        return cls(max(sorted(set(frames)), key=frames.count)) if frames else None

    def project(self, places: Sequence[Place]) -> NDArray[np.float64]:
        """Return x and y of each place in metres (N, 2); NaN for places without a position in this frame."""
        points = [self._project(place) for place in places]
        return np.array(points, np.float64).reshape(-1, 2)

    def _project(self, place: Place) -> tuple[float, float]:
        if self.frame is not None:
            x, y = flat_coordinates(place).get(self.frame, (math.nan, math.nan))[:2]
            return x, y
        place = with_degrees(place)
        if place.latitude is None or place.longitude is None or abs(place.latitude) > _HIGHEST:
            return math.nan, math.nan
        return self.metres(place.latitude, place.longitude)

    def metres(self, latitude: float, longitude: float) -> tuple[float, float]:
        """Return the Mercator coordinates of degrees, scaled to true metres at the plane's latitude."""
        radius = _EQUATOR * math.cos(math.radians(self.latitude))
        return radius * math.radians(longitude), radius * math.asinh(math.tan(math.radians(latitude)))

    def world(self) -> float:
        """Return the width of the whole web map in metres; the map is centred at 0."""
        return 2 * math.pi * _EQUATOR * math.cos(math.radians(self.latitude))
