"""Positions in a table: a CSV file with a path column and latitude and longitude, or x and y in a local frame."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from d2vpr_hf.readers.places import Place, check_degrees, with_utm

_ALIASES = {
    "path": ("path", "file", "filename", "file_name", "image", "name"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
    "x": ("x",),
    "y": ("y",),
    "z": ("z",),
    "yaw": ("yaw",),
    "frame": ("frame", "frame_id"),
    "heading": ("heading", "bearing"),
    "timestamp": ("timestamp", "time", "datetime"),
}
_TEXT_FIELDS = ("path", "frame", "timestamp")


def read_csv(table: Path) -> list[Place]:
    """Read places from a CSV file; paths are relative to its folder.

    Raises:
        ValueError: If a column is missing, or a line has something else than a number where a number belongs.
    """
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = _match_columns(table, reader.fieldnames or [])
        return [_place(table, reader.line_num, row, columns) for row in reader]


def _match_columns(table: Path, header: Sequence[str]) -> dict[str, str]:
    """Find which column of the header holds which field."""
    known = {column.strip().lower(): column for column in header if column}
    columns = {field: known[alias] for field, aliases in _ALIASES.items() for alias in reversed(aliases) if alias in known}
    if "path" not in columns or not ({"latitude", "longitude"} <= columns.keys() or {"x", "y"} <= columns.keys()):
        raise ValueError(
            f"{table}: expected the columns path, latitude, longitude or path, x, y (and optionally heading, timestamp, "
            f"z, yaw, frame), got {', '.join(header) or 'none'}."
        )
    return columns


def _place(table: Path, line: int, row: dict[str, str], columns: dict[str, str]) -> Place:
    try:
        texts = {field: (row[column] or "").strip() for field, column in columns.items()}
        values = {field: text if field in _TEXT_FIELDS else _number(text) for field, text in texts.items() if text}
        place = Place(**values)  # type: ignore[arg-type]
        if place.latitude is not None and place.longitude is not None:
            check_degrees(place.latitude, place.longitude)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{table}, line {line}: {_explain(error)}.") from error
    return with_utm(place)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {text}")
    return value


def _explain(error: Exception) -> str:
    return "the path is missing" if isinstance(error, TypeError) else str(error)


__all__ = ["read_csv"]
