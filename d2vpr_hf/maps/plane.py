"""From positions to a plane in metres, x to the east and y to the north."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places import Place, flat_coordinates
from d2vpr_hf.places.place import with_degrees

_EQUATOR = 6_378_137.0  # metres, the radius of the sphere that web maps are projected from
_HIGHEST = 85.0  # degrees of latitude, near the edge of web maps


@dataclass(frozen=True)
class Plane:
    """A frame that places can be drawn in.

    Attributes:
        frame: `None` for latitudes and longitudes, drawn in the web maps' Mercator projection; else the flat frame's name, as
            [`flat_coordinates`] has it.
        latitude: Of the middle, in degrees: there the projection's metres are metres.
    """

    frame: str | None
    latitude: float = 0.0

    @classmethod
    def of(cls, places: Sequence[Place]) -> "Plane | None":
        """Choose the frame that most places have a position in, degrees before others; `None` if no place has any."""
        latitudes = [place.latitude for place in map(with_degrees, places) if place.latitude is not None]
        if latitudes and 2 * len(latitudes) >= sum(place.has_position for place in places):
            return cls(None, float(np.clip(np.median(latitudes), -_HIGHEST, _HIGHEST)))
        frames = [name for place in places for name in list(flat_coordinates(place))[:1]]
        return cls(max(sorted(set(frames)), key=frames.count)) if frames else None

    def project(self, places: Sequence[Place]) -> NDArray[np.float64]:
        """Return x and y of each place in metres (N, 2); NaN for places that have no position in this frame."""
        found = [self._project(place) for place in places]
        return np.array(found, np.float64).reshape(-1, 2)

    def _project(self, place: Place) -> tuple[float, float]:
        if self.frame is not None:
            x, y = (*flat_coordinates(place).get(self.frame, (math.nan, math.nan)),)[:2]
            return x, y
        place = with_degrees(place)
        if place.latitude is None or place.longitude is None or abs(place.latitude) > _HIGHEST:
            return math.nan, math.nan
        return self.metres(place.latitude, place.longitude)

    def metres(self, latitude: float, longitude: float) -> tuple[float, float]:
        """Project degrees, in Mercator shrunk to metres at the middle's latitude."""
        shrink = _EQUATOR * math.cos(math.radians(self.latitude))
        return shrink * math.radians(longitude), shrink * math.asinh(math.tan(math.radians(latitude)))

    def world(self) -> float:
        """Return the metres that the whole web map is wide: half of it lies to either side of 0."""
        return 2 * math.pi * _EQUATOR * math.cos(math.radians(self.latitude))
