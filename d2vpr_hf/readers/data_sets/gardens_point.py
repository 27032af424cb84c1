"""Gardens Point in its distributed form: three walks along one path, `day_left`, `day_right` and `night_right`.

The photos of equal numbers show the same place: https://doi.org/10.5281/zenodo.4590133. VPR_Tutorial and AnyLoc search
`night_right` in `day_right`; AnyLoc adds a file of positives for these two walks. Without such a file, the photo of the query's
number is its positive; `frame_tolerance` chooses a wider rule.
Sources: https://github.com/stschubert/VPR_Tutorial, https://github.com/AnyLoc/AnyLoc.
"""

from __future__ import annotations

from pathlib import Path

from d2vpr_hf.readers.data_sets.array_sets import find_truth_file, photos_by_number, positives_by_number
from d2vpr_hf.readers.data_sets.data_set import DataSet, DataSetPart, QuerySet
from d2vpr_hf.readers.data_sets.folders import find_named
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.variants import variant_name
from d2vpr_hf.readers.read_options import ReadOptions
from d2vpr_hf.readers.remarks import Remark

_DATABASE, _QUERIES = "day_right", "night_right"
_MORE_QUERIES = "day_left"
WITHOUT_TRUTH = "walks that the file of positives does not belong to"


def _read(root: Path, options: ReadOptions) -> DataSet:
    folders = find_named(root, _DATABASE, _QUERIES)
    walks = {name: folders[name] for name in (_QUERIES, _MORE_QUERIES) if name in folders}
    folder = folders[_DATABASE].parent
    truth = find_truth_file(folder)
    database = photos_by_number(folders[_DATABASE])
    remarks: tuple[Remark, ...] = ()
    if truth is None:
        query_sets = [QuerySet(name, photos_by_number(path)) for name, path in walks.items()]
    else:
        queries = photos_by_number(walks[_QUERIES])
        positives = positives_by_number(truth, len(queries.places), len(database.places))
        query_sets = [QuerySet(_QUERIES, queries, positives)]
        if _MORE_QUERIES in walks:
            remarks = (Remark("skipped", WITHOUT_TRUTH, 1, str(walks[_MORE_QUERIES])),)
    counts = {queries.name: len(queries.table.places) for queries in query_sets}
    rule = "" if truth else "photos of equal numbers"
    return DataSet(
        "gardens-point",
        variant_name(folder, len(database.places), counts, rule, "gardens-point"),
        (DataSetPart("", database, tuple(query_sets)),),
        frame_tolerance=None if truth else 0,
        remarks=remarks,
    )


GARDENS_POINT = Layout(
    "gardens-point",
    "Gardens Point, raw",
    "a folder with day_right/ and night_right/, and possibly day_left/, whose photos have equal numbers",
    lambda root: root.is_dir() and bool(find_named(root, _DATABASE, _QUERIES)),
    _read,
)
