"""Positions in a table: a CSV file with the columns path, latitude and longitude, or path, x and y in a local frame.

For training, two columns of whole numbers may give the place that each photo shows (`place_id`), and the group of places that
may share a batch (`group_id`).
"""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place, all_with_utm, check_place, flat_coordinates, number_values, parse_number

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
_PLACE_ID, _GROUP_ID = "place_id", "group_id"

Row = tuple[int, dict[Any, Any]]  # the number of a row's line in the file, and the row's cells by column


def read_csv(table: Path, chosen: Mapping[str, str] | None = None) -> tuple[list[Place], dict[str, NDArray[np.int64]]]:
    """Read places from a CSV file; paths are relative to its folder.

    Args:
        table: The file.
        chosen: The column of each field whose column does not have a usual name.

    Returns:
        The photos' places; and a dictionary with `place_ids` (N,) and `group_ids` (N,), if the table has such columns. Both are
        numbered from 0 without gaps in the order of the numbers in the file. Groups are ignored without place ids.

    Raises:
        ValueError: If the file is not a UTF-8 table, a column is missing, a photo is listed twice, or a line has half a
            position, too many fields, a text in place of a number, no place id although other lines have one, or another group
            than other lines of its place.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            separator = next((character for character in ",;\t" if character in header), ",")
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, skipinitialspace=True)
            columns, id_columns = _match_columns(table, reader.fieldnames or [], chosen or {})
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is not a table in UTF-8 ({error}). Save it as CSV UTF-8.") from error
    places = {line: _place(table, line, row, columns) for line, row in rows}
    first_lines: dict[str, int] = {}
    for line, place in places.items():
        if first_lines.setdefault(place.path, line) != line:
            raise ValueError(f"{table}, line {line}: {place.path} is listed in line {first_lines[place.path]} already.")
    return all_with_utm(list(places.values())), _read_ids(table, id_columns, rows)


def write_csv(table: Path, places: Sequence[Place], ids: Mapping[str, NDArray[np.int64]]) -> None:
    """Write a file that [`read_csv`] reads: numbers with all digits, and only columns with at least one value.

    UTM coordinates of places without a latitude are written as x and y of a local frame with the name of the UTM zone.
    """
    rows = [_known(place) for place in places]
    fields = [field for field in ALIASES if any(field in row for row in rows)]
    columns = [[row.get(field) for row in rows] for field in fields]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*fields, *ids])
        writer.writerows(zip(*columns, *(numbers.tolist() for numbers in ids.values()), strict=True))


def columns_by_alias(names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the column of each field: the first of the field's aliases that is the name of a column, in any case."""
    columns = {name.strip().lower(): name for name in names}
    return {field: columns[alias] for field, words in aliases.items() for alias in reversed(words) if alias in columns}


def check_chosen(chosen: Mapping[str, str], columns: Sequence[str], has: str, allowed: Sequence[str]) -> None:
    """Check the columns that were chosen for fields.

    Args:
        chosen: The column of each field.
        columns: The columns of the table or data set.
        has: Beginning of the error of a missing column: the table and its columns.
        allowed: The fields for which a column may be chosen.

    Raises:
        ValueError: If a field is unknown, or a column does not exist.
    """
    unknown = [field for field in chosen if field not in allowed]
    if unknown:
        raise ValueError(f"There is no field {', '.join(unknown)} to fill. The fields are {', '.join(allowed)}.")
    missing = [column for column in chosen.values() if column not in columns]
    if missing:
        raise ValueError(f"{has}, but not {', '.join(missing)}.")


def _known(place: Place) -> dict[str, Any]:
    """Return the known fields of a place by column."""
    values = {field: value for field in ALIASES if (value := getattr(place, field)) is not None}
    if "latitude" in values or "x" in values or place.utm_east is None:
        return values
    frame, (east, north) = next(iter(flat_coordinates(place).items()))
    return values | {"x": east, "y": north, "frame": frame}


def _read_ids(table: Path, columns: Mapping[str, str], rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
    """Read the columns of places and groups, if there are any place ids."""
    filled = {name: column for name, column in columns.items() if any((row[column] or "").strip() for _, row in rows)}
    if _PLACE_ID not in filled:
        return {}
    numbers = {name: [_read_id(table, line, name, row[column]) for line, row in rows] for name, column in filled.items()}
    if _GROUP_ID in numbers:
        groups: dict[int, int] = {}
        for (line, _), place_id, group_id in zip(rows, numbers[_PLACE_ID], numbers[_GROUP_ID], strict=True):
            if groups.setdefault(place_id, group_id) != group_id:
                raise ValueError(
                    f"{table}, line {line}: place {place_id} is of group {groups[place_id]}, here it is of {group_id}."
                )
    return {f"{name}s": number_values(ids) for name, ids in numbers.items()}


def _read_id(table: Path, line: int, name: str, cell: str | None) -> int:
    text = (cell or "").strip()
    if not text:
        raise ValueError(f"{table}, line {line}: {name} is missing. Remove the lines of photos without a place, or the column.")
    try:
        return _whole(text)
    except ValueError as error:
        raise ValueError(f"{table}, line {line}: {name} must be a whole number, got {text}.") from error


def _whole(text: str) -> int:
    """Read a whole number of any length exactly; 12.0 is accepted too, because programs write columns with gaps as floats."""
    value = int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else parse_number(text)
    if value != int(value):
        raise ValueError(f"{text} is not a whole number")
    return int(value)


def _match_columns(table: Path, header: Sequence[str], chosen: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Find which column of the header holds which field of a place, and which hold ids."""
    if len({column.strip().lower() for column in header if column}) < len(header):
        raise ValueError(f"{table}: every column needs a name of its own, got {', '.join(header)}.")
    check_chosen(chosen, header, f"{table} has the columns {', '.join(header)}", (*ALIASES, _PLACE_ID, _GROUP_ID))
    columns = columns_by_alias(header, ALIASES) | {field: name for field, name in chosen.items() if field in ALIASES}
    if "path" not in columns or not ({"latitude", "longitude"} <= columns.keys() or {"x", "y"} <= columns.keys()):
        raise ValueError(
            f"{table}: expected the columns path, latitude, longitude or path, x, y (and optionally heading, timestamp, "
            f"condition, z, yaw, frame, place_id, group_id), got {', '.join(header) or 'none'}."
        )
    id_columns = columns_by_alias(header, {name: (name,) for name in (_PLACE_ID, _GROUP_ID)})
    return columns, id_columns | {field: name for field, name in chosen.items() if field not in ALIASES}


def _place(table: Path, line: int, row: dict[Any, Any], columns: dict[str, str]) -> Place:
    try:
        place = Place(**_values(row, columns))
        check_place(place)
    except ValueError as error:
        raise ValueError(f"{table}, line {line}: {error}.") from error
    return place


def _values(row: dict[Any, Any], columns: dict[str, str]) -> dict[str, Any]:
    """Convert the filled cells of a row to the fields of a place."""
    if None in row:  # the key of fields without a column, in Python's csv module
        raise ValueError(f"there are more fields than columns: {row[None]}")
    texts = {field: (row[column] or "").strip() for field, column in columns.items()}
    values = {field: text if field in _TEXT_FIELDS else parse_number(text) for field, text in texts.items() if text}
    if "path" not in values:
        raise ValueError("the path is missing")
    return values | {"path": Path(os.path.normpath(texts["path"])).as_posix()}
