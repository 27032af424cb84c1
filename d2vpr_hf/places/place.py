"""Places: the position, heading and time at which a photo was taken."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import utm
from numpy.typing import NDArray

EARTH_RADIUS = 6_371_008.8  # metres, the mean radius of the IUGG
POSITIVE_DIST_THRESHOLD = 25.0  # metres within which photos show the same place, the field's usual number
POSITION_PAIRS = (("latitude", "longitude"), ("utm_east", "utm_north"), ("x", "y"))

_Value = TypeVar("_Value", int, str)


@dataclass(frozen=True)
class Place:
    """A photo and its position. `None` means not known; a photo without any position can still be retrieved.

    Attributes:
        path: Path of the photo, relative to the folder that was read, with forward slashes.
        latitude, longitude: WGS 84, degrees.
        utm_east, utm_north: Metres in the UTM zone `utm_zone` (such as `"10S"`); without a zone, metres in an unknown flat
            frame, as in data sets with mock coordinates.
        x, y, z: Metres in the local frame `frame`, for indoor maps; `yaw` in degrees.
        heading: Compass direction of the camera, in degrees clockwise from north.
        timestamp: Time at which the photo was taken, as its source writes it; the year of an `@` name as `2019-01`. The forms
            that [`to_seconds`] reads count as times.
        condition: Light or weather in the photo, such as `"night"`, as its source writes it.
    """

    path: str
    latitude: float | None = None
    longitude: float | None = None
    utm_east: float | None = None
    utm_north: float | None = None
    utm_zone: str | None = None
    x: float | None = None
    y: float | None = None
    z: float | None = None
    yaw: float | None = None
    frame: str | None = None
    heading: float | None = None
    timestamp: str | None = None
    condition: str | None = None

    @property
    def has_position(self) -> bool:
        """Whether any kind of position is known."""
        return None not in (self.latitude, self.longitude) or None not in (self.utm_east, self.utm_north) or self.is_local

    @property
    def is_local(self) -> bool:
        """Whether the position is in a local frame."""
        return None not in (self.x, self.y)

    def to_dict(self, *names: str) -> dict[str, Any]:
        """Return the fields of these names, in their order, for JSON; fields that are not known are `None`."""
        return {name: getattr(self, name) for name in names}


_TYPES: dict[Any, pa.DataType] = {float | None: pa.float64(), str | None: pa.string(), str: pa.string()}
PLACE_SCHEMA = pa.schema([(field.name, _TYPES[field.type]) for field in fields(Place)])  # columns of a table of places


def parse_number(text: str) -> float:
    """Read a finite number; raise ValueError for anything else."""
    value = float(text) if "_" not in text else math.nan  # `1_000` is a Python literal, not a number in a table
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {text}")
    return value


def number_values(values: Sequence[_Value]) -> NDArray[np.int64]:
    """Return the numbers (N,) of values, from 0 without gaps in the order of the values; equal values have equal numbers."""
    numbers = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([numbers[value] for value in values], np.int64)


def check_degrees(latitude: float, longitude: float) -> None:
    """Raise ValueError unless the latitude is in [-90, 90] and the longitude in [-180, 180] degrees."""
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError(f"latitude must be in [-90, 90] and longitude in [-180, 180] degrees, got {latitude} and {longitude}")


def check_place(place: Place) -> None:
    """Raise ValueError if a place has only half a position, or a latitude or longitude that is not on the globe."""
    for first, second in POSITION_PAIRS:
        if (getattr(place, first) is None) != (getattr(place, second) is None):
            raise ValueError(f"{first} and {second} belong together, but one of them is empty")
    if place.latitude is not None and place.longitude is not None:
        check_degrees(place.latitude, place.longitude)


def with_utm(place: Place) -> Place:
    """Add UTM coordinates to a place that has a latitude and longitude, where UTM is defined (80° S to 84° N)."""
    return all_with_utm([place])[0]


def all_with_utm(places: Sequence[Place]) -> list[Place]:
    """Add UTM coordinates to many places, several times as fast as [`with_utm`]; existing UTM coordinates stay."""
    converted = list(places)
    for (number, letter), rows in _rows_of_zones(converted).items():
        degrees = np.array([(converted[row].latitude, converted[row].longitude) for row in rows])
        easts, norths, _, _ = utm.from_latlon(*degrees.T, force_zone_number=number, force_zone_letter=letter)
        for row, east, north in zip(rows, easts.tolist(), norths.tolist(), strict=True):
            converted[row] = replace(converted[row], utm_east=east, utm_north=north, utm_zone=f"{number}{letter}")
    return converted


def _rows_of_zones(places: list[Place]) -> dict[tuple[int, str], list[int]]:
    """Return the rows of the places of each UTM zone that have a latitude and longitude but no UTM coordinates yet."""
    rows = defaultdict(list)
    for row, place in enumerate(places):
        if place.latitude is None or place.longitude is None or place.utm_east is not None or not -80 <= place.latitude <= 84:
            continue
        zone = utm.latlon_to_zone_number(place.latitude, place.longitude), utm.latitude_to_zone_letter(place.latitude)
        rows[zone].append(row)
    return rows


def with_degrees(place: Place) -> Place:
    """Add latitude and longitude to a place with UTM coordinates and a zone; a place outside its zone does not get them."""
    if place.latitude is not None or place.utm_zone is None or place.utm_east is None:
        return place
    try:
        latitude, longitude = utm.to_latlon(place.utm_east, place.utm_north, int(place.utm_zone[:-1]), place.utm_zone[-1])
    except utm.OutOfRangeError:
        return place
    return replace(place, latitude=float(latitude), longitude=float(longitude))


def flat_coordinates(place: Place) -> dict[str, tuple[float, ...]]:
    """Return a place's metres in each flat frame, by the frame's name: first the local frame, then UTM.

    Three metres in a local frame, where a missing `z` counts as 0, and two in UTM; they are comparable within one frame only.
    Zone letters name latitude bands, so a UTM frame is a zone number and a hemisphere.
    """
    metres: dict[str, tuple[float, ...]] = {}
    if place.x is not None and place.y is not None:
        metres[f"the local frame {place.frame or ''}".rstrip()] = (place.x, place.y, place.z or 0.0)
    if place.utm_east is not None and place.utm_north is not None:
        metres[_utm_frame(place.utm_zone)] = (place.utm_east, place.utm_north)
    return metres


def position_text(place: Place, digits: int = 2) -> str:
    """Return a position as text; empty if it is not known.

    Args:
        place: The place.
        digits: Decimals of local metres; UTM has one fewer, and degrees have four more, which is about the same precision.
    """
    if place.is_local:
        return f"x {place.x:.{digits}f} m, y {place.y:.{digits}f} m"
    if place.latitude is not None and place.longitude is not None:
        return f"{place.latitude:.{digits + 4}f}, {place.longitude:.{digits + 4}f}"
    return "" if place.utm_east is None else f"{place.utm_east:.{digits - 1}f} E, {place.utm_north:.{digits - 1}f} N"


def distance_in_metres(first: Place, second: Place) -> float | None:
    """Return the distance of two places in metres; `None` if their positions cannot be compared.

    The distance is planar in a common local frame or UTM zone, and on the sphere otherwise.
    """
    here, there = flat_coordinates(first), flat_coordinates(second)
    for frame in here:
        if frame in there:
            return math.dist(here[frame], there[frame])
    if None not in (first.latitude, second.latitude):
        return _great_circle(first, second)
    return None


def _utm_frame(zone: str | None) -> str:
    if not zone:
        return "UTM metres without a zone"
    return f"UTM zone {int(zone[:-1])} {'north' if zone[-1] >= 'N' else 'south'}"


def _great_circle(first: Place, second: Place) -> float:
    latitudes = math.radians(first.latitude or 0.0), math.radians(second.latitude or 0.0)
    turn = math.radians((second.longitude or 0.0) - (first.longitude or 0.0))
    haversine = (
        math.sin((latitudes[1] - latitudes[0]) / 2) ** 2
        + math.cos(latitudes[0]) * math.cos(latitudes[1]) * math.sin(turn / 2) ** 2
    )
    return 2 * EARTH_RADIUS * math.asin(min(1.0, math.sqrt(haversine)))
