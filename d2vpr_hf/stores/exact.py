"""Exact nearest-neighbour search: the one implementation that evaluation, the index and the other stores share.

Float32 products with bounds on their rounding error leave a few candidates; their distances, summed in float64, decide. The
result depends neither on how rows and queries are grouped nor on the order in which a processor adds.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors, take_rows
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.utils.threads import map_on_cores, num_cores

BLOCK_BYTES = 4 << 20  # of float32 that a core compares at once: they stay in its cache (16 MB took 1.6 times as long)
SMALL_WORK = 1 << 20  # products that a second core is not worth
QUERY_GROUP = 1024  # queries compared at once
TABLE_BYTES = 32 << 20  # of float32, the distances of these queries to a block: makes blocks of narrow descriptors shorter
CANDIDATE_LIMIT = 1 << 22  # candidates held before their exact distances are taken: bounds memory where rows repeat

_PAIR_BYTES = 1 << 18  # of float64 subtracted at once


Rows = NDArray[np.int64] | range  # ascending row numbers


def exact_search(
    queries: NDArray[np.floating], database: Descriptors, k: int, allowed: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest database descriptors of each query by L2 distance.

    Of unit-length descriptors the order is that of cosine similarity; see [`similarity`].

    Args:
        queries: (Q, D), any floating-point type.
        database: (N, D), any floating-point type, possibly memory-mapped; it is read block by block.
        k: Neighbours wanted; with fewer rows to choose from all are returned.
        allowed: (N,) the rows to choose from; `None` for all.

    Returns:
        Squared distances (Q, min(k, number of rows)) in ascending order and the row numbers beside them; equal distances in the
        order of the rows.

    Raises:
        ValueError: If shapes do not fit, k is below 1, or a descriptor is not finite.
    """
    check_search(queries, database, k, allowed)
    rows = None if allowed is None else np.flatnonzero(allowed)
    k = min(k, len(database) if rows is None else len(rows))
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    groups = [queries[start : start + QUERY_GROUP] for start in range(0, len(queries), QUERY_GROUP)]
    found = [_search_group(np.ascontiguousarray(group, np.float32), database, k, rows) for group in groups]
    return np.concatenate([distances for distances, _ in found]), np.concatenate([rows for _, rows in found])


def similarity(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn squared L2 distances of unit-length descriptors into their cosine similarity: 1 - d² / 2."""
    return np.float32(1) - distances / np.float32(2)


def rescore(
    queries: NDArray[np.floating], database: Descriptors, candidates: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Choose the k nearest of each query's candidates by exact distance.

    Args:
        queries: (Q, D).
        database: (N, D); only the candidates are read.
        candidates: (Q, R) different rows, R at least k.
        k: Neighbours wanted.

    Returns:
        As [`exact_search`] does.
    """
    query = np.repeat(np.arange(len(queries)), candidates.shape[1])
    rows = candidates.reshape(-1)
    distances = _distances(np.ascontiguousarray(queries, np.float32), database, query, rows)
    chosen = _first_of_each(query, k, rows, distances)
    return distances[chosen].reshape(len(queries), k), rows[chosen].reshape(len(queries), k)


def float32_blocks(database: Descriptors, size: int = BLOCK_BYTES) -> Iterator[NDArray[np.float32]]:
    """Yield descriptors (N, D) in pieces of at most `size` bytes of float32, at least a row.

    Raises:
        ValueError: If a descriptor is not finite.
    """
    for _, block in _blocks(database, range(len(database)), size):
        tensor = _to_tensor(block).float()
        _squared_norms(tensor)
        yield tensor.numpy()


def check_search(
    queries: NDArray[np.floating], database: Descriptors, k: int, allowed: NDArray[np.bool_] | None = None
) -> None:
    """Raise ValueError unless the arguments of a search fit each other."""
    if queries.ndim != 2 or len(database.shape) != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"Expected queries (Q, D) and a database (N, D) of one descriptor width, got {queries.shape} and {database.shape}."
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if not np.isfinite(queries).all():
        raise ValueError("A query descriptor is not finite; its nearest neighbours are not defined.")
    if allowed is not None and (allowed.dtype != np.bool_ or allowed.shape != (len(database),)):
        raise ValueError(
            f"Expected `allowed` as one truth value for each of {len(database)} rows, got {allowed.dtype} {allowed.shape}."
        )


def _search_group(
    queries: NDArray[np.float32], database: Descriptors, k: int, rows: NDArray[np.int64] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest of each query: those of every part of the rows, and of them the nearest."""
    size = min(BLOCK_BYTES, TABLE_BYTES * queries.shape[1] // len(queries))

    def search_part(part: Rows) -> _Candidates:
        candidates = _Candidates(queries, database, k)
        for numbers, block in _blocks(database, part, size):
            candidates.add(numbers, _to_tensor(block).float())
        candidates.settle()
        return candidates

    found = map_on_cores(search_part, _parts(range(len(database)) if rows is None else rows, queries.shape))
    query, rows, distances = (np.concatenate([getattr(part, name) for part in found]) for name in ("query", "rows", "high"))
    chosen = _first_of_each(query, k, rows, distances)
    return distances[chosen].astype(np.float32).reshape(-1, k), rows[chosen].reshape(-1, k)


def _parts(rows: Rows, query_shape: tuple[int, ...]) -> list[Rows]:
    """Cut rows into one part for each core, if there is enough to do."""
    num_queries, descriptor_dim = query_shape
    products = len(rows) * descriptor_dim * (1 + num_queries // 8)  # reading takes as long as eight queries
    count = min(num_cores(), 1 + products // SMALL_WORK)
    bounds = [len(rows) * part // count for part in range(count + 1)]
    return [rows[start:stop] for start, stop in itertools.pairwise(bounds)]


class _Candidates:
    """The pairs of a query and a row whose distance may be among the query's k smallest, with bounds of it.

    Attributes:
        query, rows: (M,) the pairs, grouped by query.
        low, high: (M,) float64 bounds of their squared distances.
    """

    def __init__(self, queries: NDArray[np.float32], database: Descriptors, k: int) -> None:
        self._queries, self._database, self._k = queries, database, k
        self._tensor = torch.from_numpy(queries)
        self._norms = _squared_norms(self._tensor)
        self._slack = _relative_rounding(queries.shape[1])
        self._reach = np.full(len(queries), np.inf)  # no row beyond can be among the k nearest
        self.query = self.rows = np.empty(0, np.int64)
        self.low = self.high = np.empty(0, np.float64)

    def add(self, rows: NDArray[np.int64], block: torch.Tensor) -> None:
        """Compare the queries with rows (n, D), and keep those within reach."""
        norms = _squared_norms(block)
        table = torch.addmm(norms, self._tensor, block.T, alpha=-2)  # (Q, n) squared distances less the queries' own norms
        if np.isinf(self._reach[0]) and len(rows) >= self._k:
            self._reach = self._first_reach(table, norms)
        query, column = self._within_reach(table, norms).nonzero(as_tuple=True)
        distances = (table[query, column] + self._norms[query]).numpy().astype(np.float64)
        slack = self._slack * (norms[column] + self._norms[query])
        self._keep(query.numpy(), rows[column.numpy()], distances, slack.numpy().astype(np.float64))

    def settle(self) -> None:
        """Replace the bounds by the distances themselves, and keep the k smallest of each query, in order."""
        distances = _distances(self._queries, self._database, self.query, self.rows)
        chosen = _first_of_each(self.query, self._k, self.rows, distances)
        self.query, self.rows = self.query[chosen], self.rows[chosen]
        self.low = self.high = distances[chosen].astype(np.float64)

    def _first_reach(self, table: torch.Tensor, norms: torch.Tensor) -> NDArray[np.float64]:
        high = table + self._slack * norms
        kth = high.kthvalue(self._k, dim=1).values.double() + (1 + self._slack) * self._norms
        return kth.numpy()

    def _within_reach(self, table: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Tell which entries of a table (Q, n) have lower bounds within reach; one pass over it."""
        limit = torch.from_numpy(self._reach) - (1 - 2 * self._slack) * self._norms
        return table <= limit.float()[:, None] + 2 * self._slack * norms.max()

    def _keep(
        self, query: NDArray[np.int64], rows: NDArray[np.int64], distances: NDArray[np.float64], slack: NDArray[np.float64]
    ) -> None:
        """Join new pairs to the old ones, and drop those that are out of reach by now."""
        if not len(query):
            return
        query, rows = np.append(self.query, query), np.append(self.rows, rows)
        low, high = np.append(self.low, distances - slack), np.append(self.high, distances + slack)
        order = np.lexsort((high, query))
        self.query, self.rows, self.low, self.high = query[order], rows[order], low[order], high[order]
        self._shorten_reach()
        near = self.low <= self._reach[self.query]
        self.query, self.rows, self.low, self.high = self.query[near], self.rows[near], self.low[near], self.high[near]
        if len(self.query) > max(CANDIDATE_LIMIT, 2 * self._k * len(self._queries)):
            self.settle()

    def _shorten_reach(self) -> None:
        starts = np.searchsorted(self.query, np.arange(len(self._queries) + 1))
        full = np.flatnonzero(np.diff(starts) >= self._k)
        self._reach[full] = np.minimum(self._reach[full], self.high[starts[full] + self._k - 1])


def _relative_rounding(descriptor_dim: int) -> float:
    """Bound the error of a squared distance by products of float32, as a part of the sum of both squared norms.

    Errors of sums of D terms grow as the root of D but for odds that do not matter (Higham and Mary, 2019); this is about 50
    times what is seen of unit-length descriptors. Processors that are allowed to may multiply in bfloat16.
    """
    unit = 2.0**-23 if torch.get_float32_matmul_precision() == "highest" else 2.0**-7
    return unit * (8 + 2 * descriptor_dim**0.5)


def _blocks(database: Descriptors, rows: Rows, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]:
    """Yield row numbers in ascending order and their descriptors, at most `size` bytes of float32 at once."""
    step = max(1, size // (4 * max(1, database.shape[1])))
    for start in range(0, len(rows), step):
        chosen = np.asarray(rows[start : start + step], np.int64)
        yield chosen, _take(database, chosen)


def _take(database: Descriptors, rows: NDArray[np.int64]) -> NDArray[np.floating]:
    if rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():  # neighbours need no copy
        return database[int(rows[0]) : int(rows[-1]) + 1]
    return take_rows(database, rows)


def _to_tensor(block: NDArray[np.floating]) -> torch.Tensor:
    """View descriptors as a tensor without torch's warning of memory that must not be written to: nothing here writes."""
    block = np.ascontiguousarray(block)
    interface = block.__array_interface__ | {"data": (block.ctypes.data, False)}
    return torch.from_numpy(np.asarray(_Memory(interface, block)))


class _Memory:
    """Memory as numpy takes it, which keeps its owner alive."""

    def __init__(self, interface: dict[str, Any], owner: NDArray[Any]) -> None:
        self.__array_interface__, self._owner = interface, owner


def _squared_norms(descriptors: torch.Tensor) -> torch.Tensor:
    """Return the squared lengths (n,) of descriptors (n, D), and refuse those that have none."""
    norms = torch.linalg.vector_norm(descriptors, dim=1).square()  # 1.6 times as fast as a sum of squares, which takes room
    if not torch.isfinite(norms).all():
        raise ValueError("A database descriptor is not finite; nearest neighbours are not defined.")
    return norms


def _distances(
    queries: NDArray[np.float32], database: Descriptors, query: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Compute the squared distance of each pair (M,) of a query and a row, summed in float64."""
    distances = np.empty(len(rows), np.float32)
    order = np.argsort(rows, kind="stable")  # files are read from front to back
    step = max(1, _PAIR_BYTES // (8 * max(1, queries.shape[1])))
    for start in range(0, len(rows), step):
        pairs = order[start : start + step]
        apart = _take(database, rows[pairs]).astype(np.float64)
        apart -= queries[query[pairs]]
        distances[pairs] = np.einsum("nd,nd->n", apart, apart)
    return distances


def _first_of_each(
    query: NDArray[np.int64], k: int, rows: NDArray[np.int64], distances: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return where each query's k nearest pairs stand, query by query, the nearest first, ties in the order of the rows."""
    order = np.lexsort((rows, distances, query))
    ordered = query[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return order[rank < k]


class ExactStore:
    """Descriptors as they are, searched by [`exact_search`]; has nothing of its own.

    Args:
        descriptors: (N, D).
    """

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors

    @property
    def info(self) -> StoreInfo:
        """Say what the store holds."""
        return StoreInfo("none", len(self._descriptors), self._descriptors.shape[1], 0, 0)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest of each query (Q, D): squared distances and rows (Q, k)."""
        return exact_search(queries, self._descriptors, k, allowed)

    def save(self, path: Path) -> None:
        """Write a description only."""
        path.mkdir(parents=True, exist_ok=True)
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote."""
        check_description(path, "none", descriptors)
        return cls(descriptors)
