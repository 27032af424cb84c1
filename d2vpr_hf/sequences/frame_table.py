"""Times of frames and movements between them, in a CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.places.place import parse_number
from d2vpr_hf.readers.tables.csv_rows import CsvRows, read_rows
from d2vpr_hf.readers.tables.csv_table import ALIASES, columns_by_alias

_ALIASES = {
    "path": ALIASES["path"],
    "timestamp": (*ALIASES["timestamp"], "seconds"),
    "metres": ("metres", "meters", "distance"),
    "turn": ("turn", "heading_change"),
}


@dataclass(frozen=True)
class FrameRow:
    """A line of a table of frames.

    Attributes:
        photo: The photo's file.
        timestamp: Its time, as written; `None` if it is not known.
        metres: Metres from the line before it; `None` if they are not known.
        turn: Change of the heading from the line before it in degrees, clockwise; `None` if it is not known.
    """

    photo: Path
    timestamp: str | None = None
    metres: float | None = None
    turn: float | None = None


@dataclass(frozen=True)
class FrameTable:
    """A table of frames.

    Attributes:
        file: The CSV file.
        rows: Its lines.
        fields: The fields that it has a column for.
    """

    file: Path
    rows: list[FrameRow]
    fields: frozenset[str]


def read_frame_table(file: str | Path) -> FrameTable:
    """Read times and movements of frames.

    Args:
        file: A CSV file with a line for each frame: `path` of the photo, from the folder of the CSV file, and any of
            `timestamp`, `metres` from the line before it, and `turn`, the change of the heading in degrees, clockwise. Other
            columns are not read, and empty cells are not known.

    Raises:
        ValueError: With the number of the line: if there is no column of paths, metres or a turn are not a finite number,
            metres are negative, or a photo is there twice.
    """
    file = Path(file)
    content = read_rows(file, lambda names: len(columns_by_alias(names, _ALIASES)))
    names = columns_by_alias(content.header, _ALIASES)
    if "path" not in names:
        raise ValueError(f"{file} has no column `path` of the frames' photos; it has {', '.join(content.header) or 'none'}.")
    columns = {field: content.header.index(name) for field, name in names.items()}
    rows = [_read_row(file, line, cells, columns) for line, cells in zip(content.lines, content.cells, strict=True)]
    _check_twice(file, content, rows)
    return FrameTable(file, rows, frozenset(names))


def read_odometry(file: str | Path) -> FrameTable:
    """Read a table of frames that has movements.

    Raises:
        ValueError: As [`read_frame_table`] does, or if there is no column of metres.
    """
    table = read_frame_table(file)
    if "metres" not in table.fields:
        raise ValueError(
            f"{file} has no column `metres`. An odometry has the columns path, metres from the line before, and optionally "
            "turn (degrees, clockwise)."
        )
    return table


def _read_row(file: Path, line: int, cells: list[str], columns: dict[str, int]) -> FrameRow:
    texts = {field: cells[column].strip() for field, column in columns.items()}
    if not texts["path"]:
        raise ValueError(f"{file}, line {line}: the path is empty.")
    metres = _number(file, line, "metres", texts.get("metres"))
    if metres is not None and metres < 0:
        raise ValueError(f"{file}, line {line}: metres must be at least 0, got {metres:g}.")
    photo = file.parent / texts["path"].replace("\\", "/")
    return FrameRow(photo, texts.get("timestamp") or None, metres, _number(file, line, "turn", texts.get("turn")))


def _check_twice(file: Path, content: CsvRows, rows: list[FrameRow]) -> None:
    seen: set[Path] = set()
    for line, row in zip(content.lines, rows, strict=True):
        if row.photo in seen:
            raise ValueError(f"{file}, line {line}: {row.photo} is there twice.")
        seen.add(row.photo)


def _number(file: Path, line: int, name: str, text: str | None) -> float | None:
    """Return the number of a cell; `None` for an empty one."""
    if not text:
        return None
    try:
        return parse_number(text)
    except ValueError as error:
        raise ValueError(f"{file}, line {line}: {name} must be a finite number, got {text!r}.") from error
