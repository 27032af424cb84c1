"""Evaluation of descriptors of any model: search, comparison with positives, and one result for each query."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.encoder_info import EncoderInfo
from d2vpr_hf.evaluation.positives import PhotoSet, PositiveRule, Positives, photo_distances
from d2vpr_hf.evaluation.recall import RECALL_VALUES, check_recall_values, first_positive_ranks, mark_correct
from d2vpr_hf.evaluation.report import CoordinateKind, Evaluation, Predictions, QueryResult
from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import exact_search, similarity
from d2vpr_hf.stores.views import search_views

Matches = tuple[NDArray[np.float32], NDArray[np.int64]]


def evaluate_descriptors(
    database_descriptors: Descriptors,
    query_descriptors: NDArray[np.floating],
    database: PhotoSet,
    queries: PhotoSet,
    rule: PositiveRule | None = None,
    *,
    recall_values: Sequence[int] = RECALL_VALUES,
    positives: Positives | None = None,
    matches: Matches | None = None,
) -> Evaluation:
    """Evaluate descriptors of any model.

    Args:
        database_descriptors: (N, D) L2-normalised, of any floating-point type, possibly memory-mapped; never copied whole.
        query_descriptors: (Q, D) L2-normalised; or (Q, V, D), V descriptors of each query, of which the nearest counts.
        database: Information about the N database photos: at least positions (N, 2) in metres, unless `positives` are given.
        queries: The same for the Q queries.
        rule: The rule of positives; `None` for the usual 25 m.
        recall_values: The N of recall@N.
        positives: Database rows of each query's positives, for data sets with their own ground truth. The rule then only
            groups queries into places by their positions.
        matches: Result of [`nearest_rows`] for the largest of `recall_values`, if it is known; `None` to search.

    Raises:
        ValueError: If database or queries are empty, lengths do not match, or positions, headings or frames that the rule needs
            are unknown.
    """
    rule, recall_values = rule or PositiveRule(), check_recall_values(recall_values)
    _check_descriptors(database_descriptors, database, "database")
    _check_descriptors(query_descriptors, queries, "query")
    positives = rule.find(database, queries) if positives is None else positives
    if matches is None:
        matches = nearest_rows(database_descriptors, query_descriptors, max(recall_values))
    distances, rows = matches
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


def nearest_rows(database: Descriptors, queries: NDArray[np.floating], k: int) -> Matches:
    """Return squared distances (Q, k) and rows (Q, k) of the nearest of N descriptors to queries (Q, D) or (Q, V, D)."""
    return search_views(lambda descriptors, count: exact_search(descriptors, database, count), queries, k)


def _check_descriptors(descriptors: Descriptors, photos: PhotoSet, name: str) -> None:
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
