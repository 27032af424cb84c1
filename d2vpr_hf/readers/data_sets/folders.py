"""A folder with a folder of the database and folders of queries: `database` and `queries*`, as VPR-datasets-downloader writes.

The tree is that of https://github.com/gmberton/VPR-datasets-downloader, often inside `images/test`; SVOX has `gallery`, and
other sets `ref` and `query`. Positions are those of the photos' names, of a CSV file or of EXIF. The data set is recognised by
the names of its folders and by its numbers of photos.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2vpr_hf.places.place import POSITIVE_DIST_THRESHOLD
from d2vpr_hf.readers.data_sets.crop_headings import compass_headings
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.variants import find_family, variant_name
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.registry import read_places
from d2vpr_hf.readers.remarks import Remark, merge_remarks

DATABASE_NAMES = ("database", "gallery", "ref", "reference", "references", "db")
THRESHOLDS = {"baidu": 10.0}  # metres, where the published threshold is not the usual one
LEFT_EDGES = "headings of the left edges of crops, counted to the west, read as compass headings of the crops' middles"
EMPTY_SETS = "empty folders of queries"
UNREAD_PARTS = "folders of other parts of the data set (give one of them to evaluate it)"
_SF_XL_SETS = {"queries_v1", "queries_v2", "queries_occlusion"}
_QUERIES = re.compile(r"(query|queries)([ _.-].*)?|.*[ _.-](query|queries)", re.IGNORECASE)
_PARTS = ("test", "val", "train")
_INNER = tuple(f"{outer}{part}" for part in ("", *_PARTS) for outer in ("", "images/", "processed/"))  # test before val


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
    """Return the folders of database and queries in a folder, its part or the part around it; `None` without them.

    Of several parts, that of the test is taken, then that of the validation. The folder of the database itself stands for the
    folder that it is in, and a folder of queries for its queries and the database next to it.
    """
    return next(_sides(root), None)


def _sides(root: Path) -> Iterator[Sides]:
    if not root.is_dir():
        return
    for inner in _INNER:
        if (sides := _sides_in(root / inner)) is not None:
            yield sides
    around = _sides_in(root.absolute().parent)
    if around is not None and root.absolute() == around.database:
        yield around
    elif around is not None and root.absolute() in around.queries:
        yield replace(around, queries=(root.absolute(),))
    children = visible_folders(root)
    if len(children) == 1:  # a folder around the data set
        yield from (sides for inner in _INNER if (sides := _sides_in(children[0] / inner)) is not None)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones and those that macOS adds to archives."""
    folders = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path for path in folders if not path.name.startswith((".", "__MACOSX")))


def find_named(root: Path, *names: str) -> dict[str, Path]:
    """Return the folders by name, in lower case, in a folder or in the only folder in it; none unless all `names` are there."""
    children = visible_folders(root)
    for folder in (root, *(children if len(children) == 1 else ())):
        folders = {path.name.lower(): path for path in visible_folders(folder)}
        if all(name in folders for name in names):
            return folders
    return {}


def _sides_in(folder: Path) -> Sides | None:
    if not folder.is_dir():
        return None
    folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    database = next((folders[name] for name in DATABASE_NAMES if name in folders), None)
    queries = tuple(path for name, path in folders.items() if _QUERIES.fullmatch(name) and path != database)
    return None if database is None or not queries else Sides(database, queries)


def _is_sf_xl(root: Path) -> bool:
    """Return whether the folders of queries, or the names of the outer folders, are those of SF-XL."""
    sides = find_sides(root)
    if sides is None:
        return False
    names = {folder.name.lower() for folder in sides.queries}
    return bool(names & _SF_XL_SETS) or find_family(sides.database.parent) == "sf-xl"


def _read(root: Path, options: ReadOptions) -> DataSet:
    sides = find_sides(root)
    assert sides is not None
    database = read_places(sides.database, options)
    filled, empty = _split_empty(sides.queries)
    query_sets = tuple(QuerySet(folder.name, read_places(folder, options)) for folder in filled)
    folder = sides.database.parent
    counts = {queries.name: len(queries.table.places) for queries in query_sets}
    family = find_family(folder, [(len(database.places), count) for count in counts.values()])
    rule = _mock_frames(database) if family == "nordland" else ""
    threshold = THRESHOLDS.get(family or "")
    rule = f"within {threshold:g} m" if threshold is not None else rule
    return DataSet(
        "folders",
        variant_name(folder, len(database.places), counts, rule),
        (DataSetPart("", database, query_sets),),
        positive_dist_threshold=threshold,
        remarks=_other_parts(root, sides) + empty,
    )


def _split_empty(folders: tuple[Path, ...]) -> tuple[tuple[Path, ...], tuple[Remark, ...]]:
    """Return the folders of queries that hold something, and a remark on the others; all folders if all are empty."""
    filled = tuple(folder for folder in folders if any(folder.iterdir()))
    if not filled or len(filled) == len(folders):
        return folders, ()
    empty = [folder for folder in folders if folder not in filled]
    return filled, (Remark("skipped", EMPTY_SETS, len(empty), str(empty[0])),)


def _read_sf_xl(root: Path, options: ReadOptions) -> DataSet:
    data_set = _read(root, options)
    part = data_set.parts[0]
    database, remarks = _with_compass_headings(part.database)
    query_sets = []
    for queries in part.query_sets:
        table, more = _with_compass_headings(queries.table)
        query_sets.append(replace(queries, table=table))
        remarks += more
    part = DataSetPart("", database, tuple(query_sets))
    return replace(data_set, layout="sf-xl", parts=(part,), remarks=merge_remarks((*data_set.remarks, *remarks)))


def _with_compass_headings(table: PlaceTable) -> tuple[PlaceTable, tuple[Remark, ...]]:
    """Return a table with the compass headings of crops of SF-XL; photos of phones, v2 and night, have no heading."""
    rows = [row for row, place in enumerate(table.places) if place.heading is not None]
    if not rows:
        return table, ()
    headings = compass_headings(np.array([table.places[row].heading for row in rows], np.float64))
    places = list(table.places)
    for row, heading in zip(rows, headings.tolist(), strict=True):
        places[row] = replace(places[row], heading=heading)
    return replace(table, places=places), (Remark("corrected", LEFT_EDGES, len(rows), places[rows[0]].path),)


def _mock_frames(database: PlaceTable) -> str:
    """Return the number of frames that the usual 25 m are in mock metres, in which frames are at equal distances."""
    norths = np.unique([place.utm_north for place in database.places if place.utm_north is not None])
    if len(norths) < 2:
        return ""
    frames = int(POSITIVE_DIST_THRESHOLD / np.median(np.diff(norths)) + 1e-6)
    return f"±{frames} frame{'' if frames == 1 else 's'}"


def _other_parts(root: Path, sides: Sides) -> tuple[Remark, ...]:
    """Return a remark on parts of the data set next to the one that is read."""
    part = sides.database.parent
    others = [name for name in _PARTS if name != part.name and _sides_in(part.parent / name) is not None]
    if part.name not in _PARTS or not others or root.absolute() not in part.absolute().parents:
        return ()
    return (Remark("skipped", UNREAD_PARTS, len(others), (part.parent / others[0]).as_posix()),)


FOLDERS = Layout(
    "folders",
    "Folders of database and queries",
    "a folder with database/ and queries*/ (or gallery/, ref/ and query/)",
    lambda root: find_sides(root) is not None,
    _read,
    is_general=True,
)
SF_XL = Layout(
    "sf-xl",
    "SF-XL",
    "the folder test of SF-XL, with database/ and queries_v1/, queries_v2/, queries_night/ or queries_occlusion/",
    _is_sf_xl,
    _read_sf_xl,
)
