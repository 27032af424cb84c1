"""Filters of places as conditions of SQL, for tables that `d2vpr_hf/stores/postgres.py` wrote.

The conditions mean what [`PlaceFilter`] means for an index, on the columns `latitude`, `longitude`, `heading` and `seconds`.
Where the server has PostGIS, its index on `location` finds the neighbourhood first; the same formula decides.
"""

from __future__ import annotations

import math
from typing import Any

from d2vpr_hf.places.filters import PlaceFilter
from d2vpr_hf.places.place import EARTH_RADIUS
from d2vpr_hf.places.timestamps import to_seconds

# 2 R asin of half the chord of two points, by the haversine formula, which is exact for near points
_DISTANCE = (
    "2 * %(radius_of_earth)s * asin(least(1, sqrt(sin(radians(latitude - %(near_latitude)s) / 2) ^ 2 "
    "+ cos(radians(latitude)) * cos(radians(%(near_latitude)s)) * sin(radians(longitude - %(near_longitude)s) / 2) ^ 2)))"
)
_POSTGIS_RADIUS = 6_371_008.7714  # metres; of the sphere on which `geography` computes without the spheroid
_MARGIN = 1e-3  # share by which the first search in PostGIS is wider, because its sphere and its sums differ


def place_conditions(filters: PlaceFilter, *, has_location: bool = False) -> tuple[str, dict[str, Any]]:
    """Return a condition of SQL for the places that pass filters, and the values of its named parameters.

    Args:
        filters: The filters.
        has_location: Whether the table has the column `location` of PostGIS.

    Returns:
        The condition, `TRUE` without a filter, and parameters in the form of psycopg, `%(name)s`.

    Raises:
        ValueError: If a filter's values are not valid.
    """
    filters.check()
    conditions: list[str] = []
    values: dict[str, Any] = {}
    if filters.near is not None:
        latitude, longitude, radius = filters.near
        values |= {
            "near_latitude": latitude,
            "near_longitude": longitude,
            "near_radius": radius,
            "radius_of_earth": EARTH_RADIUS,
        }
        if has_location:
            values["near_wider"] = radius * (1 + _MARGIN) * max(1.0, _POSTGIS_RADIUS / EARTH_RADIUS) + 1
            point = "ST_SetSRID(ST_MakePoint(%(near_longitude)s, %(near_latitude)s), 4326)::geography"
            conditions.append(f"ST_DWithin(location, {point}, %(near_wider)s, false)")
        else:
            values["near_degrees"] = math.degrees(radius / EARTH_RADIUS) + 1e-6
            conditions.append("latitude BETWEEN %(near_latitude)s - %(near_degrees)s AND %(near_latitude)s + %(near_degrees)s")
        conditions.append(f"{_DISTANCE} <= %(near_radius)s")
    if filters.box is not None:
        south, west, north, east = filters.box
        values |= {"box_south": south, "box_west": west, "box_north": north, "box_east": east}
        conditions.append("latitude BETWEEN %(box_south)s AND %(box_north)s")
        join = "AND" if west <= east else "OR"  # with `west` above `east` the box crosses the date line
        between = f"(longitude >= %(box_west)s {join} longitude <= %(box_east)s)"
        other = f"(abs(longitude) = 180 AND (-longitude >= %(box_west)s {join} -longitude <= %(box_east)s))"
        conditions.append(f"({between} OR {other})")  # 180 and -180 degrees are one meridian
    if filters.heading is not None:
        heading, tolerance = filters.heading
        values |= {"heading": heading % 360, "tolerance": tolerance}
        turn = "abs(heading - %(heading)s)"
        turn = f"({turn} - 360 * floor({turn} / 360))"
        conditions.append(f"least({turn}, 360 - {turn}) <= %(tolerance)s")
    for name, time, sign in (("since", filters.since, ">="), ("until", filters.until, "<=")):
        if time is not None:
            values[name] = to_seconds(time)
            conditions.append(f"seconds {sign} %({name})s")
    return " AND ".join(conditions) or "TRUE", values
