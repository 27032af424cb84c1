"""Positions in a table: a CSV file with a path column and latitude and longitude, or x and y in a local frame."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2vpr_hf.readers.places import Place, all_with_utm, check_place, parse_number

ALIASES = {
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
    "condition": ("condition",),
}
_TEXT_FIELDS = ("path", "frame", "timestamp", "condition")


def read_csv(table: Path) -> list[Place]:
    """Read places from a CSV file; paths are relative to its folder.

    Raises:
        ValueError: If the file is no UTF-8 table, a column is missing, a photo is listed twice, or a line has half a position,
            too many fields, or something else than a number where a number belongs.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            separator = _separator(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
            columns = _match_columns(table, reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is no table in UTF-8 ({error}). Save it as CSV UTF-8.") from error
    places = {line: _place(table, line, row, columns) for line, row in rows}
    _refuse_twice(table, places)
    return all_with_utm(list(places.values()))


def columns_by_alias(names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Find which column holds which field: the first of the field's aliases that is the name of one, in any case."""
    known = {name.strip().lower(): name for name in names}
    return {field: known[alias] for field, its_aliases in aliases.items() for alias in reversed(its_aliases) if alias in known}


def _separator(header: str) -> str:
    """Guess the separator from the header: the first of comma, semicolon and tab that it has."""
    return next((character for character in ",;\t" if character in header), ",")


def _refuse_twice(table: Path, places: dict[int, Place]) -> None:
    lines: dict[str, int] = {}
    for line, place in places.items():
        if lines.setdefault(place.path, line) != line:
            raise ValueError(f"{table}, line {line}: {place.path} is listed in line {lines[place.path]} already.")


def _match_columns(table: Path, header: Sequence[str]) -> dict[str, str]:
    """Find which column of the header holds which field."""
    if len({column.strip().lower() for column in header if column}) < len(header):
        raise ValueError(f"{table}: every column needs a name of its own, got {', '.join(header)}.")
    columns = columns_by_alias(header, ALIASES)
    if "path" not in columns or not ({"latitude", "longitude"} <= columns.keys() or {"x", "y"} <= columns.keys()):
        raise ValueError(
            f"{table}: expected the columns path, latitude, longitude or path, x, y (and optionally heading, timestamp, "
            f"condition, z, yaw, frame), got {', '.join(header) or 'none'}."
        )
    return columns


def _place(table: Path, line: int, row: dict[Any, Any], columns: dict[str, str]) -> Place:
    try:
        place = Place(**_values(row, columns))
        check_place(place)
    except ValueError as error:
        raise ValueError(f"{table}, line {line}: {error}.") from error
    return place


def _values(row: dict[Any, Any], columns: dict[str, str]) -> dict[str, Any]:
    """Convert the filled cells of a row to the fields of a place."""
    if None in row:  # where csv puts what no column has a name for
        raise ValueError(f"there are more fields than columns: {row[None]}")
    texts = {field: (row[column] or "").strip() for field, column in columns.items()}
    values = {field: text if field in _TEXT_FIELDS else parse_number(text) for field, text in texts.items() if text}
    if "path" not in values:
        raise ValueError("the path is missing")
    return values | {"path": Path(os.path.normpath(texts["path"])).as_posix()}


__all__ = ["ALIASES", "columns_by_alias", "read_csv"]
