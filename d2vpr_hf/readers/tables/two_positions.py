"""Tables with x and y next to degrees: the same position written twice, pixels, or metres of another frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import utm
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place, all_with_utm
from d2vpr_hf.readers.remarks import RemarkCounter

LIKELY_DEGREES = (
    "rows whose x and y may be longitude and latitude, read as metres of a local map (name the columns so if they are degrees)"
)
_Column = NDArray[np.float64]

_SAME_DEGREES = 0.01  # degrees, for columns that were rounded
_SAME_METRES = 10.0  # metres, for columns that were rounded, or computed with another ellipsoid
_MERCATOR_RADIUS = 6_378_137.0  # metres, of the maps of the web (EPSG:3857)
_LARGEST_PIXEL = 65_535  # the largest side of a JPEG
_SOUTHERN_OFFSET = 10_000_000.0  # metres that UTM adds to northings south of the equator
_MOST_ZONES = 8  # UTM zones that x and y of a whole table are compared in


def drop_local_copies(places: Sequence[Place], labels: Sequence[str], remarks: RemarkCounter) -> list[Place]:
    """Remove x, y and z from places whose degrees or UTM metres are known too, if all rows show that x and y add nothing.

    Exports of maps write X and Y in degrees or projected metres next to latitude and longitude, and tables of objects in photos
    write pixels. As metres of a local frame they would have precedence over the degrees. Rows in a named local frame keep both
    positions.

    Args:
        places: The rows.
        labels: Name of each row for remarks and errors, such as `"places.csv, line 2"`.
        remarks: Counts the rows.

    Raises:
        ValueError: If x and y are another position than the degrees.
    """
    both = [row for row, place in enumerate(places) if place.is_local and _has_other_position(place)]
    if not both:
        return list(places)
    reason = _reason_to_drop([places[row] for row in both])
    if reason is None:
        unnamed = [row for row in both if not _has_named_frame(places[row])]
        if not unnamed:
            return list(places)
        place = places[unnamed[0]]
        raise ValueError(
            f"{labels[unnamed[0]]}: x {place.x} and y {place.y} are another position than {_other_text(place)}. Remove one of "
            'the two pairs of columns, or choose one: `columns={"latitude": "COLUMN", "longitude": "COLUMN"}` for degrees, '
            '`columns={"x": "COLUMN", "y": "COLUMN"}` for metres of a local frame.'
        )
    cleaned = list(places)
    for row, place in enumerate(places):
        if place.is_local:
            has_other = _has_other_position(place)
            text = (
                f"rows whose x and y {reason}: the other position is used"
                if has_other
                else (f"rows without a position: they have only x and y, which {reason} in other rows")
            )
            remarks.add("assumed" if has_other else "skipped", text, labels[row])
            cleaned[row] = replace(place, x=None, y=None, z=None)
    return cleaned


def drop_other_metres(places: Sequence[Place], labels: Sequence[str], remarks: RemarkCounter) -> list[Place]:
    """Replace metres without a zone that do not belong to a place's degrees, such as those of a national grid, by UTM metres.

    Args:
        places: Places that [`complete_places`] returned: metres that belong to the degrees have a zone.
        labels: Name of each place for remarks.
        remarks: Counts the places.
    """
    text = "rows whose eastings and northings are not UTM metres of their degrees: the degrees are used"
    cleaned = list(places)
    for row, place in enumerate(places):
        if place.latitude is not None and place.utm_east is not None and not place.utm_zone:
            remarks.add("assumed", text, labels[row])
            cleaned[row] = replace(place, utm_east=None, utm_north=None)
    return all_with_utm(cleaned)


def count_likely_degrees(places: Sequence[Place], labels: Sequence[str], remarks: RemarkCounter) -> None:
    """Count rows whose only position are x and y that may be a longitude and a latitude, as exports of maps write them.

    Coordinates with a height, a yaw or the name of a frame are those of a local map, and so are those with few decimals.
    """
    rows = [row for row, place in enumerate(places) if place.is_local and not _has_other_position(place)]
    for row in rows:
        place = places[row]
        if (place.z, place.yaw, place.frame) != (None, None, None) or not _may_be_degrees(place.x or 0.0, place.y or 0.0):
            return
    for row in rows:
        remarks.add("assumed", LIKELY_DEGREES, labels[row])


def _may_be_degrees(x: float, y: float) -> bool:
    """Return whether x and y may be a longitude and a latitude with at least four decimals, about ten metres."""
    return abs(x) <= 180 and abs(y) <= 90 and round(x, 3) != x and round(y, 3) != y


def _has_other_position(place: Place) -> bool:
    return place.latitude is not None or place.utm_east is not None


def _has_named_frame(place: Place) -> bool:
    """Return whether a place names its frame; a number may be that of a video's frame."""
    return place.frame is not None and not place.frame.replace(".", "", 1).isdigit()


def _other_text(place: Place) -> str:
    if place.latitude is not None:
        return f"latitude {place.latitude} and longitude {place.longitude}"
    return f"utm_east {place.utm_east} and utm_north {place.utm_north}"


def _reason_to_drop(places: Sequence[Place]) -> str | None:
    """Return the property of x and y in all places by which they add nothing to the other position; `None` without any."""
    x, y = _column(places, "x"), _column(places, "y")
    for text, first, second, tolerance in _copies(places):
        for suffix, a, b in (("", first, second), (" in the other order", second, first)):
            if np.all(np.abs(x - a) <= tolerance) and np.all(np.abs(y - b) <= tolerance):
                return text + suffix
    numbers = np.concatenate((x, y))
    if np.all((numbers >= 0) & (numbers <= _LARGEST_PIXEL) & (numbers == np.floor(numbers))):
        return "look like pixels"
    return None


def _copies(places: Sequence[Place]) -> Iterator[tuple[str, _Column, _Column, float]]:
    """Yield the forms in which x and y may repeat the other position: a text, values of x and y, and their tolerance."""
    latitude, longitude = _column(places, "latitude"), _column(places, "longitude")
    yield "repeat the degrees", longitude, latitude, _SAME_DEGREES
    yield "repeat the degrees", longitude % 360, latitude, _SAME_DEGREES
    yield "repeat the UTM metres", _column(places, "utm_east"), _column(places, "utm_north"), _SAME_METRES
    if np.isnan(latitude).any():
        return
    with np.errstate(divide="ignore"):
        north = _MERCATOR_RADIUS * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    yield "are the degrees in metres of a web map", _MERCATOR_RADIUS * np.radians(longitude), north, _SAME_METRES
    if np.any((latitude < -80) | (latitude > 84)):
        return
    zones = np.unique((longitude + 180) // 6 % 60 + 1).astype(int).tolist()
    for number in zones[:_MOST_ZONES]:
        with np.errstate(all="ignore"):
            east, north, _, _ = utm.from_latlon(latitude, longitude, force_zone_number=number, force_zone_letter="N")
        for northing in (north, np.where(latitude < 0, north + _SOUTHERN_OFFSET, north), north + _SOUTHERN_OFFSET):
            yield "are the degrees in UTM metres", east, northing, _SAME_METRES


def _column(places: Sequence[Place], name: str) -> _Column:
    """Return a field of all places, with NaN where it is not known."""
    return np.array([getattr(place, name) for place in places], np.float64)
