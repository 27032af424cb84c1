"""Exact nearest-neighbour search: the one implementation that search, evaluation and index share."""

import faiss
import numpy as np
from numpy.typing import NDArray

DATABASE_CHUNK = 65_536  # rows compared at once: bounds the memory that a half-precision or mapped database takes


def exact_search(
    queries: NDArray[np.floating], database: NDArray[np.floating], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest database descriptors of each query by L2 distance.

    Of unit-length descriptors the order is that of cosine similarity; see [`similarity`].

    Args:
        queries: (Q, D), any floating-point type.
        database: (N, D), any floating-point type, possibly memory-mapped; it is read chunk by chunk.
        k: Neighbours wanted; with fewer rows in the database all are returned.

    Returns:
        Squared distances (Q, min(k, N)) in ascending order and the row numbers beside them; equal distances in the order
        of the rows.

    Raises:
        ValueError: If shapes do not fit, k is below 1, or a descriptor is not finite.
    """
    _check(queries, database, k)
    k = min(k, len(database))
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    heap = faiss.ResultHeap(len(queries), k)
    for start in range(0, len(database), DATABASE_CHUNK):
        chunk = np.ascontiguousarray(database[start : start + DATABASE_CHUNK], dtype=np.float32)
        distances, rows = faiss.knn(queries, chunk, min(k, len(chunk)))
        heap.add_result(distances, rows + start)
    heap.finalize()
    if (heap.I < 0).any():
        raise ValueError("A database descriptor is not finite; nearest neighbours are not defined.")
    return heap.D.astype(np.float32, copy=False), heap.I.astype(np.int64, copy=False)


def similarity(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn squared L2 distances of unit-length descriptors into their cosine similarity: 1 - d² / 2."""
    return np.float32(1) - distances / np.float32(2)


def _check(queries: NDArray[np.floating], database: NDArray[np.floating], k: int) -> None:
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"Expected queries (Q, D) and a database (N, D) of one descriptor width, got {queries.shape} and {database.shape}."
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if not np.isfinite(queries).all():
        raise ValueError("A query descriptor is not finite; its nearest neighbours are not defined.")


__all__ = ["DATABASE_CHUNK", "exact_search", "similarity"]
