"""Data sets of photo pairs: a query belongs to the database photo of its name.

SPED, ESSEX3IN1 and Cross-Season in VPR-Bench (https://github.com/MubarizZaffar/VPR-Bench), here without their ground truth.
AmsterTime in its distributed form, historical photos `old` and street view photos `new` of equal names:
https://github.com/seyrankhademi/AmsterTime, https://arxiv.org/abs/2203.16291.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.folders import find_named, find_sides
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.variants import find_family, variant_name
from d2vpr_hf.readers.photo_listing import PhotoListing, list_photos
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.remarks import Remark

WITHOUT_PARTNER = "queries without a database photo of their name, which count as misses"
_FAMILIES = ("sped", "essex3in1", "cross-season")


def _read_amstertime(root: Path, options: ReadOptions) -> DataSet:
    folders = find_named(root, "new", "old")
    return _read_pairs(root, "amstertime", folders["new"], folders["old"])


def _is_pairs(root: Path) -> bool:
    """Return whether a folder has photos in pairs, no names with positions, and no file of ground truth."""
    sides = find_sides(root)
    if sides is None or len(sides.queries) != 1 or find_family(sides.database.parent) not in _FAMILIES:
        return False
    folder = sides.database.parent
    has_truth = any(path.suffix.lower() in (".npy", ".csv") for path in folder.iterdir())
    return not has_truth and not any(path.name.startswith("@") for path in sides.queries[0].iterdir())


def _read_named_pairs(root: Path, options: ReadOptions) -> DataSet:
    sides = find_sides(root)
    assert sides is not None
    return _read_pairs(sides.database.parent, "pairs", sides.database, sides.queries[0])


def _read_pairs(root: Path, layout: str, database_folder: Path, query_folder: Path) -> DataSet:
    database = _table(database_folder, list_photos(database_folder))
    queries = _table(query_folder, list_photos(query_folder))
    row_of = _rows_by_name(database)
    names = [_plain_name(place.path) for place in queries.places]
    positives = tuple(np.array([row_of[name]] if name in row_of else [], np.int64) for name in names)
    alone = [place.path for name, place in zip(names, queries.places, strict=True) if name not in row_of]
    if len(alone) == len(names):
        raise ValueError(
            f"No photo in {query_folder} has the name of one in {database_folder}, such as {alone[0]}. Pairs have equal names."
        )
    if alone:
        remarks = (*queries.remarks, Remark("assumed", WITHOUT_PARTNER, len(alone), alone[0]))
        queries = replace(queries, remarks=remarks)
    variant = variant_name(root, len(database.places), {"queries": len(names)})
    return DataSet(layout, variant, (DataSetPart("", database, (QuerySet("queries", queries, positives),)),))


def _rows_by_name(database: PlaceTable) -> dict[str, int]:
    """Return the row of each database photo by its name.

    Raises:
        ValueError: If two photos have one name, so that the partner of a query is not certain.
    """
    row_of: dict[str, int] = {}
    for row, place in enumerate(database.places):
        first = row_of.setdefault(_plain_name(place.path), row)
        if first != row:
            raise ValueError(
                f"{database.folder} has two photos of one name, {database.places[first].path} and {place.path}. Pairs have "
                "equal names: remove one of the two."
            )
    return row_of


def _plain_name(path: str) -> str:
    """Return a path without its suffix, in one Unicode form and in lower case."""
    return unicodedata.normalize("NFC", PurePosixPath(path).with_suffix("").as_posix()).casefold()


def _table(folder: Path, listing: PhotoListing) -> PlaceTable:
    places = [Place(photo.relative_to(folder).as_posix()) for photo in listing.photos]
    return PlaceTable(folder, places, "none", listing.skipped, remarks=listing.remarks)


AMSTERTIME = Layout(
    "amstertime",
    "AmsterTime, raw",
    "a folder with new/ and old/, whose photos have equal names",
    lambda root: root.is_dir() and bool(find_named(root, "new", "old")),
    _read_amstertime,
)
PAIRS = Layout(
    "pairs",
    "Pairs of photos",
    "the folder of SPED, ESSEX3IN1 or Cross-Season with ref/ and query/, whose photos have equal names",
    _is_pairs,
    _read_named_pairs,
)
