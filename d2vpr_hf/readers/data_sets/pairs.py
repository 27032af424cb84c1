"""Data sets of photo pairs: a query belongs to the database photo of its name.

SPED, ESSEX3IN1 and Cross-Season in VPR-Bench (https://github.com/MubarizZaffar/VPR-Bench), here without their ground truth.
AmsterTime in its distributed form, historical photos `old` and street view photos `new` of equal names:
https://github.com/seyrankhademi/AmsterTime, https://arxiv.org/abs/2203.16291.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.folders import find_sides
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.variants import find_family, variant_name
from d2vpr_hf.readers.photo_listing import PhotoListing, list_photos
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions

_FAMILIES = ("sped", "essex3in1", "cross-season")


def _find_pair(root: Path) -> tuple[Path, Path] | None:
    """Return the folders `new` and `old` in a folder, or in the only folder in it."""
    children = [path for path in sorted(root.iterdir()) if path.is_dir()]
    for folder in (root, *(children if len(children) == 1 else ())):
        folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
        if "new" in folders and "old" in folders:
            return folders["new"], folders["old"]
    return None


def _read_amstertime(root: Path, options: ReadOptions) -> DataSet:
    folders = _find_pair(root)
    assert folders is not None
    return _read_pairs(root, "amstertime", *folders)


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
    row_of = {Path(place.path).stem: row for row, place in enumerate(database.places)}
    stems = [Path(place.path).stem for place in queries.places]
    if not any(stem in row_of for stem in stems):
        raise ValueError(
            f"No photo in {query_folder} has the name of one in {database_folder}, such as {stems[0]}. Pairs have equal names."
        )
    positives = tuple(np.array([row_of[stem]] if stem in row_of else [], np.int64) for stem in stems)
    variant = variant_name(root, len(database.places), {"queries": len(stems)})
    return DataSet(layout, variant, (DataSetPart("", database, (QuerySet("queries", queries, positives),)),))


def _table(folder: Path, listing: PhotoListing) -> PlaceTable:
    places = [Place(photo.relative_to(folder).as_posix()) for photo in listing.photos]
    return PlaceTable(folder, places, "none", listing.skipped, remarks=listing.remarks)


AMSTERTIME = Layout(
    "amstertime",
    "AmsterTime, raw",
    "a folder with new/ and old/, whose photos have equal names",
    lambda root: root.is_dir() and _find_pair(root) is not None,
    _read_amstertime,
)
PAIRS = Layout(
    "pairs",
    "Pairs of photos",
    "the folder of SPED, ESSEX3IN1 or Cross-Season with ref/ and query/, whose photos have equal names",
    _is_pairs,
    _read_named_pairs,
)
