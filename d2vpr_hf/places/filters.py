"""Filters of a search by position, heading and time.

A filter maps N places to a mask (N,). Every search takes such a mask as `allowed` and looks only at the rows where it is true.
Masks are combined by `&` and `|`. A place without the field that a filter compares is not allowed; [`PlaceFilter`]
warns of their number.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.geometry import distances_from, place_blocks
from d2vpr_hf.places.place import Place, all_with_degrees, check_finite_numbers, with_utm
from d2vpr_hf.places.timestamps import Timestamp, to_seconds

logger = logging.getLogger(__name__)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PlaceFilter:
    """Filters of the places that a search may find: a place must pass every filter that is set.

    Attributes:
        near: Latitude and longitude in degrees, and the radius in metres; see [`within_radius`].
        box: South, west, north and east in degrees; see [`within_box`].
        heading: Heading and tolerance in degrees; see [`within_heading`].
        since, until: First and last time; see [`within_time`].
    """

    near: tuple[float, float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    heading: tuple[float, float] | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None

    def allowed(self, places: Sequence[Place]) -> Mask | None:
        """Return the mask (N,) of the places that pass; `None` if no filter is set.

        A warning of each filter has the number of the places that it leaves out because they lack the field that it compares.

        Raises:
            ValueError: If a filter's values are not valid.
        """
        allowed = np.ones(len(places), bool)
        has_filter = False
        for name, field, mask, is_known in self._masks(places):
            has_filter = True
            allowed &= mask
            if not is_known.all():
                count, total = len(places) - is_known.sum(), len(places)
                logger.warning("The filter `%s` leaves out %d of %d photos, which have no %s.", name, count, total, field)
        if has_filter and len(places) and not allowed.any():
            logger.warning("None of %d photos passes the filters, so that there are no matches.", len(places))
        return allowed if has_filter else None

    def check(self) -> None:
        """Raise ValueError if a filter's values are not valid."""
        for _ in self._masks([]):
            pass

    def _masks(self, places: Sequence[Place]) -> Iterator[tuple[str, str, Mask, Mask]]:
        """Yield the name of each filter, the field that it compares, its mask, and the mask of the places with that field."""
        if self.near is not None:
            latitude, longitude, radius = self.near
            if not (abs(latitude) <= 90 and abs(longitude) <= 180):
                raise ValueError(
                    f"Expected a latitude within 90 and a longitude within 180 degrees, got {latitude}, {longitude}."
                )
            prior = Place("", latitude=latitude, longitude=longitude)
            yield "near", "position on the globe", *_within_radius(places, prior, radius)
        if self.box is not None:
            yield "box", "position on the globe", *_within_box(places, *self.box)
        if self.heading is not None:
            yield "heading", "heading", *_within_heading(places, *self.heading)
        if self.since is not None or self.until is not None:
            name = "since" if self.until is None else "until"
            yield name, "known time", *_within_time(places, self.since, self.until)


def parse_numbers(text: str | None, form: str) -> tuple[float, ...] | None:
    """Read the comma-separated numbers of an option; `None` without a text. `form` names them: `--near LAT,LON,METRES`."""
    if text is None:
        return None
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != form.count(",") + 1:
        raise ValueError(f"Expected `{form}` in numbers, got {text!r}.")
    return numbers


def within_radius(places: Sequence[Place], prior: Place, radius: float) -> Mask:
    """Allow places within `radius` metres, inclusive, of a prior position such as a GPS fix.

    Distances are those on the sphere, also across UTM zones, the equator and the date line, and those in a common local frame.

    Raises:
        ValueError: If the prior has no position or one that is not finite, or the radius is not a positive number.
    """
    return _within_radius(places, prior, radius)[0]


def _within_radius(places: Sequence[Place], prior: Place, radius: float) -> tuple[Mask, Mask]:
    """Return the mask of [`within_radius`], and that of the places whose distance is known."""
    check_finite_numbers([prior])
    if not prior.has_position:
        raise ValueError("The prior needs a position: latitude and longitude, UTM, or x and y of a local frame.")
    if not 0 < radius < math.inf:
        raise ValueError(f"The radius must be above 0 metres, got {radius}.")
    distances = distances_from(with_utm(prior), places)
    return distances <= radius, np.isfinite(distances)


def within_box(places: Sequence[Place], south: float, west: float, north: float, east: float) -> Mask:
    """Allow places within a box of latitudes and longitudes, inclusive; with `west` above `east` it crosses the date line.

    Raises:
        ValueError: If an edge is not on the globe, or `south` is above `north`.
    """
    return _within_box(places, south, west, north, east)[0]


def _within_box(places: Sequence[Place], south: float, west: float, north: float, east: float) -> tuple[Mask, Mask]:
    """Return the mask of [`within_box`], and that of the places with degrees."""
    if not (-90 <= south <= north <= 90 and abs(west) <= 180 and abs(east) <= 180):
        raise ValueError(
            "A box needs -90 <= south <= north <= 90 and west and east in [-180, 180] degrees, got "
            f"south {south}, west {west}, north {north}, east {east}."
        )
    masks = [np.empty((2, 0), bool)]
    masks += [_in_box(all_with_degrees(block), south, west, north, east) for block in place_blocks(places)]
    is_inside, has_degrees = np.concatenate(masks, axis=1)
    return is_inside, has_degrees


def _in_box(places: Sequence[Place], south: float, west: float, north: float, east: float) -> NDArray[np.bool_]:
    """Return whether each place is in a box, and whether it has degrees, (2, N)."""
    latitude, longitude = _numbers(places, "latitude"), _numbers(places, "longitude")
    other_sign = np.where(np.abs(longitude) == 180, -longitude, longitude)  # 180 and -180 degrees are one meridian
    between = np.zeros(len(places), bool)
    for degrees in (longitude, other_sign):
        above, below = degrees >= west, degrees <= east
        between |= above & below if west <= east else above | below
    return np.stack([(latitude >= south) & (latitude <= north) & between, ~np.isnan(latitude + longitude)])


def within_heading(places: Sequence[Place], heading: float, tolerance: float) -> Mask:
    """Allow places whose heading differs by at most `tolerance` degrees, the shorter way round.

    Raises:
        ValueError: If the heading is not finite, or the tolerance is not within 0 and 180 degrees.
    """
    return _within_heading(places, heading, tolerance)[0]


def _within_heading(places: Sequence[Place], heading: float, tolerance: float) -> tuple[Mask, Mask]:
    """Return the mask of [`within_heading`], and that of the places with a heading."""
    if not (math.isfinite(heading) and 0 <= tolerance <= 180):
        raise ValueError(f"Expected a heading and a tolerance within 0 and 180 degrees, got {heading} and {tolerance}.")
    headings = _numbers(places, "heading")
    return np.abs((headings - heading + 180) % 360 - 180) <= tolerance, ~np.isnan(headings)


def within_time(places: Sequence[Place], start: Timestamp | None = None, end: Timestamp | None = None) -> Mask:
    """Allow places whose timestamp is between `start` and `end`, both inclusive; `None` sets no limit on that side.

    Times are read by [`to_seconds`], and a place whose time is unknown is not allowed. A day without a time, also as `end`,
    means the beginning of the day. Four digits are an error, because they may be a year or seconds.

    Raises:
        ValueError: If `start` or `end` cannot be read, or `start` is after `end`.
    """
    return _within_time(places, start, end)[0]


def _within_time(places: Sequence[Place], start: Timestamp | None, end: Timestamp | None) -> tuple[Mask, Mask]:
    """Return the mask of [`within_time`], and that of the places whose time is known."""
    low = -math.inf if start is None else _need_seconds(start)
    high = math.inf if end is None else _need_seconds(end)
    if low > high:
        raise ValueError(f"Expected a first time that is not after the last one, got {start} and {end}.")
    seconds = getattr(places, "seconds", None)  # the rows of an index keep them
    if seconds is None:
        seconds = np.fromiter((to_seconds(place.timestamp) for place in places), np.float64, len(places))
    return (seconds >= low) & (seconds <= high), ~np.isnan(seconds)


def _numbers(places: Sequence[Place], field: str) -> NDArray[np.float64]:
    """Return a field of each place, NaN where it is not known; comparisons with NaN are false."""
    values = (getattr(place, field) for place in places)
    return np.fromiter((math.nan if value is None else value for value in values), np.float64, len(places))


def _need_seconds(time: Timestamp) -> float:
    digits = time.strip() if isinstance(time, str) else ""
    if digits.isdigit() and len(digits) == 4:
        raise ValueError(f"{time} may be a year or seconds. Write the year as {digits}-01, or the seconds as {digits}.0.")
    seconds = to_seconds(time)
    if math.isnan(seconds):
        raise ValueError(f"Expected a time such as 2024-05-01T12:30:00, or seconds since 1970, got {time!r}.")
    return seconds
