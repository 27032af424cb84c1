"""A folder with a folder of the database and folders of queries: `database` and `queries*`, as VPR-datasets-downloader writes.

Also `gallery`, as in SVOX, `ref` and `reference`. The tree may be inside `images/test`, as in
https://github.com/gmberton/VPR-datasets-downloader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.registry import read_places

DATABASE_NAMES = ("database", "gallery", "ref", "reference", "references")
_QUERIES = re.compile(r"(query|queries)([_-].*)?|.*[_-](query|queries)", re.IGNORECASE)
_INNER = ("", "images", "processed", "test", "images/test", "processed/test", "val", "images/val")  # test before val


@dataclass(frozen=True)
class Sides:
    """Folders of a tree.

    Attributes:
        database: The folder of the database.
        queries: Folders of queries, in the order of their names.
    """

    database: Path
    queries: tuple[Path, ...]


def find_sides(root: Path) -> Sides | None:
    """Return the folders of database and queries in a folder, or in its folder of the test part; `None` without them."""
    return next(_sides(root), None)


def _sides(root: Path) -> Iterator[Sides]:
    for inner in _INNER:
        folder = root / inner
        if not folder.is_dir():
            continue
        folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
        database = next((folders[name] for name in DATABASE_NAMES if name in folders), None)
        queries = tuple(path for name, path in folders.items() if _QUERIES.fullmatch(name) and path != database)
        if database is not None and queries:
            yield Sides(database, queries)


def read_sides(sides: Sides, options: ReadOptions) -> tuple[PlaceTable, tuple[QuerySet, ...]]:
    """Read database and query sets of a tree; the names of query sets are those of their folders."""
    query_sets = tuple(QuerySet(folder.name, read_places(folder, options)) for folder in sides.queries)
    return read_places(sides.database, options), query_sets


def _read(root: Path, options: ReadOptions) -> DataSet:
    sides = find_sides(root)
    assert sides is not None
    database, query_sets = read_sides(sides, options)
    counts = ", ".join(f"{len(queries.table.places):,} {queries.name}" for queries in query_sets)
    variant = f"{sides.database.parent.name}, {len(database.places):,} database photos, {counts}"
    return DataSet("folders", variant, (DataSetPart("", database, query_sets),))


FOLDERS = Layout(
    "folders",
    "Folders of database and queries",
    "a folder with database/ and queries*/ (or gallery/, ref/ and query/)",
    lambda root: find_sides(root) is not None,
    _read,
    is_general=True,
)
