"""Data sets whose photos and ground truth are listed in `.npy` files, as gsv-cities, OpenVPRLab, SALAD and VPR-Bench do.

- `NAME_dbImages.npy`, `NAME_qImages.npy`, and `NAME_gt_25m.npy` or `NAME_gt.npy`; or `NAME_qIdx.npy`, the queries in use, and
  `NAME_pIdx.npy`, their positives: https://github.com/amaralibey/gsv-cities, https://github.com/serizba/salad.
- `NAME_ref_image_names.npy`, `NAME_query_image_names.npy` and `NAME_ground_truth_25m.npy`:
  https://github.com/amaralibey/OpenVPRLab.
- `ref` and `query` with `ground_truth_new.npy`, or with a single file `*_gt.npy`: https://github.com/MubarizZaffar/VPR-Bench.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers.data_sets.array_files import read_names, read_numbers, read_positives
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.folders import Sides, find_sides, visible_folders
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.listed_photos import ListedPhotos, find_base, list_table
from d2vpr_hf.readers.data_sets.variants import variant_name
from d2vpr_hf.readers.photo_listing import list_photos
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions

_DATABASE = re.compile(r"(?P<name>.*?)_?(dbImages|db_images|ref_image_names|database_image_names)\.npy", re.IGNORECASE)
_QUERIES = ("qImages", "q_images", "query_image_names", "queries_image_names")
_TRUTHS = ("gt_25m", "ground_truth_25m", "pIdx", "gt", "ground_truth")
_TRUTH_FILE = re.compile(r"(.*_)?(gt|ground_truth)(_new|_25m)?\.npy", re.IGNORECASE)


@dataclass(frozen=True)
class _Lists:
    """The files of a data set.

    Attributes:
        name: The beginning of their names.
        database: List of the database photos.
        queries: List of the queries.
        used: Numbers of the queries in use; `None` for all.
        truth: Positives of each query.
    """

    name: str
    database: Path
    queries: Path
    used: Path | None
    truth: Path


def _find_lists(root: Path) -> list[_Lists]:
    """Return the lists in a folder, or else in its subfolders; for the file of a database, its lists."""
    if root.is_file():
        match = _DATABASE.fullmatch(root.name)
        return [] if match is None else _lists_of(root, match["name"])
    children = visible_folders(root)
    inner = [each for folder in children for each in _lists_in(folder)]
    return _lists_in(root) or (inner if len(children) == 1 else [each for each in inner if not _is_whole(root, each)])


def _is_whole(root: Path, lists: _Lists) -> bool:
    """Return whether the photos of lists in a subfolder are in this subfolder too: it is a data set next to others."""
    try:
        return _base_folder(root, lists, read_names(lists.database)) == lists.database.parent
    except ValueError:
        return False  # reading reports the error


def _lists_in(folder: Path) -> list[_Lists]:
    matches = ((path, _DATABASE.fullmatch(path.name)) for path in sorted(folder.glob("*.[nN][pP][yY]")))
    return [each for path, match in matches if match is not None for each in _lists_of(path, match["name"])]


def _lists_of(database: Path, name: str) -> list[_Lists]:
    """Return the lists next to the list of a database; none if a file is missing."""
    files = {path.name.lower(): path for path in database.parent.glob("*.[nN][pP][yY]")}
    prefix = f"{name}_" if name else ""

    def find(endings: Sequence[str]) -> Path | None:
        return next((files[key] for end in endings if (key := f"{prefix}{end}.npy".lower()) in files), None)

    queries, truth = find(_QUERIES), find(_TRUTHS)
    return [] if queries is None or truth is None else [_Lists(name, database, queries, find(("qIdx",)), truth)]


def _read_lists(root: Path, options: ReadOptions) -> DataSet:
    lists = _find_lists(root)
    if len(lists) > 1:
        files = ", ".join(str(each.database) for each in lists)
        raise ValueError(f"{root} has the lists of several data sets. Give one of their files in place of the folder: {files}.")
    return _read_list(root, lists[0])


def _read_list(root: Path, lists: _Lists) -> DataSet:
    names = read_names(lists.database)
    queries = read_names(lists.queries)
    positives = [rows for _, rows in read_positives(lists.truth)]
    if lists.used is not None:
        used = read_numbers(lists.used)
        _check_rows(lists.used, used, len(queries), "queries")
        positives = [positives[row] for row in used.tolist()] if len(positives) == len(queries) != len(used) else positives
        queries = [queries[row] for row in used.tolist()]
    if len(positives) != len(queries):
        raise ValueError(
            f"{lists.truth} has positives of {len(positives)} queries, and {lists.queries} lists {len(queries)}. Give files of "
            "one variant of the data set."
        )
    for rows in positives:
        _check_rows(lists.truth, rows, len(names), "database photos")
    base = _base_folder(root, lists, names)
    database = list_table(base, names, str(lists.database))
    query_set = _query_set(list_table(base, queries, str(lists.queries)), database, positives)
    named = base if lists.name == "" else lists.database.with_name(lists.name)
    variant = variant_name(named, len(names), {"queries": len(queries)}, _nordland_rule(named, positives))
    return DataSet("npy", variant, (DataSetPart("", database.table, (query_set,)),))


def _check_rows(file: Path, rows: NDArray[np.int64], count: int, what: str) -> None:
    outside = rows[(rows < 0) | (rows >= count)]
    if len(outside):
        raise ValueError(
            f"{file} refers to row {outside[0]} (from 0) of {count} {what}. Give files of one variant of the data set."
        )


def _base_folder(root: Path, lists: _Lists, names: Sequence[str]) -> Path:
    """Return the folder that the listed paths start from: the data set's, that of the lists, or one next to them."""
    folder = root if root.is_dir() else lists.database.parent
    near = dict.fromkeys([folder, lists.database.parent, folder.parent, *visible_folders(folder), lists.database.parent.parent])
    return find_base(list(near), names) or folder


def _query_set(queries: ListedPhotos, database: ListedPhotos, positives: Sequence[NDArray[np.int64]]) -> QuerySet:
    """Return the queries that exist, with the rows of their positives in the table of the database."""
    _, first = np.unique(queries.rows, return_index=True)  # of the missing ones, -1, and of each row of the table
    listed = first[-len(queries.table.places) :].tolist()
    return QuerySet("queries", queries.table, database.new_positives([positives[row] for row in listed]))


def _nordland_rule(named: Path, positives: Sequence[NDArray[np.int64]]) -> str:
    """Return the number of frames within which photos of Nordland are positives, from the numbers of positives."""
    if "nordland" not in named.as_posix().lower() or not positives:
        return ""
    frames = (max(len(np.unique(rows)) for rows in positives) - 1) // 2
    return f"±{frames} frame{'' if frames == 1 else 's'}"


def find_truth_file(root: Path) -> Path | None:
    """Return the file of ground truth in a folder; `None` without one, or if there are several."""
    files = [path for path in sorted(root.glob("*.[nN][pP][yY]")) if _TRUTH_FILE.fullmatch(path.name)]
    preferred = [path for path in files if path.name.lower() == "ground_truth_new.npy"] or files
    return preferred[0] if len(preferred) == 1 else None


def _folder_sides(root: Path) -> Sides | None:
    """Return the folders of a data set with a file of ground truth next to them; `None` without these.

    The data set may be the only one in a folder, or the one around its folder of photos.
    """
    sides = find_sides(root)
    if sides is None or len(sides.queries) != 1:
        return None
    folder = sides.database.parent
    return sides if find_truth_file(folder) is not None and not _lists_in(folder) else None


def _read_folders(root: Path, options: ReadOptions) -> DataSet:
    sides = _folder_sides(root)
    assert sides is not None
    root = sides.database.parent
    truth = find_truth_file(root)
    assert truth is not None
    database, queries = photos_by_number(sides.database), photos_by_number(sides.queries[0])
    positives = positives_by_number(truth, len(queries.places), len(database.places))
    query_set = QuerySet(sides.queries[0].name, queries, positives)
    counts = {query_set.name: len(positives)}
    variant = variant_name(root, len(database.places), counts, _nordland_rule(root.absolute(), positives))
    return DataSet("vpr-bench", variant, (DataSetPart("", database, (query_set,)),))


def positives_by_number(truth: Path, num_queries: int, num_database: int) -> tuple[NDArray[np.int64], ...]:
    """Return the positives of each query from a file of ground truth; queries that it does not list have none.

    Raises:
        ValueError: If the file is malformed, or refers to photos that do not exist.
    """
    positives: list[NDArray[np.int64]] = [np.empty(0, np.int64) for _ in range(num_queries)]
    numbered = read_positives(truth)
    _check_rows(truth, np.array([query for query, _ in numbered], np.int64), num_queries, "queries")
    for query, rows in numbered:
        _check_rows(truth, rows, num_database, "database photos")
        positives[query] = np.unique(rows)
    return tuple(positives)


def photos_by_number(folder: Path) -> PlaceTable:
    """Return the photos of a folder in the order of the numbers in their names, to which the ground truth refers."""
    listing = list_photos(folder)
    paths = [photo.relative_to(folder).as_posix() for photo in listing.photos]
    paths.sort(key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)])
    table = list_table(folder, paths, str(folder)).table
    return PlaceTable(folder, table.places, "none", listing.skipped, remarks=listing.remarks)


ARRAY_LISTS = Layout(
    "npy",
    "Lists of photos and positives in .npy files",
    "a folder with NAME_dbImages.npy, NAME_qImages.npy and NAME_gt_25m.npy (or NAME_qIdx.npy and NAME_pIdx.npy)",
    lambda root: bool(_find_lists(root)),
    _read_lists,
)
VPR_BENCH = Layout(
    "vpr-bench",
    "Folders with ground truth in a .npy file",
    "a folder with ref/, query/ and ground_truth_new.npy (or a file *_gt.npy)",
    lambda root: _folder_sides(root) is not None,
    _read_folders,
)
