"""Places: the position, heading and time at which a photo was taken."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import utm
from numpy.typing import ArrayLike, NDArray

from d2vpr_hf.places.utm_zones import UtmZone, parse_zone, settle_zone, zone_degrees, zone_text

EARTH_RADIUS = 6_371_008.8  # metres, the mean radius of the IUGG
POSITIVE_DIST_THRESHOLD = 25.0  # metres within which photos show the same place, the field's usual number
LARGEST_DISAGREEMENT = 1000.0  # metres between a position in degrees and the same one in UTM metres, which may be rounded
LOCAL_FRAME = "the local frame"
WITHOUT_ZONE = "UTM metres without a zone"
POSITION_PAIRS = (("latitude", "longitude"), ("utm_east", "utm_north"), ("x", "y"))

_JSON_FIELDS = (
    *("latitude", "longitude", "utm_east", "utm_north", "utm_zone", "heading", "yaw", "frame"),
    *("timestamp", "condition"),
)
_LOCAL_FIELDS = ("x", "y", "z")
PLACE_COLUMNS = (*_JSON_FIELDS, *_LOCAL_FIELDS)  # all keys of `Place.to_dict`

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

    def to_dict(self) -> dict[str, Any]:
        """Return the position, heading and time as JSON values, in all outputs alike; `None` for those that are not known.

        The metres x, y and z are there only for a position in a local frame.
        """
        names = PLACE_COLUMNS if self.is_local else _JSON_FIELDS
        return {name: getattr(self, name) for name in names}


_TYPES: dict[Any, pa.DataType] = {float | None: pa.float64(), str | None: pa.string(), str: pa.string()}
_NUMBERS = [field.name for field in fields(Place) if field.type == float | None]
TEXT_FIELDS = frozenset(field.name for field in fields(Place)).difference(_NUMBERS)
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
    """Check that the fields of a place are in their ranges and that its positions agree.

    Timestamps are texts of any source and are not checked here; see [`d2vpr_hf.places.timestamps.to_seconds`].

    Raises:
        ValueError: If a number is not finite, a position has one of its two numbers only, a latitude, longitude, heading or UTM
            zone does not exist, or UTM metres and degrees are over `LARGEST_DISAGREEMENT` metres apart.
    """
    check_fields(place)
    error = next(_disagreements([place]), None)
    if error is not None:
        raise ValueError(error[1])


def _check_numbers(place: Place) -> None:
    for name in _NUMBERS:
        value = getattr(place, name)
        if value is None or (type(value) is float and math.isfinite(value)):  # the usual case, without the slow isinstance
            continue
        if not (isinstance(value, Real) and math.isfinite(value)):
            raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_fields(place: Place) -> None:
    """Check each field of a place as [`check_place`] does, without comparing its positions."""
    _check_numbers(place)
    for first, second in POSITION_PAIRS:
        if (getattr(place, first) is None) != (getattr(place, second) is None):
            raise ValueError(f"{first} and {second} belong together, but one of them is empty")
    if place.latitude is not None and place.longitude is not None:
        check_degrees(place.latitude, place.longitude)
    if place.heading is not None and abs(place.heading) > 360:
        raise ValueError(f"heading must be in [-360, 360] degrees, got {place.heading}")
    if place.utm_zone and (place.utm_east is None or place.utm_north is None):
        parse_zone(place.utm_zone)
    elif place.utm_zone and place.utm_east is not None and place.utm_north is not None:
        settle_zone(place.utm_zone, place.latitude, place.utm_north)
        if 1_200_000 <= place.utm_east <= 10_000_000 and 100_000 <= place.utm_north < 1_000_000:
            raise ValueError(
                f"utm_east {place.utm_east:.2f} and utm_north {place.utm_north:.2f} are swapped: eastings in zone "
                f"{place.utm_zone} are from 100000 to 1000000 metres"
            )


def check_finite_numbers(places: Iterable[Place]) -> None:
    """Check the numbers of places that a program made.

    Raises:
        ValueError: If a number is not finite; the message begins with the place's path.
    """
    for place in places:
        try:
            _check_numbers(place)
        except ValueError as error:
            raise ValueError(f"{place.path or 'A place without a path'}: {error}") from error


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
    """Add latitude and longitude to a place with UTM coordinates and a zone; mock coordinates do not get them."""
    return place if place.latitude is not None or not place.utm_zone else all_with_degrees([place])[0]


def all_with_degrees(places: Sequence[Place]) -> list[Place]:
    """Add latitudes and longitudes to many places, several times as fast as [`with_degrees`]; existing ones stay.

    Raises:
        ValueError: If a UTM zone does not exist; the message names the place.
    """
    converted = list(places)
    lacking = [row for row, place in enumerate(converted) if place.latitude is None and _is_near_zone(place)]
    for rows, latitudes, longitudes in _degrees_from_utm(converted, lacking):
        is_exact = _is_exact([converted[row] for row in rows], latitudes, longitudes)
        for row, latitude, longitude in zip(
            np.array(rows)[is_exact].tolist(), latitudes[is_exact].tolist(), longitudes[is_exact].tolist(), strict=True
        ):
            converted[row] = replace(converted[row], latitude=latitude, longitude=longitude)
    return converted


def _is_exact(places: Sequence[Place], latitudes: NDArray[np.float64], longitudes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each place of one zone whether its degrees lead back to its metres: far from a zone, the series diverge."""
    zone = place_zone(places[0])
    is_exact = np.isfinite(latitudes)
    inside = np.flatnonzero((latitudes >= -80) & (latitudes <= 84))
    if len(inside) and zone is not None:
        easts, norths, _, _ = utm.from_latlon(latitudes[inside], longitudes[inside], zone.number, force_northern=zone.is_north)
        metres = np.array([(places[row].utm_east, places[row].utm_north) for row in inside.tolist()], np.float64)
        is_exact[inside] = np.hypot(easts - metres[:, 0], norths - metres[:, 1]) < 1.0
    return is_exact


def place_zone(place: Place) -> UtmZone | None:
    """Return the UTM zone of a place, with its hemisphere; `None` if it has none.

    Negative northings are metres from the equator in southern zones too, as some programs write them.

    Raises:
        ValueError: If the zone does not exist or its hemisphere is not known; the message names the place.
    """
    if not place.utm_zone:
        return None
    try:
        zone = settle_zone(place.utm_zone, place.latitude, place.utm_north)
    except ValueError as error:
        raise ValueError(f"{place.path or 'A place without a path'}: {error}") from error
    is_from_equator = not zone.is_north and place.utm_north is not None and place.utm_north < 0 and _has_true_easting(place)
    return UtmZone(zone.number, None, is_north=True) if is_from_equator else zone


def complete_places(places: Sequence[Place]) -> list[Place]:
    """Check places and add the positions that follow from the known ones: degrees from UTM metres, and the reverse.

    UTM zones are written in the normal form, such as `"56H"` for `"56 h"`; a missing zone is added where one explains both the
    degrees and the UTM metres. Many places at once are several times as fast as one by one.

    Raises:
        ValueError: As [`check_place`] does; the message begins with the place's path.
    """
    for place in places:
        try:
            check_fields(place)
        except ValueError as error:
            raise ValueError(f"{place.path}: {error}") from error
    for row, message in _disagreements(places):
        raise ValueError(f"{places[row].path}: {message}")
    return all_with_utm(_with_normal_zones(_with_missing_zones(all_with_degrees(places))))


def _disagreements(places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """Yield the row of each place whose UTM metres and degrees do not agree, and the reason."""
    both = [row for row, place in enumerate(places) if place.latitude is not None and place.utm_zone]
    both = [row for row in both if places[row].utm_east is not None]
    for rows, latitudes, longitudes in _degrees_from_utm(places, both):
        given = np.array([(places[row].latitude, places[row].longitude) for row in rows], np.float64)
        distances = great_circles(given[:, 0], given[:, 1], latitudes, longitudes)
        for number in np.flatnonzero(~(distances <= LARGEST_DISAGREEMENT)).tolist():
            place = places[rows[number]]
            where = (
                f"latitude {latitudes[number]:.5f}, longitude {longitudes[number]:.5f}, {distances[number] / 1000:.1f} km from"
            )
            if math.isnan(latitudes[number]):
                where = "nowhere near"
            yield (
                rows[number],
                f"utm_east {place.utm_east:.2f} and utm_north {place.utm_north:.2f} in {place_zone(place)} are {where} its "
                f"latitude {place.latitude} and longitude {place.longitude}. Correct the zone, or remove one of both positions",
            )


def _degrees_from_utm(
    places: Sequence[Place], rows: Sequence[int]
) -> Iterator[tuple[list[int], NDArray[np.float64], NDArray[np.float64]]]:
    """Yield rows, latitudes (R,) and longitudes (R,) of UTM metres, zone by zone; NaN where there are none."""
    rows_of_zones = defaultdict(list)
    for row in rows:
        rows_of_zones[place_zone(places[row])].append(row)
    for zone, rows_of_zone in rows_of_zones.items():
        assert zone is not None
        metres = np.array([(places[row].utm_east, places[row].utm_north) for row in rows_of_zone], np.float64)
        yield rows_of_zone, *zone_degrees(zone, metres[:, 0], metres[:, 1])


def _is_near_zone(place: Place) -> bool:
    """Return whether a place has UTM metres of its zone, or of a city that a data set gives the zone of its neighbours.

    Mock coordinates are not: small numbers, far to the west of a zone.
    """
    if not place.utm_zone or place.utm_east is None or place.utm_north is None:
        return False
    if _has_true_easting(place):
        return -10_000_000 <= place.utm_north <= 11_000_000  # negative or above 10,000 km beyond the equator
    zone = place_zone(place)
    least_north = 10_000 if zone is None or zone.is_north else 1_100_000  # 80° S
    return -200_000 <= place.utm_east < 1_200_000 and least_north <= place.utm_north <= 10_000_000


def _has_true_easting(place: Place) -> bool:
    """Return whether an easting is one of UTM inside a zone, and no mock coordinate."""
    return place.utm_east is not None and 100_000 <= place.utm_east < 1_000_000


def _with_missing_zones(places: Sequence[Place]) -> list[Place]:
    """Add the zone to places whose UTM metres follow from their degrees in the degrees' own zone or the next one."""
    completed = list(places)
    for row, place in enumerate(completed):
        if place.utm_zone or place.utm_east is None or place.utm_north is None:
            continue
        if place.latitude is None or place.longitude is None or not -80 <= place.latitude <= 84:
            continue
        number = utm.latlon_to_zone_number(place.latitude, place.longitude)
        for candidate in (number, number % 60 + 1, (number - 2) % 60 + 1):
            east, north, _, letter = utm.from_latlon(place.latitude, place.longitude, force_zone_number=candidate)
            if math.hypot(east - place.utm_east, north - place.utm_north) <= LARGEST_DISAGREEMENT:
                completed[row] = replace(place, utm_zone=f"{candidate}{letter}")
                break
    return completed


def _with_normal_zones(places: Sequence[Place]) -> list[Place]:
    """Write the zones of places in the normal form."""
    return [_with_normal_zone(place) if place.utm_zone and place.utm_east is not None else place for place in places]


def _with_normal_zone(place: Place) -> Place:
    zone = place_zone(place)
    text = None if zone is None else zone_text(zone, place.latitude)
    return place if text == place.utm_zone else replace(place, utm_zone=text)


def flat_coordinates(place: Place) -> dict[str, tuple[float, ...]]:
    """Return a place's metres in each flat frame, by the frame's name: first the local frame, then UTM.

    Three metres in a local frame, where a missing `z` counts as 0, and two in UTM; they are comparable within one frame only.
    Zone letters name latitude bands, so a UTM frame is a zone number and a hemisphere.

    Raises:
        ValueError: If the place's UTM zone does not exist; the message names the place.
    """
    metres: dict[str, tuple[float, ...]] = {}
    if place.x is not None and place.y is not None:
        metres[local_frame(place.frame)] = (place.x, place.y, place.z or 0.0)
    if place.utm_east is not None and place.utm_north is not None:
        zone = place_zone(place)
        metres[WITHOUT_ZONE if zone is None else str(zone)] = (place.utm_east, place.utm_north)
    return metres


def local_frame(name: str | None) -> str:
    """Return the name under which coordinates of a local frame are listed."""
    return f"{LOCAL_FRAME} {name or ''}".rstrip()


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

    The distance is straight in a common local frame, or in its plane if a height is missing; planar in a common UTM zone; on
    the sphere between places with degrees; and planar for metres without a zone.

    Raises:
        ValueError: If a UTM zone does not exist; the message names the place.
    """
    if first.is_local and second.is_local and local_frame(first.frame) == local_frame(second.frame):
        return math.dist(*_local_coordinates(first, second))
    here, there = (flat_coordinates(replace(place, x=None)) for place in (first, second))
    frame = next((name for name in here if name in there), None)
    if frame is not None and frame != WITHOUT_ZONE:
        return math.dist(here[frame], there[frame])
    first, second = with_degrees(first), with_degrees(second)
    if None not in (first.latitude, first.longitude, second.latitude, second.longitude):
        degrees = [(place.latitude or 0.0, place.longitude or 0.0) for place in (first, second)]
        return float(great_circles(*degrees[0], *degrees[1]))
    return None if frame is None else math.dist(here[frame], there[frame])


def _local_coordinates(first: Place, second: Place) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the coordinates of two places of one local frame: three if both heights are known, else two."""
    ends = [(place.x or 0.0, place.y or 0.0, place.z) for place in (first, second)]
    count = 2 if any(end[2] is None for end in ends) else 3
    return ends[0][:count], ends[1][:count]  # type: ignore[return-value]


def great_circles(
    latitude: ArrayLike, longitude: ArrayLike, other_latitude: ArrayLike, other_longitude: ArrayLike
) -> NDArray[np.float64]:
    """Return the distances in metres between positions in degrees on a sphere of `EARTH_RADIUS`, element by element."""
    phi, other_phi = np.radians(latitude), np.radians(other_latitude)
    turn = np.radians(other_longitude) - np.radians(longitude)
    haversine = np.sin((other_phi - phi) / 2) ** 2 + np.cos(phi) * np.cos(other_phi) * np.sin(turn / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS * np.arcsin(np.minimum(1.0, np.sqrt(haversine))))
