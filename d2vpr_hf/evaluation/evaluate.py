"""Evaluation of a model on photos, or of descriptors of any model."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.evaluation.encoder_info import EncoderInfo
from d2vpr_hf.evaluation.photo_selection import PhotoSelection, select_photos
from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule, Positives, photo_distances
from d2vpr_hf.evaluation.recall import RECALL_VALUES, check_recall_values, first_positive_ranks, mark_correct
from d2vpr_hf.evaluation.report import DROPPED, CoordinateKind, Evaluation, Predictions, QueryResult
from d2vpr_hf.hub.snapshots import find_dataset
from d2vpr_hf.index import SHARD_SIZE, PlaceIndex, check_free
from d2vpr_hf.pretrained.fitted_photos import warn_of_fitted_photos
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.readers.descriptor_files import read_placed_descriptors
from d2vpr_hf.readers.place_table import check_any_photo
from d2vpr_hf.readers.remarks import report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.retrieval.compatibility import index_settings
from d2vpr_hf.retrieval.shared_photos import find_shared_photos, warn_of_shared_photos
from d2vpr_hf.stores.exact import exact_search, similarity

logger = logging.getLogger(__name__)

SHUFFLE_SEED = 0
_REMEDY = "Give other queries, or `drop_shared=True` to leave them out."

_Encoded = tuple[PhotoSelection, NDArray[Any]]


def evaluate(
    database: str | Path | PlaceTable,
    queries: str | Path | PlaceTable,
    encoder: Encoder,
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    shuffle_check: bool = False,
    save_descriptors: str | Path | None = None,
    drop_shared: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Search the database with each query and compute recall.

    Photos that cannot be read, or lack a position that the rule needs, are skipped and listed in `Evaluation.skipped`. Queries
    that are database photos too (files of equal content) are counted, with a warning: a search finds them always.

    Args:
        database: A folder, a CSV file, or a table from [`read_places`].
        queries: The same for the queries.
        encoder: Encoder of the photos, a [`PlaceEncoder`] or another object with the attributes of [`Encoder`]. With a
            cross-image encoder, the descriptors depend on its batch size and on the order of the photos.
        rule: The rule of positives; `None` for the usual 25 m.
        recall_values: The N of recall@N.
        shuffle_check: Whether to encode database and queries a second time, each in a seeded random order, and to add the
            result as `Evaluation.shuffled`.
        save_descriptors: Folder for the indexes `database` and `queries`; `None` writes no indexes.
        drop_shared: Whether to drop such queries; database photos stay, because other queries may need them. They are in
            `Evaluation.skipped`, and not an error with `strict`.
        strict: Whether a skipped photo is an error.
        overwrite: Whether to replace indexes that `save_descriptors` has already.
        progress: Called with the number of photos that were just encoded.

    Raises:
        ValueError: If positions cannot be compared because they are missing or of different kinds, no photo could be read, all
            queries are dropped, or with `strict` if a photo was skipped.
    """
    rule, recall_values = rule or PositiveRule(), check_recall_values(recall_values)
    if save_descriptors is not None:
        for name in ("database", "queries"):
            check_free(Path(save_descriptors) / name, overwrite)
    tables = _read(database), _read(queries)
    for table in tables:
        check_any_photo(table)
    selections = list(select_photos(*tables, rule))
    for selection in selections:
        report_remarks((*selection.table.remarks, *selection.remarks), selection.name.capitalize())
    photos = [[selection.table.photo(place) for place in selection.places] for selection in selections]
    warn_of_fitted_photos(encoder.model_name, photos[0] + photos[1])
    shared = find_shared_photos(photos[0], photos[1])
    shared_paths = {selections[1].places[row].path: selections[0].places[match].path for row, match in shared.items()}
    if drop_shared:
        selections[1] = _without_rows(selections[1], shared)
    else:
        warn_of_shared_photos(list(shared_paths.items()), len(photos[1]), "photos of the database", "recall", _REMEDY)

    def run(seed: int | None) -> Evaluation:
        encoded = [_encode(selection, encoder, seed, strict, progress) for selection in selections]
        if save_descriptors is not None and seed is None:
            _save(encoded, encoder, Path(save_descriptors), overwrite)
        evaluation = _evaluate_encoded(encoded, rule, recall_values)
        if drop_shared:
            dropped = {path: f"{DROPPED} {match}" for path, match in shared_paths.items()}
            evaluation = replace(evaluation, skipped=evaluation.skipped | {"queries": evaluation.skipped["queries"] | dropped})
        return replace(
            evaluation,
            model=EncoderInfo.of(encoder),
            order_seed=seed,
            shared_photos=sum(query.path in shared_paths for query in evaluation.queries) + drop_shared * len(shared_paths),
        )

    evaluation = run(None)
    return replace(evaluation, shuffled=run(SHUFFLE_SEED)) if shuffle_check else evaluation


def evaluate_descriptor_files(
    database: tuple[str | Path, str | Path | PlaceTable],
    queries: tuple[str | Path, str | Path | PlaceTable],
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    tensor: str | None = None,
    normalize: bool = False,
    strict: bool = False,
) -> Evaluation:
    """Evaluate descriptors in files that another program wrote. The photos are not needed.

    Args:
        database: A file that [`d2vpr_hf.readers.descriptor_files.read_descriptors`] reads, and its places: a CSV file with a
            line for each row, or for files with photos' names a table or folder with these photos.
        queries: The same for the queries.
        rule: The rule of positives; `None` for the usual 25 m.
        recall_values: The N of recall@N.
        tensor: Name of the tensor in the files; `None` for the only one.
        normalize: Whether to divide each descriptor by its length. Without it, other lengths than 1 are an error.
        strict: Whether a place without a descriptor or position is an error.

    Raises:
        ValueError: If descriptors and places do not match, values are wrong, the widths of both sides differ, or positions
            cannot be compared.
    """
    rule, recall_values = rule or PositiveRule(), check_recall_values(recall_values)
    placed = [read_placed_descriptors(*side, tensor=tensor, normalize=normalize, strict=strict) for side in (database, queries)]
    widths = [rows.shape[1] for _, rows in placed]
    if widths[0] != widths[1]:
        raise ValueError(f"Descriptors of the database have {widths[0]} numbers, those of the queries {widths[1]}.")
    selections = select_photos(placed[0][0], placed[1][0], rule)
    encoded = []
    for selection, (table, rows) in zip(selections, placed, strict=True):
        report_remarks(selection.remarks, selection.name.capitalize())
        report_skipped(selection.skipped, table.count, strict, selection.name.capitalize())
        if len(selection.places) < len(table.places):
            row_of = {place.path: row for row, place in enumerate(table.places)}
            rows = rows[[row_of[place.path] for place in selection.places]]
        encoded.append((selection, rows))
    return _evaluate_encoded(encoded, rule, recall_values)


def evaluate_descriptors(
    database_descriptors: NDArray[np.floating],
    query_descriptors: NDArray[np.floating],
    database: PhotoSet,
    queries: PhotoSet,
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    positives: Positives | None = None,
) -> Evaluation:
    """Evaluate descriptors of any model.

    Args:
        database_descriptors: (N, D) L2-normalised, of any floating-point type, possibly memory-mapped; never copied whole.
        query_descriptors: (Q, D) L2-normalised.
        database: Information about the N database photos: at least positions (N, 2) in metres, unless `positives` are given.
        queries: The same for the Q queries.
        rule: The rule of positives; `None` for the usual 25 m.
        recall_values: The N of recall@N.
        positives: Database rows of each query's positives, for data sets with their own ground truth. The rule then only
            groups queries into places by their positions.

    Raises:
        ValueError: If database or queries are empty, lengths do not match, or positions, headings or frames that the rule needs
            are unknown.
    """
    rule, recall_values = rule or PositiveRule(), check_recall_values(recall_values)
    _check_descriptors(database_descriptors, database, "database")
    _check_descriptors(query_descriptors, queries, "query")
    positives = rule.find(database, queries) if positives is None else positives
    distances, rows = exact_search(query_descriptors, database_descriptors, max(recall_values))
    correct, num_positives = mark_correct(rows, positives)
    predictions = Predictions(rows, similarity(distances), correct, database, queries)
    return Evaluation(
        rule,
        recall_values,
        _query_results(predictions, num_positives, _places(rule, queries, len(rows))),
        _photo_set_info(database, len(database_descriptors)),
        _photo_set_info(queries, len(rows)),
        model=EncoderInfo(descriptor_dim=int(database_descriptors.shape[1])),
        coordinates=_coordinates(queries),
        predictions=predictions,
    )


def _read(photos: str | Path | PlaceTable) -> PlaceTable:
    return photos if isinstance(photos, PlaceTable) else read_places(photos)


def _encode(selection: PhotoSelection, encoder: Encoder, seed: int | None, strict: bool, progress: Progress | None) -> _Encoded:
    """Encode the selected photos, in a random order if a seed is given; photos that cannot be read leave the selection."""
    files = [selection.table.photo(place) for place in selection.places]
    order = None
    if seed is not None:  # the order depends on the name, because database and queries may correspond photo by photo
        order = np.random.default_rng([seed, *selection.name.encode()]).permutation(len(files)).tolist()
    encoded = encoder.encode(files, progress, order=order)
    remarks = encoded.remarks([place.path for place in selection.places])
    skipped = selection.skipped | {selection.places[row].path: reason for row, reason in encoded.skipped.items()}
    if seed is None:
        report_remarks(remarks, selection.name.capitalize())
        report_skipped(skipped, len(selection.table.places) + len(selection.table.skipped), strict, selection.name.capitalize())
    if not len(encoded.rows):
        raise ValueError(f"None of the {len(files)} photos in {selection.table.folder} could be read.")
    kept = selection.keep_rows(encoded.rows, skipped)
    return replace(kept, remarks=(*kept.remarks, *remarks)), encoded.descriptors


def _without_rows(queries: PhotoSelection, dropped: Collection[int]) -> PhotoSelection:
    """Return the selection without some rows."""
    rows = np.array([row for row in range(len(queries.places)) if row not in dropped], np.int64)
    if not len(rows):
        raise ValueError(
            f"All {len(queries.places)} queries in {queries.table.folder} are photos of the database too, and "
            "`drop_shared=True` drops them. Give other queries."
        )
    logger.warning("%d of %d queries are dropped: they are photos of the database too.", len(dropped), len(queries.places))
    return queries.keep_rows(rows, queries.skipped)


def _save(encoded: list[_Encoded], encoder: Encoder, out: Path, overwrite: bool) -> None:
    for selection, descriptors in encoded:
        settings = replace(index_settings(encoder), photo_folder=selection.table.folder.resolve())
        with PlaceIndex.create(out / selection.name, settings, overwrite=overwrite) as index:
            for start in range(0, len(descriptors), SHARD_SIZE):  # a copy of all descriptors may not fit
                index.add(descriptors[start : start + SHARD_SIZE], selection.places[start : start + SHARD_SIZE])


def _evaluate_encoded(encoded: list[_Encoded], rule: PositiveRule, recall_values: tuple[int, ...]) -> Evaluation:
    """Evaluate the encoded database and queries, and add folders and skipped photos to the evaluation."""
    (database, database_descriptors), (queries, query_descriptors) = encoded
    evaluation = evaluate_descriptors(
        database_descriptors, query_descriptors, database.photos, queries.photos, rule, recall_values=recall_values
    )
    return replace(
        evaluation,
        database=evaluation.database | _origin(database.table.folder),
        query_set=evaluation.query_set | _origin(queries.table.folder),
        skipped={selection.name: selection.skipped for selection in (database, queries)},
        remarks={
            selection.name: [remark.to_dict() for remark in (*selection.table.remarks, *selection.remarks)]
            for selection in (database, queries)
        },
    )


def _origin(folder: Path) -> dict[str, str]:
    """Return the path of a folder, and its data set on the Hub if it is in the Hub's cache."""
    return {"path": str(folder)} | find_dataset(folder)


def _check_descriptors(descriptors: NDArray[Any], photos: PhotoSet, name: str) -> None:
    if not len(descriptors):
        raise ValueError(f"Expected at least one {name} descriptor, got none.")
    photos.check_length(len(descriptors), name)


def _places(rule: PositiveRule, queries: PhotoSet, count: int) -> NDArray[np.int64]:
    """Return the number of each query's place (Q,); without positions or frames, every query is a place."""
    points = queries.positions if rule.frame_tolerance is None else queries.frames
    return np.arange(count) if points is None else rule.group(queries)


def _coordinates(queries: PhotoSet) -> CoordinateKind:
    if queries.in_degrees:
        return "degrees"
    return "metres" if queries.positions is None or queries.regions is None else "metres of several frames"


def _photo_set_info(photos: PhotoSet, count: int) -> dict[str, Any]:
    return {"path": None, "count": count, "checksum": photos.checksum(count)}


def _query_results(predictions: Predictions, num_positives: NDArray[np.int64], places: NDArray[np.int64]) -> list[QueryResult]:
    queries, database = predictions.queries, predictions.database
    ranks = first_positive_ranks(predictions.correct)
    distances = photo_distances(queries, np.arange(len(predictions.rows)), database, predictions.rows[:, 0])
    return [
        QueryResult(
            path=queries.path(query),
            place=int(places[query]),
            condition=None if queries.conditions is None else queries.conditions[query],
            position=_position(queries, query),
            num_positives=int(num_positives[query]),
            first_positive_rank=int(ranks[query]) or None,
            top_match=database.path(top),
            top_match_position=_position(database, top),
            similarity=float(predictions.similarities[query, 0]),
            distance=None if distances is None or np.isinf(distances[query]) else float(distances[query]),
            correct=bool(predictions.correct[query, 0]),
        )
        for query, top in enumerate(predictions.rows[:, 0].tolist())
    ]


def _position(photos: PhotoSet, row: int) -> list[float] | None:
    """Return the known coordinates of a photo; `None` without positions."""
    return None if photos.positions is None else [float(value) for value in photos.positions[row] if not np.isnan(value)]
