"""Files of positives that a user gives: the database photos that are correct for each query."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers.data_sets.array_files import read_positives as read_positives_array
from d2vpr_hf.readers.remarks import Remark
from d2vpr_hf.utils.bounded_files import check_entry, parse_json

SUFFIXES = (".npy", ".npz", ".csv", ".json")
_NAMES_AT_ONCE = 100_000


@dataclass(frozen=True)
class RowNames:
    """The photos of one side, as the rows and names of a file refer to them.

    Attributes:
        side: `"database"` or `"queries"`.
        paths: Paths of the photos, by their row in the table.
        skipped: Paths of photos that are not in the table.
        rows: (L,) for each photo of a given list its row in the table, -1 if it is missing; `None` without a list: row numbers
            in the file are rows of the table.
    """

    side: str
    paths: Sequence[str]
    skipped: Mapping[str, str] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None

    def find(self, values: Sequence[Any], source: Path) -> NDArray[np.int64]:
        """Return the rows of names or row numbers (V,); -1 for photos that are listed or known, but missing.

        Raises:
            ValueError: If a photo of a name does not exist, or a row is out of range.
        """
        if all(type(value) is int for value in values):
            return self._check_rows(values, source)
        names = [str(value).strip().replace("\\", "/") for value in values]
        wanted = set(names)
        rows = dict.fromkeys(self.skipped, -1)
        for start in range(0, len(self.paths), _NAMES_AT_ONCE):
            block = self.paths[start : start + _NAMES_AT_ONCE]
            rows.update((path, row) for row, path in enumerate(block, start) if path in wanted)
        unknown = [name for name in dict.fromkeys(names) if name not in rows]
        if len(unknown) == len(wanted) and all(map(_is_number, wanted)):
            return self._check_rows([int(name) for name in names], source)
        if unknown:
            raise ValueError(
                f"{source}: {len(unknown)} of {len(wanted)} names are not photos of the {self.side}, {unknown[0]} first. "
                f"Expected paths such as {self.paths[0]}, or row numbers from 0."
            )
        return np.array([rows[name] for name in names], np.int64)

    def _check_rows(self, values: Sequence[int], source: Path) -> NDArray[np.int64]:
        count = len(self.paths) if self.rows is None else len(self.rows)
        if values and (min(values) < 0 or max(values) >= count):  # numbers of any size: they may not fit into an array
            outside = [value for value in values if not 0 <= value < count]
            raise ValueError(
                f"{source}: {len(outside)} row numbers of the {self.side} are out of range, {str(outside[0])[:30]} first. "
                f"There are {count} photos: expected rows from 0 to {count - 1}."
            )
        numbers = np.array(values, np.int64)
        return numbers if self.rows is None else self.rows[numbers]


def read_positives(
    path: str | Path, database: RowNames, queries: RowNames
) -> tuple[tuple[NDArray[np.int64], ...], tuple[Remark, ...]]:
    """Read the positives of queries.

    Args:
        path: A `.npy` file of an array (Q, P) of database rows, or of Q lists of them; a `.npz` file with one such array; a CSV
            file with the columns `query` and `database`, a line for each pair; or a JSON file of a table from each query to its
            list, or of Q lists. CSV and JSON files have names or row numbers, from 0.
        database: The database photos.
        queries: The queries.

    Returns:
        For each query the rows (P,) of its positives, ascending, and remarks on entries that are not used and queries without
        an entry.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is malformed, a name does not exist, a row is out of range, or no query has an entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Give positives as one of {', '.join(SUFFIXES)}.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is not a file of positives. Expected one of {', '.join(SUFFIXES)}.")
    entries = _READERS[path.suffix.lower()](path)
    if not entries:
        raise ValueError(f"{path} has no positives.")
    of_entries = queries.find([query for query, _ in entries], path)
    counts = np.array([len(values) for _, values in entries], np.int64)
    query_rows = np.repeat(of_entries, counts)
    database_rows = database.find([value for _, values in entries for value in values], path) if counts.sum() else query_rows
    is_used = (query_rows >= 0) & (database_rows >= 0)
    pairs = np.unique(np.column_stack([query_rows, database_rows])[is_used], axis=0)
    cuts = np.searchsorted(pairs[:, 0], np.arange(1, len(queries.paths)))
    positives = tuple(np.split(pairs[:, 1].astype(np.int64), cuts)) if len(queries.paths) else ()
    return positives, tuple(_remarks(path, of_entries, is_used, queries))


def _remarks(path: Path, rows: NDArray[np.int64], is_used: NDArray[np.bool_], queries: RowNames) -> list[Remark]:
    remarks = []
    if not is_used.all():
        text = f"pairs of {path.name} with a photo that is missing"
        remarks.append(Remark("skipped", text, int((~is_used).sum()), str(path)))
    lacking = np.setdiff1d(np.arange(len(queries.paths)), rows)
    if len(lacking) == len(queries.paths):
        raise ValueError(f"{path} has no entry of any of the {len(queries.paths)} queries, such as {queries.paths[0]}.")
    if len(lacking):
        text = f"queries without an entry in {path.name}, which count as misses"
        remarks.append(Remark("assumed", text, len(lacking), queries.paths[int(lacking[0])]))
    return remarks


_Entries = list[tuple[Any, Sequence[Any]]]  # a query and its positives, as names or row numbers


def _read_npy(path: Path) -> _Entries:
    return [(query, rows.tolist()) for query, rows in read_positives_array(path)]


def _read_npz(path: Path) -> _Entries:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            chosen = [name for name in names if name == "positives.npy"] or names
            if len(chosen) != 1:
                texts = ", ".join(name.removesuffix(".npy") for name in names) or "none"
                raise ValueError(f"{path} has the arrays {texts}. Expected one, or one with the name positives.")
            check_entry(archive.getinfo(chosen[0]))
            with archive.open(chosen[0]) as file:
                return [(query, rows.tolist()) for query, rows in read_positives_array(file)]
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is not a .npz file: {error}.") from error


def _read_csv(path: Path) -> _Entries:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}.") from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "query" not in header or "database" not in header:
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}. Expected query and database, a line for each pair."
        )
    query, database = header.index("query"), header.index("database")
    short = next((number for number, row in enumerate(rows, 1) if len(row) <= max(query, database)), None)
    if short is not None:
        raise ValueError(f"{path}, row {short}: expected {len(header)} values, got {len(rows[short - 1])}.")
    return [(row[query].strip(), [row[database].strip()] if row[database].strip() else []) for row in rows[1:]]


def _read_json(path: Path) -> _Entries:
    try:
        values = parse_json(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
    given = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    entries: _Entries = [(query, each if isinstance(each, list) else [each]) for query, each in given]
    wrong = next((query for query, each in entries if not all(type(value) in (int, str) for value in each)), None)
    if wrong is not None or not entries:
        where = "" if wrong is None else f" Query {wrong} has something else."
        raise ValueError(f"{path}: expected a table from each query to a list of database photos, as names or rows.{where}")
    return entries


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".json": _read_json}


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()
