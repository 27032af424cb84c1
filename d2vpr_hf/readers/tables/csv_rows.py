"""Read the cells of a CSV file strictly: a line that is cut off, swallows others or is not text is an error with its number."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.utils.regular_files import open_regular_file

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff]")  # spaces without width, marks of direction, second byte order marks
_LEAST_NAMES = 2  # names of columns in a first line that begins with #; with fewer it is a comment
_ENCODINGS = {  # by the byte order mark; that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class CsvRows:
    """The cells of a CSV file, without blanks around them.

    Attributes:
        header: Names of the columns.
        lines: (N,) the number of each row's line in the file, from 1.
        cells: (N,) the cells of each row, one for each column; rows without any text are not among them.
        short_lines: Numbers of the lines with fewer cells than columns; their last cells are empty here.
        comments: Numbers of the lines before the header that begin with `#`.
    """

    header: list[str]
    lines: list[int]
    cells: list[list[str]]
    short_lines: list[int]
    comments: list[int]


def read_rows(table: Path, count_known: Callable[[Sequence[str]], int]) -> CsvRows:
    """Read the header and the rows of a CSV file.

    Args:
        table: The file, in UTF-8, or in UTF-16 with a byte order mark. Its lines may end as those of any system. A first line
            such as `sep=;` names the separator.
        count_known: Returns the number of names that are known in a header. The separator is the one with which most names are
            known, and among equals the one with most columns.

    Raises:
        ValueError: With the number of the line: if the file is not a text, a quote is not closed, text follows a closing quote,
            a cell has a line break, or a row has more cells than the header, or fewer in a last line that does not end.
    """
    lines = list(io.StringIO(_decode(table), newline=""))
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)  # blank lines before the header
    content = CsvRows([], [], [], [], [])
    separator = _named_separator(lines[start]) if lines else None
    if separator is not None:
        start += 1
    else:
        header = _find_header(lines, start, count_known)
        content.comments.extend(number + 1 for number in range(start, header) if lines[number].strip())
        start = header
        separator = _find_separator(lines[start] if lines else "", count_known)
    for number, row in _parse(table, lines, start, separator):
        if not content.header:
            content.header.extend(_clean_names(row))
            continue
        num_missing = _count_missing(table, number, row, content.header, lines)
        if num_missing and len(row) == 1:
            _check_separator(table, number, row[0], content.header, separator)
        if num_missing:
            content.short_lines.append(number)
        content.lines.append(number)
        content.cells.append(row[: len(content.header)] + [""] * num_missing)
    return content


def _count_missing(table: Path, number: int, row: Sequence[str], header: Sequence[str], lines: Sequence[str]) -> int:
    """Return the number of cells that a row lacks.

    Raises:
        ValueError: If there is text in cells behind the last column, or the last line is cut off.
    """
    if any(row[len(header) :]):
        raise ValueError(
            f"{table}, line {number}: there are more fields than columns: {row[len(header) :]}. A comma inside a cell, such as "
            "a decimal comma, needs quotes around the cell, or semicolons between the columns. If each line begins with the "
            "number of its row, as R writes it, begin the header with an empty name."
        )
    if len(row) < len(header) and number == len(lines) and not lines[-1].endswith(("\n", "\r")):
        raise ValueError(
            f"{table}, line {number}: the last line has {len(row)} cells for {len(header)} columns and does not end. If the "
            "file was cut off, restore it; otherwise complete the line."
        )
    return max(0, len(header) - len(row))


def _check_separator(table: Path, number: int, cell: str, header: Sequence[str], separator: str) -> None:
    """Raise ValueError if a line of one cell would have a cell for each column with another separator."""
    for character, name in _SEPARATORS.items():
        if character != separator and len(cell.split(character)) >= len(header):
            raise ValueError(
                f"{table}, line {number}: this line is separated by {name}, and the header by "
                f"{_SEPARATORS.get(separator, separator)}. Separate all lines in the same way."
            )


def _clean_names(header: Sequence[str]) -> list[str]:
    """Return the names of columns without characters that cannot be seen, and without a `#` before the first name."""
    names = [_INVISIBLE.sub("", name).strip() for name in header]
    return [names[0].removeprefix("#").strip(), *names[1:]]


def _find_header(lines: Sequence[str], start: int, count_known: Callable[[Sequence[str]], int]) -> int:
    """Return the number of the line with the names of columns: behind lines that begin with `#`, if these are comments."""
    for number in range(start, len(lines)):
        line = lines[number]
        if not line.strip():
            continue
        separator = _find_separator(line, count_known)
        if not line.startswith("#") or count_known(_clean_names(line.split(separator))) >= _LEAST_NAMES:
            return number
    return start


def _named_separator(line: str) -> str | None:
    """Return the separator of Excel's first line `sep=;`; `None` for any other line."""
    text = line.strip('\r\n "')
    return text[4] if text[:4].lower() == "sep=" and len(text) == 5 else None


def _decode(table: Path) -> str:
    """Return the text of a file."""
    with open_regular_file(table) as file:
        content = file.read()
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{table} is not a table in UTF-8 (line {line}: {error}). Save it as CSV UTF-8.") from error
    if "\0" in text:
        line = len(list(io.StringIO(text[: text.index("\0")] + "x", newline="")))
        raise ValueError(
            f"{table}, line {line}: there is a NUL byte, as in files that are damaged, or in UTF-16 without a byte order mark. "
            "Save it as CSV UTF-8."
        )
    return text


def _find_separator(header: str, count_known: Callable[[Sequence[str]], int]) -> str:
    """Return the character that separates the columns of a header."""

    def score(separator: str) -> tuple[int, int]:
        try:
            names = next(csv.reader([header], delimiter=separator, skipinitialspace=True))
        except (csv.Error, StopIteration):
            return 0, 0
        return count_known(_clean_names(names)) if names else 0, len(names)

    return max(_SEPARATORS, key=score)  # the first of equals


def _parse(table: Path, lines: Sequence[str], start: int, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row that has any text, the header included."""
    reader = csv.reader(lines[start:], delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        number = start + reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{table}, line {number}: {_problem(error)}.") from error
        if row is None:
            return
        last = start + reader.line_num
        if last > number:
            raise ValueError(
                f"{table}, line {number}: a cell that begins with a quote ends in line {last} only. Close the quote in its "
                "line; no cell may hold a line break."
            )
        if any(cell.strip() for cell in row):
            yield number, [cell.strip() for cell in row]


def _problem(error: csv.Error) -> str:
    """Return the description of an error of the csv module."""
    if "unexpected end of data" in str(error):
        return "a cell begins with a quote that is not closed"
    if "expected after" in str(error):
        return "text follows the closing quote of a cell; quotes inside a quoted cell are doubled"
    if "field limit" in str(error):
        return f"the line cannot be read ({error}); close the quote of the cell, or remove the column of long texts"
    return f"the line cannot be read ({error}); is a quote not closed"
