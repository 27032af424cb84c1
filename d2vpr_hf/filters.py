"""Filters of a search: which places come into question, by position, heading and time.

A filter is a function of places; what it gives, one truth value a place, is the `allowed` of every search, which looks at no
other rows. Filters are joined by `&` and `|` of what they give. A place that lacks what a filter asks for is not allowed.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers import Place, distance_in_metres
from d2vpr_hf.readers.places import with_utm

Mask = NDArray[np.bool_]


def within_radius(places: Sequence[Place], prior: Place, radius: float) -> Mask:
    """Allow places within `radius` metres, inclusive, of a prior position such as a GPS fix.

    Raises:
        ValueError: If the prior has no position, or the radius is not a positive number.
    """
    if not prior.has_position:
        raise ValueError("The prior needs a position: latitude and longitude, UTM, or x and y of a local frame.")
    if not 0 < radius < math.inf:
        raise ValueError(f"The radius must be above 0 metres, got {radius}.")
    prior = with_utm(prior)
    distances = (distance_in_metres(prior, place) for place in places)
    return np.fromiter((distance is not None and distance <= radius for distance in distances), bool, len(places))


def within_box(places: Sequence[Place], south: float, west: float, north: float, east: float) -> Mask:
    """Allow places within a box of latitudes and longitudes, inclusive; with `west` above `east` it crosses the date line.

    Raises:
        ValueError: If the edges do not lie on the globe, or `south` is above `north`.
    """
    if not (-90 <= south <= north <= 90 and abs(west) <= 180 and abs(east) <= 180):
        raise ValueError(
            "A box needs -90 <= south <= north <= 90 and west and east in [-180, 180] degrees, got "
            f"south {south}, west {west}, north {north}, east {east}."
        )
    latitude, longitude = _numbers(places, "latitude"), _numbers(places, "longitude")
    between = (longitude >= west) & (longitude <= east) if west <= east else (longitude >= west) | (longitude <= east)
    return (latitude >= south) & (latitude <= north) & between


def within_heading(places: Sequence[Place], heading: float, tolerance: float) -> Mask:
    """Allow places whose heading differs by at most `tolerance` degrees, the shorter way round.

    Raises:
        ValueError: If the heading is not finite, or the tolerance is not within 0 and 180 degrees.
    """
    if not (math.isfinite(heading) and 0 <= tolerance <= 180):
        raise ValueError(f"Expected a heading and a tolerance within 0 and 180 degrees, got {heading} and {tolerance}.")
    return np.abs((_numbers(places, "heading") - heading + 180) % 360 - 180) <= tolerance


def within_time(places: Sequence[Place], start: str | None = None, end: str | None = None) -> Mask:
    """Allow places whose timestamp lies within `start` and `end`, both inclusive; `None` leaves a side open.

    Times are read as ISO 8601 (`2024-05-01`, `2024-05-01T12:30:00+02:00`), EXIF's (`2024:05:01 12:30:00`), digits as in `@`
    names (`20240501` and `20240501123000`), or seconds (`1714566600.25`); without a zone they count as UTC. An `end` that is a
    day alone means the day's beginning.

    Raises:
        ValueError: If `start` or `end` cannot be read.
    """
    low = -math.inf if start is None else _need_seconds(start)
    high = math.inf if end is None else _need_seconds(end)
    seconds = np.array([_seconds(place.timestamp) for place in places], np.float64).reshape(-1)
    return (seconds >= low) & (seconds <= high)


def _numbers(places: Sequence[Place], field: str) -> NDArray[np.float64]:
    """Return a field of each place, NaN where it is not known; comparisons with NaN are false."""
    values = (getattr(place, field) for place in places)
    return np.fromiter((math.nan if value is None else value for value in values), np.float64, len(places))


def _need_seconds(text: str) -> float:
    seconds = _seconds(text)
    if math.isnan(seconds):
        raise ValueError(f"Expected a time such as 2024-05-01T12:30:00, got {text!r}.")
    return seconds


def _seconds(text: str | None) -> float:
    """Read a time as seconds since 1970, NaN if it cannot be read."""
    text = (text or "").strip()
    if text.isdigit() and len(text) == 14:
        text = f"{text[:8]}T{text[8:]}"
    elif len(text) == 19 and text[4] == text[7] == ":":
        text = text.replace(":", "-", 2)
    elif not (text.isdigit() and len(text) == 8):
        try:
            return float(text)
        except ValueError:
            pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


__all__ = ["Mask", "within_box", "within_heading", "within_radius", "within_time"]
