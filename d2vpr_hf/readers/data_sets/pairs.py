"""Data sets of photo pairs: the n-th query belongs to the n-th database photo.

AmsterTime in its distributed form, historical photos `old` and street view photos `new` of equal names:
https://github.com/seyrankhademi/AmsterTime, https://arxiv.org/abs/2203.16291.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from d2vpr_hf.places.place import Place
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.variants import variant_name
from d2vpr_hf.readers.photo_listing import PhotoListing, list_photos
from d2vpr_hf.readers.place_table import PlaceTable
from d2vpr_hf.readers.read_options import ReadOptions


def _find_pair(root: Path) -> tuple[Path, Path] | None:
    """Return the folders `new` and `old` in a folder or in one of its subfolders."""
    for folder in (root, *(path for path in sorted(root.iterdir()) if path.is_dir())):
        folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
        if "new" in folders and "old" in folders:
            return folders["new"], folders["old"]
    return None


def _read(root: Path, options: ReadOptions) -> DataSet:
    folders = _find_pair(root)
    assert folders is not None
    database, queries = (_table(folder, list_photos(folder)) for folder in folders)
    row_of = {Path(place.path).stem: row for row, place in enumerate(database.places)}
    stems = [Path(place.path).stem for place in queries.places]
    missing = [stem for stem in stems if stem not in row_of]
    if len(missing) == len(stems):
        raise ValueError(
            f"No photo in {folders[1]} has the name of one in {folders[0]}, such as {stems[0]}. Pairs have equal names."
        )
    positives = tuple(np.array([row_of[stem]] if stem in row_of else [], np.int64) for stem in stems)
    variant = variant_name(root, len(database.places), {"queries": len(stems)})
    return DataSet("amstertime", variant, (DataSetPart("", database, (QuerySet("queries", queries, positives),)),))


def _table(folder: Path, listing: PhotoListing) -> PlaceTable:
    places = [Place(photo.relative_to(folder).as_posix()) for photo in listing.photos]
    return PlaceTable(folder, places, "none", listing.skipped, remarks=listing.remarks)


AMSTERTIME = Layout(
    "amstertime",
    "AmsterTime, raw",
    "a folder with new/ and old/, whose photos have equal names",
    lambda root: root.is_dir() and _find_pair(root) is not None,
    _read,
)
