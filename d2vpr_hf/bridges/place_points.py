"""The places of an index as points on a map: GeoJSON, GPX and KML."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from d2vpr_hf.places import Place
from d2vpr_hf.retrieval.answer_formats import geojson_text
from d2vpr_hf.retrieval.waypoints import Waypoint, gpx_text, kml_text
from d2vpr_hf.utils.atomic_files import store_file, write_file

logger = logging.getLogger(__name__)

PointFormat = Literal["geojson", "gpx", "kml"]


def write_points(places: Sequence[Place], out: Path, format: PointFormat, progress: Callable[[int], object]) -> int:
    """Write places as points into a file, which replaces an existing one.

    Args:
        places: The places.
        out: The file.
        format: `"geojson"` (RFC 7946, all fields as properties), `"gpx"` (GPX 1.1, waypoints) or `"kml"` (KML 2.2, placemarks).
        progress: Called with the number of places.

    Returns:
        The number of points. Places without latitude and longitude are not written; a warning counts them.
    """
    on_globe = [(row, place) for row, place in enumerate(places) if place.latitude is not None and place.longitude is not None]
    if len(on_globe) < len(places):
        count = len(places) - len(on_globe)
        logger.warning("%d of %d places have no latitude and longitude and are not in %s.", count, len(places), out)
    if format == "geojson":
        text = geojson_text([{"row": row, **vars(place)} for row, place in on_globe])
    else:
        text = (gpx_text if format == "gpx" else kml_text)(_waypoint(place) for _, place in on_globe)
    store_file(out, lambda scratch: write_file(scratch, text + "\n"))
    progress(len(places))
    return len(on_globe)


def _waypoint(place: Place) -> Waypoint:
    assert place.latitude is not None and place.longitude is not None
    description = "" if place.heading is None else f"heading {place.heading:.0f}°"
    return Waypoint(place.latitude, place.longitude, place.path, description, place.timestamp)
