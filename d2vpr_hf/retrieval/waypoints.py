"""Points with names and times as texts for maps and navigation: GPX and KML."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers.skipped import printable_path

_GPX_NAMESPACE = "http://www.topografix.com/GPX/1/1"
_KML_NAMESPACE = "http://www.opengis.net/kml/2.2"
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 does not allow
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Waypoint:
    """A point on the globe.

    Attributes:
        latitude, longitude: In degrees.
        name: Its name, such as the path of a photo.
        description: A text about it; empty for none.
        timestamp: Its time in any form of a place's timestamp; `None` if it is not known.
    """

    latitude: float
    longitude: float
    name: str
    description: str = ""
    timestamp: str | None = None


def gpx_text(waypoints: Iterable[Waypoint]) -> str:
    """Return waypoints as GPX 1.1."""
    root = ElementTree.Element("gpx", {"version": "1.1", "creator": "d2vpr-hf", "xmlns": _GPX_NAMESPACE})
    for waypoint in waypoints:
        longitude = f"{waypoint.longitude:.9f}"
        if float(longitude) == 180:
            longitude = "-180.000000000"  # the same meridian: the schema excludes 180
        element = ElementTree.SubElement(root, "wpt", {"lat": f"{waypoint.latitude:.9f}", "lon": longitude})
        texts = {"time": _xml_time(waypoint.timestamp), "name": waypoint.name, "desc": waypoint.description}
        _add_texts(element, texts)  # the schema fixes the order
    return _to_text(root)


def kml_text(waypoints: Iterable[Waypoint]) -> str:
    """Return waypoints as placemarks of KML 2.2 (OGC 07-147r2).

    Programs show a description as HTML, so that it is escaped for HTML, and then for XML.
    """
    root = ElementTree.Element("kml", {"xmlns": _KML_NAMESPACE})
    document = ElementTree.SubElement(root, "Document")
    for waypoint in waypoints:
        placemark = ElementTree.SubElement(document, "Placemark")
        _add_texts(placemark, {"name": waypoint.name, "description": html.escape(waypoint.description)})
        time = _xml_time(waypoint.timestamp)
        if time:
            _add_texts(ElementTree.SubElement(placemark, "TimeStamp"), {"when": time})
        point = ElementTree.SubElement(placemark, "Point")
        _add_texts(point, {"coordinates": f"{waypoint.longitude:.9f},{waypoint.latitude:.9f}"})
    return _to_text(root)


def _add_texts(parent: ElementTree.Element, texts: dict[str, str]) -> None:
    """Add an element for each text that is not empty."""
    for name, text in texts.items():
        if text:
            ElementTree.SubElement(parent, name).text = _NOT_IN_XML.sub("\ufffd", printable_path(text))


def _to_text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}'


def _xml_time(timestamp: str | None) -> str:
    """Return a time in UTC in the form of XML Schema, or an empty text if it is not known."""
    seconds = to_seconds(timestamp)
    if math.isnan(seconds):
        return ""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
