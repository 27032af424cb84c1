"""Searches with several descriptors of a query, such as of crops: the smallest distance over them counts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Search = Callable[[NDArray[np.floating], int], tuple[NDArray[np.float32], NDArray[np.int64]]]


def search_views(search: Search, queries: NDArray[np.floating], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest rows of each query.

    The k rows of the smallest distances over a query's descriptors are all among the k nearest rows of one of these, so that
    k rows of each are enough; `nearest_crop` of deep-visual-geo-localization-benchmark merges them in the same way.

    Args:
        search: Returns squared distances and row numbers (N, k) of the k nearest rows of descriptors (N, D), or fewer.
        queries: (Q, D), or (Q, V, D) for queries with V descriptors each.
        k: Number of rows.

    Returns:
        Squared distances (Q, k) in ascending order, and their row numbers; equal distances come in the order of the rows.
    """
    if queries.ndim != 3:
        return search(queries, k)
    count, num_views, width = queries.shape
    distances, rows = search(queries.reshape(-1, width), k)
    k = rows.shape[1]
    # (Q * V, k) -> (Q, V * k)
    distances, rows = distances.reshape(count, num_views * k), rows.reshape(count, num_views * k)
    order = np.lexsort((distances, rows))  # by row, the smallest distance of each row first
    distances, rows = np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
    is_repeated = np.zeros(rows.shape, bool)
    is_repeated[:, 1:] = rows[:, 1:] == rows[:, :-1]
    nearest = np.argsort(np.where(is_repeated, np.inf, distances), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, nearest, 1), np.take_along_axis(rows, nearest, 1)
