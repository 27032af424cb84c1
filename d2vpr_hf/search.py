"""Exact nearest-neighbour search: the one implementation that search, evaluation and index share."""

from collections.abc import Iterator

import faiss
import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.descriptors import Descriptors, take_rows

DATABASE_CHUNK = 65_536  # rows compared at once: bounds the memory that a half-precision or mapped database takes


def exact_search(
    queries: NDArray[np.floating], database: Descriptors, k: int, *, allowed: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest database descriptors of each query by L2 distance.

    Of unit-length descriptors the order is that of cosine similarity; see [`similarity`].

    Args:
        queries: (Q, D), any floating-point type.
        database: (N, D), any floating-point type, an array or [`d2vpr_hf.descriptors.MappedDescriptors`]; it is read chunk by
            chunk.
        k: Neighbours wanted; with fewer rows to choose from all are returned.
        allowed: (N,) bool, which rows of the database may be found; `None` for all. The others are not even read.

    Returns:
        Squared distances (Q, min(k, rows to choose from)) in ascending order and the row numbers beside them; equal
        distances in the order of the rows.

    Raises:
        ValueError: If shapes do not fit, k is below 1, or a descriptor is not finite.
    """
    _check(queries, database, k)
    chosen = None if allowed is None else _chosen_rows(allowed, len(database))
    k = min(k, len(database if chosen is None else chosen))
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    heap = faiss.ResultHeap(len(queries), k)
    for start, chunk in _chunks(database, chosen):
        distances, rows = faiss.knn(queries, chunk, min(k, len(chunk)))
        heap.add_result(distances, rows + start)
    heap.finalize()
    if (heap.I < 0).any():
        raise ValueError("A database descriptor is not finite; nearest neighbours are not defined.")
    found = heap.I.astype(np.int64, copy=False)
    return heap.D.astype(np.float32, copy=False), found if chosen is None else chosen[found]


def similarity(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn squared L2 distances of unit-length descriptors into their cosine similarity: 1 - d² / 2."""
    return np.float32(1) - distances / np.float32(2)


def _chosen_rows(allowed: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Number the rows that may be found; chosen in ascending order, so that ties keep the order of the rows."""
    if allowed.dtype != np.bool_ or allowed.shape != (count,):
        raise ValueError(f"Expected `allowed` as booleans ({count},), one a database row, got {allowed.dtype} {allowed.shape}.")
    return np.flatnonzero(allowed)


def _chunks(database: Descriptors, chosen: NDArray[np.int64] | None) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Read the rows to compare with, some at once; yield the number of the first among them as well."""
    for start in range(0, len(database if chosen is None else chosen), DATABASE_CHUNK):
        part = slice(start, start + DATABASE_CHUNK)
        rows = database[part] if chosen is None else take_rows(database, chosen[part])
        yield start, np.ascontiguousarray(rows, dtype=np.float32)


def _check(queries: NDArray[np.floating], database: Descriptors, k: int) -> None:
    if queries.ndim != 2 or len(database.shape) != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"Expected queries (Q, D) and a database (N, D) of one descriptor width, got {queries.shape} and {database.shape}."
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if not np.isfinite(queries).all():
        raise ValueError("A query descriptor is not finite; its nearest neighbours are not defined.")


__all__ = ["DATABASE_CHUNK", "exact_search", "similarity"]
