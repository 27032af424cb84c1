"""Evaluate a model on photos, or descriptors that somebody has already."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import Progress
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation.encoder_info import EncoderInfo
from d2vpr_hf.evaluation.photo_selection import Side, keep_rows, prepare_sides
from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule, Positives
from d2vpr_hf.evaluation.recall import RECALL_VALUES, check_recall_values, first_positive_ranks, judge
from d2vpr_hf.evaluation.report import Evaluation, Predictions, QueryResult
from d2vpr_hf.index import SHARD_SIZE, PlaceIndex, check_free
from d2vpr_hf.pretrained.fitted_photos import warn_of_fitted_photos
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.retrieval.compatibility import index_settings
from d2vpr_hf.stores.exact import exact_search, similarity

SHUFFLE_SEED = 0

_Encoded = tuple[Side, NDArray[np.float32]]


def evaluate(
    database: str | Path | PlaceTable,
    queries: str | Path | PlaceTable,
    encoder: PlaceEncoder,
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    shuffle_check: bool = False,
    save_descriptors: str | Path | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Search the database with each query and count how often it is found.

    Photos that can't be read, or whose position the rule needs and nobody knows, are left out, named and counted.

    Args:
        database: A folder, a CSV file, or what [`read_places`] made of one.
        queries: The same.
        encoder: Gives the descriptors. With a cross-image encoder they depend on its batch size and on the order of photos.
        rule: What makes a match right; `None` for the field's 25 m.
        recall_values: The N of recall@N.
        shuffle_check: Whether to encode both sides once more, each in a seeded random order, and evaluate again: `shuffled`.
        save_descriptors: A folder that gets both sides as an index, `database` and `queries`.
        strict: Whether a photo that is left out is an error.
        overwrite: Whether to replace indexes that are in `save_descriptors` already.
        progress: Called with the number of photos just finished.

    Raises:
        ValueError: If positions can't be compared (none, or two UTM zones), nothing could be read, or with `strict` if a
            photo was left out.
    """
    rule, recall_values = rule or PositiveRule(), check_recall_values(recall_values)
    _check_folders(save_descriptors, overwrite)
    sides = prepare_sides(_read(database), _read(queries), rule)
    warn_of_fitted_photos(encoder.model_name, [side.table.photo(place) for side in sides for place in side.places])

    def run(seed: int | None) -> Evaluation:
        encoded = [_encode(side, encoder, seed, strict, progress) for side in sides]
        if save_descriptors is not None and seed is None:
            _save(encoded, encoder, Path(save_descriptors), overwrite)
        return _evaluate_encoded(encoded, rule, recall_values, model=EncoderInfo.of(encoder), order_seed=seed)

    first = run(None)
    return replace(first, shuffled=run(SHUFFLE_SEED)) if shuffle_check else first


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
        database_descriptors: (N, D) of unit length, any floating-point type, possibly memory-mapped; never copied whole.
        query_descriptors: (Q, D).
        database: What is known of the N photos: positions (N, 2) in metres at least, unless `positives` are given.
        queries: The same of the Q photos.
        rule: What makes a match right; `None` for the field's 25 m.
        recall_values: The N of recall@N.
        positives: The right rows of each query, for data sets that come with their own; the rule then only groups queries into
            places, by their positions.

    Raises:
        ValueError: If a side is empty, numbers do not fit each other, or the rule needs what is not known.
    """
    rule, recall_values = rule or PositiveRule(), check_recall_values(recall_values)
    _check_sides(database_descriptors, query_descriptors, database, queries)
    positives = rule.find(database, queries) if positives is None else positives
    distances, rows = exact_search(query_descriptors, database_descriptors, max(recall_values))
    right, num_positives = judge(rows, positives)
    predictions = Predictions(rows, similarity(distances), right, database, queries)
    return Evaluation(
        rule,
        recall_values,
        _query_results(predictions, num_positives, _places(rule, queries, len(rows))),
        _describe(database, len(database_descriptors)),
        _describe(queries, len(rows)),
        model=EncoderInfo(descriptor_dim=int(database_descriptors.shape[1])),
        predictions=predictions,
    )


def _read(photos: str | Path | PlaceTable) -> PlaceTable:
    return photos if isinstance(photos, PlaceTable) else read_places(photos)


def _check_folders(save_descriptors: str | Path | None, overwrite: bool) -> None:
    if save_descriptors is not None:
        for name in ("database", "queries"):
            check_free(Path(save_descriptors) / name, overwrite)


def _encode(side: Side, encoder: PlaceEncoder, seed: int | None, strict: bool, progress: Progress | None) -> _Encoded:
    """Encode a side, and leave out what could not be read."""
    files = [side.table.photo(place) for place in side.places]
    order = None if seed is None else _shuffle(side, seed)
    encoded = encoder.encode(files, progress, order=order)
    skipped = side.skipped | {side.places[row].path: reason for row, reason in encoded.skipped.items()}
    if seed is None:
        report_skipped(skipped, len(side.table.places) + len(side.table.skipped), strict)
    if not len(encoded.rows):
        raise ValueError(f"None of the {len(files)} photos in {side.table.folder} could be read.")
    return keep_rows(side, encoded.rows, skipped), encoded.descriptors


def _shuffle(side: Side, seed: int) -> list[int]:
    """Draw an order for a side, another one for each: sides that correspond photo by photo must not stay in step."""
    return np.random.default_rng([seed, *side.name.encode()]).permutation(len(side.places)).tolist()


def _save(encoded: list[_Encoded], encoder: PlaceEncoder, out: Path, overwrite: bool) -> None:
    for side, descriptors in encoded:
        settings = replace(index_settings(encoder), photo_folder=side.table.folder.resolve())
        with PlaceIndex.create(out / side.name, settings, overwrite=overwrite) as index:
            for start in range(0, len(descriptors), SHARD_SIZE):  # a second copy of a large map may not fit
                index.add(descriptors[start : start + SHARD_SIZE], side.places[start : start + SHARD_SIZE])


def _evaluate_encoded(encoded: list[_Encoded], rule: PositiveRule, recall_values: tuple[int, ...], **setup: Any) -> Evaluation:
    """Evaluate what was encoded, and add to the outcome what only files and models have."""
    (database, database_descriptors), (queries, query_descriptors) = encoded
    descriptors = database_descriptors, query_descriptors
    found = evaluate_descriptors(*descriptors, database.photos, queries.photos, rule, recall_values=recall_values)
    return replace(
        found,
        database=found.database | {"path": str(database.table.folder)},
        query_set=found.query_set | {"path": str(queries.table.folder)},
        skipped={side.name: side.skipped for side in (database, queries)},
        **setup,
    )


def _check_sides(
    database_descriptors: NDArray[Any], query_descriptors: NDArray[Any], database: PhotoSet, queries: PhotoSet
) -> None:
    for name, descriptors, photos in (("database", database_descriptors, database), ("query", query_descriptors, queries)):
        if not len(descriptors):
            raise ValueError(f"There are no {name} descriptors; expected at least one.")
        photos.check_length(len(descriptors), name)


def _places(rule: PositiveRule, queries: PhotoSet, count: int) -> NDArray[np.int64]:
    """Group queries into places; each is one of its own where nothing says where they are."""
    known = queries.positions if rule.frame_tolerance is None else queries.frames
    return np.arange(count) if known is None else rule.group(queries)


def _describe(photos: PhotoSet, count: int) -> dict[str, Any]:
    return {"path": None, "count": count, "checksum": photos.checksum(count)}


def _query_results(predictions: Predictions, num_positives: NDArray[np.int64], places: NDArray[np.int64]) -> list[QueryResult]:
    ranks, queries, database = first_positive_ranks(predictions.right), predictions.queries, predictions.database
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
            distance=_distance(_position(queries, query), _position(database, top)),
            right=bool(predictions.right[query, 0]),
        )
        for query, top in enumerate(predictions.rows[:, 0].tolist())
    ]


def _position(photos: PhotoSet, row: int) -> list[float] | None:
    return None if photos.positions is None else [float(metres) for metres in photos.positions[row]]


def _distance(first: list[float] | None, second: list[float] | None) -> float | None:
    return None if first is None or second is None else float(np.linalg.norm(np.subtract(first, second)))
