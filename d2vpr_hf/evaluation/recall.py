"""The definition of recall@N, and its uncertainty."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.positives import Positives

RECALL_VALUES = (1, 5, 10, 20)
NUM_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percentiles


def mark_correct(predictions: NDArray[np.integer], positives: Positives) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Compare predictions with positives.

    Args:
        predictions: (Q, k) database rows, the nearest first; -1 for a missing prediction.
        positives: Database rows of each query's positives.

    Returns:
        Whether each prediction is correct (Q, k), and the number of positives of each query (Q,).

    Raises:
        ValueError: If the numbers of queries differ.
    """
    if len(predictions) != len(positives):
        raise ValueError(f"Expected positives of {len(predictions)} queries, got those of {len(positives)}.")
    correct = np.zeros(predictions.shape, bool)
    counts = np.zeros(len(predictions), np.int64)
    for query in range(len(predictions)):
        rows = positives[query]
        correct[query] = np.isin(predictions[query], rows) & (predictions[query] >= 0)
        counts[query] = len(rows)
    return correct, counts


def first_positive_ranks(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank of each query's first correct prediction: (Q, k) -> (Q,), 1 for the nearest, 0 for none."""
    if correct.shape[1] == 0:
        return np.zeros(len(correct), np.int64)
    return np.where(correct.any(axis=1), correct.argmax(axis=1) + 1, 0).astype(np.int64)


def hits_at(ranks: NDArray[np.int64], recall_values: Sequence[int]) -> NDArray[np.bool_]:
    """Return whether each query has a positive among its first N predictions, for each N: (Q,) -> (Q, len(recall_values))."""
    return (ranks[:, None] > 0) & (ranks[:, None] <= np.asarray(recall_values)[None])


def recall_at(ranks: NDArray[np.int64], recall_values: Sequence[int] = RECALL_VALUES) -> NDArray[np.float64]:
    """Compute recall@N, the share of queries with a positive among their first N predictions.

    This is the package's only definition of recall, and the usual definition of the field:

    - The denominator is the number of all queries. A query without a positive in the database is a miss; reports also have the
      number of these queries, and `recall_with_positives` over all other queries.
    - One positive among the N is enough; further positives change nothing.
    - Each N is computed independently, so the N may be in any order.
    - A prediction of -1, which searches return if the database has fewer than N photos, is never correct. An N beyond the size
      of the database means the whole database.
    - Predictions of equal similarity are ranked in the order of the database's rows, which for folders is the order of paths.

    Args:
        ranks: (Q,) rank of each query's first positive, 0 for none, from [`first_positive_ranks`].
        recall_values: The N, each at least 1.

    Returns:
        (len(recall_values),) recalls in [0, 1], in the order of `recall_values`; NaN without queries.
    """
    if len(ranks) == 0:
        return np.full(len(recall_values), np.nan)
    return hits_at(ranks, recall_values).mean(axis=0)


def recall_with_positives(
    ranks: NDArray[np.int64], num_positives: NDArray[np.int64], recall_values: Sequence[int] = RECALL_VALUES
) -> NDArray[np.float64]:
    """Compute recall@N as [`recall_at`] does, but over the queries with a positive only; NaN if no query has one."""
    return recall_at(ranks[num_positives > 0], recall_values)


def bootstrap_interval(
    values: NDArray[np.integer | np.bool_],
    places: NDArray[np.int64],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64] | None:
    """Estimate the 95 % interval of a mean over queries, by bootstrapping places.

    Each resample draws as many places as the data have, with replacement, and takes all queries of a drawn place: the queries
    of a place often succeed or fail together, so resampling single queries would make the interval too narrow.

    Args:
        values: (Q, M) integers or booleans, such as hits or differences of hits.
        places: (Q,) number of each query's place.
        num_resamples: Number of resamples.
        seed: Seed of the resamples; the same seed gives the same interval.

    Returns:
        (2, M) 2.5th and 97.5th percentile of each column's mean; `None` with fewer than two places.
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
    """Return the N as a tuple without duplicates, in their order; raise ValueError if it is empty or an N is below 1."""
    if not recall_values or min(recall_values) < 1:
        raise ValueError(f"Recall is defined for N of at least 1, got {', '.join(map(str, recall_values)) or 'none'}.")
    return tuple(dict.fromkeys(int(value) for value in recall_values))
