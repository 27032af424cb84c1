"""Recall@N, its uncertainty, and what it is counted over."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.positives import Positives

RECALL_VALUES = (1, 5, 10, 20)
NUM_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percentiles


def judge(predictions: NDArray[np.integer], positives: Positives) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Tell which predictions are right.

    Args:
        predictions: (Q, k) database rows, the nearest first; -1 where there is none.
        positives: The right rows of each query.

    Returns:
        Whether each prediction is right (Q, k), and the number of positives of each query (Q,).

    Raises:
        ValueError: If there are not as many queries in both.
    """
    if len(predictions) != len(positives):
        raise ValueError(f"Expected positives of {len(predictions)} queries, got those of {len(positives)}.")
    right = np.zeros(predictions.shape, bool)
    counts = np.zeros(len(predictions), np.int64)
    for query in range(len(predictions)):
        rows = positives[query]
        right[query] = np.isin(predictions[query], rows) & (predictions[query] >= 0)
        counts[query] = len(rows)
    return right, counts


def first_positive_ranks(right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank of each query's first right prediction: (Q, k) -> (Q,), 1 for the nearest, 0 where none is right."""
    if right.shape[1] == 0:
        return np.zeros(len(right), np.int64)
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0).astype(np.int64)


def hits_at(ranks: NDArray[np.int64], recall_values: Sequence[int]) -> NDArray[np.bool_]:
    """Tell whether each query is found within the first N, for each N: (Q,) -> (Q, len(recall_values))."""
    return (ranks[:, None] > 0) & (ranks[:, None] <= np.asarray(recall_values)[None])


def recall_at(ranks: NDArray[np.int64], recall_values: Sequence[int] = RECALL_VALUES) -> NDArray[np.float64]:
    """Compute recall@N, the share of queries with a positive among their first N predictions.

    This is the package's one definition, and the field's:

    - The denominator is all queries. One that has no positive in the database can't be found and is a miss; reports say how
      many there are, and give `recall_with_positives`, over the others only, beside it.
    - One positive is enough; a second one among the N adds nothing.
    - Each N counts by itself: the N may come in any order.
    - A prediction of -1, which searches return where the database has fewer than N photos, is never right. N beyond the size of
      the database is the whole database.
    - Equal similarities rank in the order of the database's rows, which for folders is the order of paths.

    Args:
        ranks: (Q,) rank of each query's first positive, 0 for none, as [`first_positive_ranks`] gives it.
        recall_values: The N, each at least 1.

    Returns:
        One recall a value, in their order, each in [0, 1]; NaN of no queries.
    """
    if len(ranks) == 0:
        return np.full(len(recall_values), np.nan)
    return hits_at(ranks, recall_values).mean(axis=0)


def recall_with_positives(
    ranks: NDArray[np.int64], num_positives: NDArray[np.int64], recall_values: Sequence[int] = RECALL_VALUES
) -> NDArray[np.float64]:
    """Compute recall@N over the queries that have a positive; NaN if none has one. See [`recall_at`] for the rest."""
    return recall_at(ranks[num_positives > 0], recall_values)


def bootstrap_interval(
    values: NDArray[np.integer | np.bool_],
    places: NDArray[np.int64],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64] | None:
    """Estimate how far the mean of values could lie from where it is, had other places been visited.

    Places are drawn with replacement, as many as there are, each with all its queries: photos of one place succeed and fail
    together, so that drawing photos would promise too much.

    Args:
        values: (Q, M) whole numbers or truths, such as hits, or differences of hits.
        places: (Q,) number of each query's place.
        num_resamples: How often the places are drawn.
        seed: Of the draws; the same seed gives the same interval.

    Returns:
        The 95 % interval of each column's mean, (2, M): 2.5th and 97.5th percentile. `None` with fewer than two places.
    """
    names, groups = np.unique(places, return_inverse=True)
    if len(names) < 2:
        return None
    sums = np.zeros((len(names), values.shape[1] + 1), np.int64)  # the last column counts the queries
    np.add.at(sums, groups.reshape(-1), np.column_stack([values, np.ones(len(values), np.int64)]).astype(np.int64))
    rng = np.random.default_rng(seed)
    totals = np.array([sums[rng.integers(len(names), size=len(names))].sum(axis=0) for _ in range(num_resamples)])
    return np.percentile(totals[:, :-1] / totals[:, -1:], _INTERVAL, axis=0)


def check_recall_values(recall_values: Sequence[int]) -> tuple[int, ...]:
    """Return the N as a tuple, in their order, each once; raise ValueError if there are none or one is below 1."""
    if not recall_values or min(recall_values) < 1:
        raise ValueError(f"Recall is defined for N of at least 1, got {', '.join(map(str, recall_values)) or 'none'}.")
    return tuple(dict.fromkeys(int(value) for value in recall_values))
