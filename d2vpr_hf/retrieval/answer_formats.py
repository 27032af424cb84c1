"""Answers of searches and localizations as texts for other programs: JSON, JSON lines, GeoJSON, CSV, GPX and KML."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from d2vpr_hf.readers import read_place
from d2vpr_hf.readers.skipped import printable_path
from d2vpr_hf.retrieval.waypoints import Waypoint, gpx_text, kml_text

logger = logging.getLogger(__name__)

AnswerFormat = Literal["json", "jsonl", "geojson", "csv", "gpx", "kml"]
FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)


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
            for each answer, of its first row, with the time at which the query was taken, if its file states one; `"kml"`
            (KML 2.2) has placemarks of the same. Rows without a latitude and longitude have no geometry in GeoJSON and are not
            in GPX and KML; a warning counts them.

    Raises:
        ValueError: If there is no such format, or a number is not finite.
    """
    if format not in FORMATS:
        raise ValueError(f"Expected `format` as one of {', '.join(FORMATS)}, got {format!r}.")
    if format == "json":
        return json.dumps([answer.to_dict() for answer in answers], indent=2, allow_nan=False)
    if format == "jsonl":
        return "\n".join(map(answer_line, answers))
    if format in ("gpx", "kml"):
        waypoints = _waypoints(answers, format.upper())
        return gpx_text(waypoints) if format == "gpx" else kml_text(waypoints)
    return _to_geojson(answers) if format == "geojson" else _to_csv(answers)


def answer_line(answer: Answer) -> str:
    """Return an answer as a JSON object on one line."""
    return json.dumps(answer.to_dict(), allow_nan=False)


def _to_geojson(answers: Sequence[Answer]) -> str:
    return geojson_text([row for answer in answers for row in answer.to_rows()])


def geojson_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows of JSON values as features (RFC 7946); those without latitude and longitude have no geometry."""
    count = sum(not is_on_globe(row) for row in rows)
    if count:
        logger.warning("%d of %d features have no latitude and longitude; their geometry is null.", count, len(rows))
    features = [{"type": "Feature", "geometry": _geometry(row), "properties": row} for row in rows]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=2, allow_nan=False)


def _geometry(row: dict[str, Any]) -> dict[str, Any] | None:
    return {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]} if is_on_globe(row) else None


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


def _waypoints(answers: Sequence[Answer], format: str) -> list[Waypoint]:
    """Return the positions of queries; a warning counts those without latitude and longitude."""
    rows = [answer.to_rows()[0] for answer in answers]
    on_globe = [row for row in rows if is_on_globe(row)]
    if len(on_globe) < len(rows):
        count = len(rows) - len(on_globe)
        logger.warning(
            "%d of %d queries have no latitude and longitude; %s has no waypoint for them.", count, len(rows), format
        )
    return [
        Waypoint(row["latitude"], row["longitude"], row["query"], _description(row), _query_time(Path(row["query"])))
        for row in on_globe
    ]


def _query_time(photo: Path) -> str | None:
    """Return the time at which a query was taken; `None` if it is not a file, or does not state one."""
    try:
        return read_place(photo).timestamp if photo.is_file() else None
    except (OSError, ValueError):  # such as a name that begins with @ but does not follow the convention
        return None


def _description(row: dict[str, Any]) -> str:
    parts = []
    if row.get("path") is not None:
        parts.append(f"{row['path']}, similarity {row['similarity']:.4f}")
    if row.get("radius_90") is not None:
        parts.append(f"within {row['radius_90']:.1f} m (90 %)")
    if row.get("confidence") is not None:
        parts.append(f"confidence {row['confidence']:.3f}")
    return ", ".join(parts)


def is_on_globe(row: dict[str, Any]) -> bool:
    """Return whether a row of JSON values has a latitude and a longitude."""
    return row["latitude"] is not None and row["longitude"] is not None
