"""Positions in a table: a CSV file with a column of paths, and columns of degrees, UTM metres or metres of a local frame.

For training, two columns of whole numbers may give the place that each photo shows (`place_id`), and the group of places that
may share a batch (`group_id`).
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.places.place import Place, check_finite_numbers, check_place, complete_places, number_values, parse_number
from d2vpr_hf.places.utm_zones import zone_with_hemisphere
from d2vpr_hf.readers.photo_listing import PHOTO_SUFFIXES
from d2vpr_hf.readers.place_table import PlaceTable, is_file
from d2vpr_hf.readers.plain_values import count_letters_s, count_metres_without_degrees, count_zeros, plain_places
from d2vpr_hf.readers.remarks import RemarkCounter
from d2vpr_hf.readers.tables.csv_rows import CsvRows, read_rows
from d2vpr_hf.readers.tables.reference_columns import check_no_minutes, complete_values, find_references, plain_name
from d2vpr_hf.readers.tables.table_paths import RESPELLED, TablePaths
from d2vpr_hf.readers.tables.two_positions import count_likely_degrees, drop_local_copies, drop_other_metres
from d2vpr_hf.utils.atomic_files import create_text

HEMISPHERE = "hemisphere"  # a column of tables, which completes the zone
# Names of columns for each field, the preferred one first; case, blanks, hyphens, underscores and brackets do not matter.
ALIASES = {
    "path": (
        *("path", "file_path", "source_file", "file", "filename", "image_path", "image_name", "image", "photo", "name"),
        "label",  # of Agisoft
    ),
    "latitude": ("latitude", "lat", "gps_latitude", "gps_lat", "y/latitude"),
    "longitude": ("longitude", "lon", "lng", "long", "gps_longitude", "gps_lon", "gps_lng", "gps_long", "x/longitude"),
    "utm_east": ("utm_east", "utm_easting", "easting"),
    "utm_north": ("utm_north", "utm_northing", "northing"),
    "utm_zone": ("utm_zone", "utm_zone_number", "zone", "zone_number"),
    HEMISPHERE: ("hemisphere", "utm_hemisphere"),
    "x": ("x",),
    "y": ("y",),
    "z": ("z",),
    "yaw": ("yaw",),
    "frame": ("frame", "frame_id"),
    "heading": ("heading", "bearing", "compass_angle"),
    "timestamp": ("timestamp", "time", "datetime", "captured_at", "date_time_original"),
    "condition": ("condition",),
}
_DEGREES, _METRES = ("deg", "degrees", "°"), ("m", "metres", "meters")
_UNITS = {  # of a field, which may follow the name of its column
    **dict.fromkeys(("latitude", "longitude", "heading", "yaw"), _DEGREES),
    **dict.fromkeys(("utm_east", "utm_north", "x", "y", "z"), _METRES),
}
_TEXT_FIELDS = ("path", "utm_zone", HEMISPHERE, "frame", "timestamp", "condition")
_POSITIONS = (("latitude", "longitude"), ("utm_east", "utm_north"), ("x", "y"))
_ANGLE = re.compile(r"[NSEWO+-]?[\d.,]+ *(°|[NSEWO]|deg)|[NSEWO] *\d", re.IGNORECASE)
_NO_VALUES = frozenset(("na", "n/a", "n.a.", "nan", "none", "null", "nil", "nat", "-", "--", "?", "\\n", "#n/a", "#nv", "<na>"))
_FORMS = {"latitude": "decimal degrees such as -33.8568", "longitude": "decimal degrees such as 151.2153"}
_TRIED_PATHS = 100  # rows whose files are looked for to choose among several columns of paths
BACKSLASHES = "paths with backslashes, read as paths with forward slashes"
_PLACE_ID, _GROUP_ID = "place_id", "group_id"
_VALUE = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")


def read_csv(table: Path, chosen: Mapping[str, str] | None = None) -> PlaceTable:
    """Read places from a CSV file; paths are relative to its folder.

    Args:
        table: The file.
        chosen: The column of each field whose column does not have a usual name.

    Returns:
        The photos' places, with `place_ids` and `group_ids` if the table has such columns. Both are numbered from 0 without
        gaps in the order of the numbers in the file. Groups are ignored without place ids.

    Raises:
        ValueError: If the file is malformed (see [`read_rows`]), a column is missing or ambiguous, a photo is listed twice, or
            a line has half a position, two positions that do not agree, something else in place of a number or path, no place
            id although other lines have one, or another group than other lines of its place.
    """
    columns, rows = _read_columns(table, chosen or {})
    remarks = RemarkCounter()
    labels = [f"{table.name}, line {line}" for line in rows.lines]
    for line in rows.short_lines:
        remarks.add(
            "assumed", "lines with fewer cells than columns, read with empty cells at their end", f"{table.name}, line {line}"
        )
    for line in rows.comments:
        remarks.add("skipped", "lines before the header that begin with #", f"{table.name}, line {line}")
    values = _read_values(table, rows, columns, remarks)
    places = [Place(**cells) for cells in values]
    _check_twice(table, rows, [place.path for place in places])
    if not {"x", "y"} & (chosen or {}).keys():
        places = drop_local_copies(places, labels, remarks)
        count_likely_degrees(places, labels, remarks)
    completed = _complete(table, rows, places)
    count_letters_s(places, labels, remarks)
    count_metres_without_degrees(completed, labels, remarks)
    places = drop_other_metres(completed, labels, remarks)
    count_zeros(places, labels, remarks)
    places = plain_places(places, remarks, labels)
    ids = _read_ids(table, {name: columns.fields[name] for name in (_PLACE_ID, _GROUP_ID) if name in columns.fields}, rows)
    return PlaceTable(
        table.parent,
        places,
        "csv",
        place_ids=ids.get(_PLACE_ID),
        group_ids=ids.get(_GROUP_ID),
        remarks=remarks.summary(),
    )


def write_csv(table: Path, places: Sequence[Place], ids: Mapping[str, NDArray[np.int64]]) -> None:
    """Write a file that [`read_csv`] reads: numbers with all digits, and only columns with at least one value.

    UTM metres are written for places without a latitude only; they follow from the latitude and longitude of all others.

    Raises:
        ValueError: If a number is not finite: the file could not be read again.
    """
    check_finite_numbers(places)
    rows = [_known(place) for place in places]
    fields = [field for field in ALIASES if any(field in row for row in rows)]
    columns = [[row.get(field) for row in rows] for field in fields]
    with create_text(table) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*fields, *ids])
        writer.writerows(zip(*columns, *(numbers.tolist() for numbers in ids.values()), strict=True))


def columns_by_alias(names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the column of each field: the first of the field's aliases that is the name of a column."""
    return {field: columns[0] for field, columns in all_columns_by_alias(names, aliases).items()}


def all_columns_by_alias(names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return all columns that an alias of a field names, in the order of the aliases; fields without a column are missing.

    Case, blanks, hyphens, underscores and brackets in names do not matter, and the unit of the field may follow: `lat (deg)`.
    """
    columns: dict[str, list[str]] = {}
    for name in names:
        columns.setdefault(plain_name(name), []).append(name)
    matched = {}
    for field, words in aliases.items():
        plain_names = [plain_name(word) + unit for word in words for unit in ("", *_UNITS.get(field, ()))]
        matched[field] = [name for plain in plain_names for name in columns.get(plain, ())]
    return {field: names for field, names in matched.items() if names}


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
    missing = [column or "a column without a name" for column in chosen.values() if not column or column not in columns]
    if missing:
        raise ValueError(f"{has}, but not {', '.join(missing)}.")


def _known(place: Place) -> dict[str, Any]:
    """Return the fields of a place that its row has, by column."""
    values = {field: value for field in ALIASES if (value := getattr(place, field, None)) is not None}
    if place.latitude is not None:
        values = {field: value for field, value in values.items() if not field.startswith("utm_")}
    if place.is_local and (place.latitude is not None or place.utm_east is not None):
        values.setdefault("frame", "local")  # x and y of an unnamed frame next to degrees would be refused
    return values


# ---- columns


@dataclass(frozen=True)
class _Columns:
    """Numbers of columns: of each field, and of those that complete a field, by the keys of `COMPLETED`."""

    fields: dict[str, int]
    references: dict[str, int]


def _read_columns(table: Path, chosen: Mapping[str, str]) -> tuple[_Columns, CsvRows]:
    """Read the cells of a file, and find the column of each field."""
    fields = (*ALIASES, _PLACE_ID, _GROUP_ID)
    aliases = {**ALIASES, _PLACE_ID: (_PLACE_ID,), _GROUP_ID: (_GROUP_ID,)}

    def count_known(names: Sequence[str]) -> int:
        stripped = [name.strip() for name in names]
        return len(columns_by_alias(stripped, aliases)) + sum(name in stripped for name in chosen.values())

    rows = read_rows(table, count_known)
    names = [name for name in rows.header if name]  # pandas writes its row numbers without a name
    if len({name.lower() for name in names}) < len(names):
        raise ValueError(f"{table}: every column needs a name of its own, got {', '.join(names)}.{_header_advice(rows)}")
    check_chosen(chosen, names, f"{table} has the columns {', '.join(names)}", fields)
    matched = all_columns_by_alias(names, aliases) | {field: [name] for field, name in chosen.items()}
    if not {"x", "y"} & chosen.keys() and {"latitude", "longitude", "utm_east", "utm_north"} & chosen.keys():
        matched = {field: names for field, names in matched.items() if field not in ("x", "y", "z")}
    if "utm_east" not in matched and "utm_zone" not in chosen:
        matched["utm_zone"] = [name for name in matched.get("utm_zone", []) if plain_name(name) == "utmzone"]
    matched = {field: names for field, names in matched.items() if names}
    if "path" not in matched or not any(matched.keys() >= {*pair} for pair in _POSITIONS):
        raise ValueError(
            f"{table}: expected the columns path, latitude, longitude or path, utm_east, utm_north, utm_zone or path, x, y "
            f"(and optionally heading, timestamp, condition, z, yaw, frame, place_id, group_id), got "
            f"{', '.join(names) or 'none'}.{_header_advice(rows)} "
            'Columns of other names can be chosen: `columns={"latitude": "COLUMN"}`. If the file does not list photos, '
            '`positions="names"` or `positions="exif"` ignores it.'
        )
    for field, candidates in matched.items():
        if field not in _TEXT_FIELDS:
            _check_equal(table, rows, field, candidates)
    matched["path"] = [_path_column(table.parent, rows, matched["path"])]
    columns = {field: rows.header.index(candidates[0]) for field, candidates in matched.items()}
    check_no_minutes(matched, names, f"{table} has the columns {', '.join(names)}")
    references = {key: rows.header.index(name) for key, name in find_references(matched, names).items()}
    return _Columns(columns, references), rows


def _header_advice(rows: CsvRows) -> str:
    """Return a sentence about a first line that is not one of column names; empty if it may be one."""
    if any(_VALUE.fullmatch(name) or PurePath(name).suffix.lower() in PHOTO_SUFFIXES for name in rows.header):
        return " The first line has values: write a line with the names of the columns before it."
    if sum(map(bool, rows.header)) == 1:
        return " The first line must name the columns, separated by commas, semicolons, tabs or vertical bars."
    return ""


def _path_column(folder: Path, rows: CsvRows, names: Sequence[str]) -> str:
    """Return the column of paths: of several, the one whose first cells name most files, and among equals the usual one."""

    def count_files(name: str) -> int:
        column = rows.header.index(name)
        return sum(is_file(folder / cells[column]) for cells in rows.cells[:_TRIED_PATHS])

    return names[0] if len(names) == 1 else max(names, key=count_files)


def _check_equal(table: Path, rows: CsvRows, field: str, names: Sequence[str]) -> None:
    """Raise ValueError if several columns may be meant for a field, and their cells differ."""
    first = rows.header.index(names[0])
    for name in names[1:]:
        column = rows.header.index(name)
        for line, cells in zip(rows.lines, rows.cells, strict=True):
            if cells[first] != cells[column] and not _is_same_number(cells[first], cells[column]):
                raise ValueError(
                    f"{table}, line {line}: the columns {names[0]} and {name} both name the {field} and differ: "
                    f"{cells[first] or 'empty'} and {cells[column] or 'empty'}. "
                    f'Choose one with `columns={{"{field}": "{names[0]}"}}`.'
                )


def _is_same_number(first: str, second: str) -> bool:
    try:
        return parse_number(first.replace(",", ".")) == parse_number(second.replace(",", "."))
    except ValueError:
        return False


# ---- cells


def _read_values(table: Path, rows: CsvRows, columns: _Columns, remarks: RemarkCounter) -> Iterator[dict[str, Any]]:
    """Yield the values of each row by field; empty cells are omitted."""
    paths = TablePaths(table.parent)
    fields = {field: column for field, column in columns.fields.items() if field not in (_PLACE_ID, _GROUP_ID)}
    numbers = [(field, column) for field, column in fields.items() if field not in _TEXT_FIELDS]
    texts = [(field, column) for field, column in fields.items() if field in _TEXT_FIELDS and field != "path"]
    has_commas = _has_decimal_commas(table, rows, numbers, remarks)
    for line, cells in zip(rows.lines, rows.cells, strict=True):
        values: dict[str, Any] = {field: cells[column] for field, column in texts if cells[column]}
        try:
            path = cells[fields["path"]]
            if not path:
                raise ValueError("the path is missing")
            values["path"] = paths.read(path)
            if "\\" in path and "\\" not in values["path"]:
                remarks.add("corrected", BACKSLASHES, f"{table.name}, line {line}")
            elif paths.is_respelled:
                remarks.add("corrected", RESPELLED, f"{table.name}, line {line}")
            for field, column in numbers:
                if cells[column]:
                    values[field] = _number(field, cells[column].replace(",", ".") if has_commas else cells[column])
            complete_values(values, {key: cells[column] for key, column in columns.references.items()})
            hemisphere = values.pop(HEMISPHERE, None)
            values["utm_zone"] = zone_with_hemisphere(values.get("utm_zone"), hemisphere, values.get("latitude"))
        except ValueError as error:
            raise ValueError(f"{table}, line {line}: {error}.") from error
        yield values


def _number(field: str, text: str) -> float:
    try:
        return parse_number(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError as error:
        form = _FORMS.get(field, "a number without a unit")
        advice = ""
        if field in _FORMS and _ANGLE.match(text):
            advice = "; exiftool writes decimal degrees with its option -n"
        elif text.lower() in _NO_VALUES:
            advice = '; pandas leaves such cells empty with na_rep="", R with na="", exiftool without -f'
        raise ValueError(f"{error}; {field} must be {form}, and empty if it is not known{advice}") from error


def _has_decimal_commas(table: Path, rows: CsvRows, columns: Sequence[tuple[str, int]], remarks: RemarkCounter) -> bool:
    """Return whether the numbers of a table have a decimal comma; all of them must then have one.

    A comma may also separate thousands. `1,250` is therefore read only if another cell shows that commas are decimal, such as
    one with another number of digits, or a number of degrees.

    Raises:
        ValueError: If a number has both signs, or some numbers have a comma and others a point, or if commas may be either.
    """
    with_comma = [
        (line, field, cells[column])
        for line, cells in zip(rows.lines, rows.cells, strict=True)
        for field, column in columns
        if "," in cells[column]
    ]
    if not with_comma:
        return False
    for line, field, text in with_comma:
        if not _DECIMAL_COMMA.fullmatch(text):
            raise ValueError(
                f"{table}, line {line}: {field} {text} has a comma. Write numbers with a decimal point and without separators "
                "of thousands."
            )
    is_decimal = any(not _THOUSANDS.fullmatch(text) or field in ("latitude", "longitude") for _, field, text in with_comma)
    if not is_decimal:
        line, field, text = with_comma[0]
        raise ValueError(
            f"{table}, line {line}: {field} {text} may be {text.replace(',', '.')} or {text.replace(',', '')}. Write numbers "
            "with a decimal point and without separators of thousands."
        )
    for line, cells in zip(rows.lines, rows.cells, strict=True):
        for field, column in columns:
            if "." in cells[column]:
                raise ValueError(
                    f"{table}, line {line}: {field} {cells[column]} has a decimal point, but {with_comma[0][1]} "
                    f"{with_comma[0][2]} in line {with_comma[0][0]} has a decimal comma. Write all numbers in one form."
                )
    remarks_text = "numbers with a comma, read as a decimal comma"
    for line, _, _ in with_comma:
        remarks.add("assumed", remarks_text, f"{table.name}, line {line}")
    return True


# ---- places


def _looks_swapped(place: Place) -> bool:
    """Return whether latitude and longitude would be valid in the other order only."""
    if place.latitude is None or place.longitude is None:
        return False
    return 90 < abs(place.latitude) <= 180 and abs(place.longitude) <= 90


def _check_twice(table: Path, rows: CsvRows, paths: Sequence[str]) -> None:
    """Raise ValueError if two lines are of one photo."""
    first_lines: dict[str, int] = {}
    for line, path in zip(rows.lines, paths, strict=True):
        if first_lines.setdefault(path, line) != line:
            raise ValueError(f"{table}, line {line}: {path} is listed in line {first_lines[path]} already.")


def _complete(table: Path, rows: CsvRows, places: Sequence[Place]) -> list[Place]:
    """Check that the positions of each place agree, and add UTM metres and degrees."""
    try:
        return complete_places(places)
    except ValueError:
        for line, place in zip(rows.lines, places, strict=True):
            _check_line(table, line, place)
        raise


def _check_line(table: Path, line: int, place: Place) -> None:
    """Raise ValueError with the line if a place is impossible."""
    try:
        check_place(place)
    except ValueError as error:
        hint = "; are the two columns swapped" if _looks_swapped(place) else ""
        raise ValueError(f"{table}, line {line}: {error}{hint}.") from error


# ---- ids


def _read_ids(table: Path, columns: Mapping[str, int], rows: CsvRows) -> dict[str, NDArray[np.int64]]:
    """Read the columns of places and groups, if there are any place ids."""
    filled = {name: column for name, column in columns.items() if any(cells[column] for cells in rows.cells)}
    if _PLACE_ID not in filled:
        return {}
    lines = list(zip(rows.lines, rows.cells, strict=True))
    numbers = {name: [_read_id(table, line, name, cells[column]) for line, cells in lines] for name, column in filled.items()}
    if _GROUP_ID in numbers:
        groups: dict[int, int] = {}
        for line, place_id, group_id in zip(rows.lines, numbers[_PLACE_ID], numbers[_GROUP_ID], strict=True):
            if groups.setdefault(place_id, group_id) != group_id:
                raise ValueError(
                    f"{table}, line {line}: place {place_id} is of group {groups[place_id]}, here it is of {group_id}."
                )
    return {name: number_values(ids) for name, ids in numbers.items()}


def _read_id(table: Path, line: int, name: str, text: str) -> int:
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
