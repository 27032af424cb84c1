"""Answers of searches and localizations as texts for other programs: JSON, JSON lines, GeoJSON, CSV and GPX."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from xml.etree import ElementTree

from d2vpr_hf.places.timestamps import to_seconds
from d2vpr_hf.readers import read_place
from d2vpr_hf.readers.skipped import printable_path

logger = logging.getLogger(__name__)

AnswerFormat = Literal["json", "jsonl", "geojson", "csv", "gpx"]
FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)

_GPX_NAMESPACE = "http://www.topografix.com/GPX/1/1"
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML 1.0 does not allow
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Answer(Protocol):
    """The answer to one query: a [`SearchResult`] or a [`Localization`]."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Keys of the rows, the same for all answers of a kind."""

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values."""

    def to_rows(self) -> list[dict[str, Any]]:
        """Return at least one flat row of JSON values, the best one first."""


def format_answers(answers: Sequence[Answer], format: AnswerFormat) -> str:
    """Return answers as a text, as `d2vpr search --format` and `d2vpr localize --format` print them.

    Args:
        answers: Answers of one kind, one for each query.
        format: `"json"` is a list of the answers' `to_dict`, `"jsonl"` has one of these on each line. `"csv"` has a header and
            the rows of all answers, and `"geojson"` (RFC 7946) a feature for each of these. `"gpx"` (GPX 1.1) has a waypoint
            for each answer, of its first row, with the time at which the query was taken, if its file states one. Rows without
            a latitude and longitude have no geometry in GeoJSON and are not in GPX; a warning counts them.

    Raises:
        ValueError: If there is no such format, or a number is not finite.
    """
    if format not in FORMATS:
        raise ValueError(f"Expected `format` as one of {', '.join(FORMATS)}, got {format!r}.")
    if format == "json":
        return json.dumps([answer.to_dict() for answer in answers], indent=2, allow_nan=False)
    if format == "jsonl":
        return "\n".join(map(answer_line, answers))
    return {"geojson": _to_geojson, "csv": _to_csv, "gpx": _to_gpx}[format](answers)


def answer_line(answer: Answer) -> str:
    """Return an answer as a JSON object on one line."""
    return json.dumps(answer.to_dict(), allow_nan=False)


def _to_geojson(answers: Sequence[Answer]) -> str:
    rows = [row for answer in answers for row in answer.to_rows()]
    count = sum(not _is_on_globe(row) for row in rows)
    if count:
        logger.warning("%d of %d features have no latitude and longitude; their geometry is null.", count, len(rows))
    features = [{"type": "Feature", "geometry": _geometry(row), "properties": row} for row in rows]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=2, allow_nan=False)


def _geometry(row: dict[str, Any]) -> dict[str, Any] | None:
    return {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]} if _is_on_globe(row) else None


def _to_csv(answers: Sequence[Answer]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, answers[0].columns if answers else (), lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in answer.to_rows())
    return text.getvalue().removesuffix("\n")


def _cell(value: Any) -> Any:
    """Return a JSON value as the cell of a table: an empty one for `None`, and truth values as in JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return printable_path(value) if isinstance(value, str) else value


def _to_gpx(answers: Sequence[Answer]) -> str:
    root = ElementTree.Element("gpx", {"version": "1.1", "creator": "d2vpr-hf", "xmlns": _GPX_NAMESPACE})
    rows = [answer.to_rows()[0] for answer in answers]
    for row in filter(_is_on_globe, rows):
        _add_waypoint(root, row)
    if len(root) < len(rows):
        logger.warning(
            "%d of %d queries have no latitude and longitude; GPX has no waypoint for them.", len(rows) - len(root), len(rows)
        )
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}'


def _add_waypoint(root: ElementTree.Element, row: dict[str, Any]) -> None:
    """Add a waypoint; the schema fixes the order of its elements."""
    longitude = f"{row['longitude']:.9f}"
    if float(longitude) == 180:
        longitude = "-180.000000000"  # the same meridian: the schema excludes 180
    waypoint = ElementTree.SubElement(root, "wpt", {"lat": f"{row['latitude']:.9f}", "lon": longitude})
    texts = {"time": _xml_time(_query_time(Path(row["query"]))), "name": row["query"], "desc": _description(row)}
    for name, text in texts.items():
        if text:
            ElementTree.SubElement(waypoint, name).text = _NOT_IN_XML.sub("\ufffd", printable_path(text))


def _query_time(photo: Path) -> str | None:
    """Return the time at which a query was taken; `None` if it is not a file, or does not state one."""
    try:
        return read_place(photo).timestamp if photo.is_file() else None
    except (OSError, ValueError):  # such as a name that begins with @ but does not follow the convention
        return None


def _xml_time(timestamp: str | None) -> str:
    """Return a time in UTC in the form of XML Schema, or an empty text if it is not known."""
    seconds = to_seconds(timestamp)
    if math.isnan(seconds):
        return ""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def _description(row: dict[str, Any]) -> str:
    parts = []
    if row.get("path") is not None:
        parts.append(f"{row['path']}, similarity {row['similarity']:.4f}")
    if row.get("radius_90") is not None:
        parts.append(f"within {row['radius_90']:.1f} m (90 %)")
    if row.get("confidence") is not None:
        parts.append(f"confidence {row['confidence']:.3f}")
    return ", ".join(parts)


def _is_on_globe(row: dict[str, Any]) -> bool:
    return row["latitude"] is not None and row["longitude"] is not None
