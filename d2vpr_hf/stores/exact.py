"""Exact nearest-neighbour search, which evaluation, indexes and the compressed stores share.

Products in float32, with bounds of their rounding errors, leave a few candidates. The exact distances of the candidates, summed
in float64, decide. The result does not depend on the grouping of rows and queries, nor on a processor's order of additions, nor
on the library that multiplies: torch, or numpy in a program that has not loaded torch.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors, take_rows
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.utils.light_imports import loaded_torch
from d2vpr_hf.utils.threads import map_on_cores, num_cores

BLOCK_BYTES = 4 << 20  # float32 bytes of rows that a core compares at once; they fit its cache (16 MB took 1.6 times as long)
SMALL_WORK = 1 << 20  # products; fewer are not worth a second core
QUERY_GROUP = 1024  # queries compared at once
TABLE_BYTES = 32 << 20  # float32 bytes of the distances of a query group to a block; limits the rows of narrow descriptors
CANDIDATE_LIMIT = 1 << 22  # candidates before their exact distances are computed; limits the memory if many rows are equal
FLOAT32_UNIT = 2.0**-23

_GROWTH = 8  # factor of the number of candidates where many rows are equal
_PAIR_BYTES = 1 << 18  # float64 bytes subtracted at once

Rows = NDArray[np.int64] | range  # ascending row numbers


def exact_search(
    queries: NDArray[np.floating], database: Descriptors, k: int, allowed: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest database descriptors of each query by L2 distance.

    For descriptors of unit length this is the order of cosine similarity; see [`similarity`].

    Args:
        queries: (Q, D), any floating-point type.
        database: (N, D), any floating-point type, possibly memory-mapped; it is read block by block.
        k: Number of neighbours; all rows are returned if there are fewer.
        allowed: (N,) bool, the rows to choose from; `None` for all.

    Returns:
        Squared distances (Q, min(k, number of rows)) in ascending order, and their row numbers; equal distances come in the
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
    results = [_search_group(np.ascontiguousarray(group, np.float32), database, k, rows) for group in groups]
    return np.concatenate([distances for distances, _ in results]), np.concatenate([rows for _, rows in results])


def similarity(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine similarity of unit-length descriptors from their squared L2 distance d²: 1 - d² / 2."""
    return np.float32(1) - distances / np.float32(2)


def rescore(
    queries: NDArray[np.floating], database: Descriptors, candidates: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Choose the k nearest of each query's candidates by exact distance.

    Args:
        queries: (Q, D).
        database: (N, D); only the candidates are read.
        candidates: (Q, R) row numbers, different for each query, R at least k.
        k: Number of neighbours.

    Returns:
        Squared distances and row numbers, as those of [`exact_search`].

    Raises:
        ValueError: If a candidate is not a row of the database, or is given twice for a query.
    """
    check_candidates(candidates, len(database))
    query = np.repeat(np.arange(len(queries)), candidates.shape[1])
    rows = candidates.reshape(-1)
    distances = _distances(np.ascontiguousarray(queries, np.float32), database, query, rows)
    chosen = _first_of_each(query, k, rows, distances)
    return distances[chosen].reshape(len(queries), k), rows[chosen].reshape(len(queries), k)


def check_candidates(rows: NDArray[np.int64], count: int) -> None:
    """Raise ValueError unless each query has different rows (Q, R) of `count` rows: damaged stores return -1 or others."""
    if not rows.size:
        return
    ordered = np.sort(rows, axis=1)
    if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= count:
        raise ValueError(f"Expected rows from 0 to {count - 1}, found {ordered[:, 0].min()} to {ordered[:, -1].max()}.")
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("A row was found twice for a query.")


def check_result(
    distances: NDArray[np.float32],
    rows: NDArray[np.int64],
    num_queries: int,
    k: int,
    allowed: NDArray[np.bool_] | int,
) -> None:
    """Raise ValueError unless distances and rows can be the result of a search.

    Args:
        distances: (Q, min(k, number of allowed rows)).
        rows: Of the same shape.
        num_queries: Q.
        k: Number of neighbours.
        allowed: Mask of the rows to choose from, or the number of all rows.
    """
    count = allowed if isinstance(allowed, int) else int(allowed.sum())
    expected = (num_queries, min(k, count))
    if distances.shape != expected or rows.shape != expected or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"Expected distances and rows {expected}, found {distances.shape} and {rows.dtype} {rows.shape}.")
    check_candidates(rows, allowed if isinstance(allowed, int) else len(allowed))
    if not isinstance(allowed, int) and not allowed[rows].all():
        raise ValueError("A row was found that the search excludes.")
    if not np.isfinite(distances).all() or (np.diff(distances, axis=1) < 0).any():
        raise ValueError("The distances are not finite, or not ascending.")


def rescore_all_ties(
    queries: NDArray[np.floating],
    database: Descriptors,
    nearest: Callable[[NDArray[np.floating], int], tuple[NDArray[Any], NDArray[np.int64]]],
    k: int,
    wanted: int,
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Choose the k nearest of a compressed store's candidates by exact distance, and ask for more where equal rows remain.

    A store returns any of the rows that are equally near. If the k-th row has equals, and is as far in the store's measure as
    the farthest candidate, then other rows may be equal to it and have a smaller number.

    Args:
        queries: (Q, D).
        database: (N, D).
        nearest: Returns the store's distances (Q, R) and rows (Q, R) of the R nearest candidates.
        k: Number of neighbours, at most `wanted`.
        wanted: Number of candidates to begin with, at most `count`.
        count: Number of rows that may be found.

    Returns:
        Squared distances and row numbers (Q, k), as those of [`exact_search`].
    """
    coarse, candidates = nearest(queries, wanted)
    distances, rows = rescore(queries, database, candidates, wanted)
    if wanted < count:
        is_kth = candidates == rows[:, k - 1 : k]
        is_at_edge = coarse[is_kth] >= coarse.max(axis=1)
        has_equals = (distances == distances[:, k - 1 : k]).sum(axis=1) > 1
        unsure = np.flatnonzero(is_at_edge & has_equals)
    distances, rows = distances[:, :k].copy(), rows[:, :k].copy()
    if wanted < count and len(unsure):
        more = min(count, _GROWTH * wanted)
        distances[unsure], rows[unsure] = rescore_all_ties(queries[unsure], database, nearest, k, more, count)
    return distances, rows


def float32_blocks(database: Descriptors, size: int = BLOCK_BYTES) -> Iterator[NDArray[np.float32]]:
    """Yield descriptors (N, D) in blocks of at most `size` float32 bytes, but at least one row.

    Raises:
        ValueError: If a descriptor is not finite.
    """
    for _, block in _blocks(database, range(len(database)), size):
        converted = _to_float32(block)
        _squared_norms(converted)
        yield converted


def relative_rounding(descriptor_dim: int, unit: float = FLOAT32_UNIT) -> float:
    """Return a bound of the error of a squared distance from float32 products, relative to the sum of both squared norms.

    The error of a sum of D terms grows with the root of D, except with negligible probability (Higham and Mary, 2019); the
    bound is about 50 times the error measured with unit-length descriptors.
    """
    return unit * (8 + 2 * descriptor_dim**0.5)


def check_search(
    queries: NDArray[np.floating], database: Descriptors, k: int, allowed: NDArray[np.bool_] | None = None
) -> None:
    """Raise ValueError unless the arguments of a search fit together."""
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


class ExactStore:
    """The uncompressed descriptors, searched by [`exact_search`]; it stores nothing else.

    Args:
        descriptors: (N, D).
    """

    compression: ClassVar[str] = "none"
    scan_seconds_per_byte: ClassVar[float] = 2.5e-10

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors

    @property
    def info(self) -> StoreInfo:
        """The size of the store."""
        return StoreInfo("none", len(self._descriptors), self._descriptors.shape[1], 0, 0)

    @staticmethod
    def row_bytes(descriptor_dim: int) -> int:
        """Return the bytes of a float16 row."""
        return 2 * descriptor_dim

    @staticmethod
    def num_rescored(count: int, descriptor_dim: int, k: int) -> int:
        """Return the number of rows whose distances are computed in float64."""
        return k

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest rows of each query (Q, D): squared distances and row numbers (Q, k)."""
        return exact_search(queries, self._descriptors, k, allowed)

    def save(self, path: Path) -> None:
        """Write the description; there is nothing else to store."""
        path.mkdir(parents=True, exist_ok=True)
        write_description(path, self.info)

    @classmethod
    def check(cls, path: Path, descriptors: Descriptors) -> None:
        """Check the description in a folder."""
        check_description(path, "none", descriptors)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote."""
        cls.check(path, descriptors)
        return cls(descriptors)


def _search_group(
    queries: NDArray[np.float32], database: Descriptors, k: int, rows: NDArray[np.int64] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest rows of each query: first in each part of the rows, then among the results of all parts."""
    size = min(BLOCK_BYTES, TABLE_BYTES * queries.shape[1] // len(queries))

    def search_part(part: Rows) -> _Candidates:
        candidates = _Candidates(queries, database, k)
        for numbers, block in _blocks(database, part, size):
            candidates.add(numbers, _to_float32(block))
        candidates.settle()
        return candidates

    results = map_on_cores(search_part, _parts(range(len(database)) if rows is None else rows, queries.shape))
    query = np.concatenate([part.query for part in results])
    rows = np.concatenate([part.rows for part in results])
    distances = np.concatenate([part.high for part in results])
    chosen = _first_of_each(query, k, rows, distances)
    return distances[chosen].astype(np.float32).reshape(-1, k), rows[chosen].reshape(-1, k)


def _parts(rows: Rows, query_shape: tuple[int, ...]) -> list[Rows]:
    """Split rows into one part for each core, or fewer parts if there is little work.

    Without torch there is one part: numpy has no number of threads for each thread, and divides its products itself.
    """
    num_queries, descriptor_dim = query_shape
    products = len(rows) * descriptor_dim * (1 + num_queries // 8)  # reading a row takes as long as eight queries
    count = 1 if loaded_torch() is None else min(num_cores(), 1 + products // SMALL_WORK)
    bounds = [len(rows) * part // count for part in range(count + 1)]
    return [rows[start:stop] for start, stop in itertools.pairwise(bounds)]


class _Candidates:
    """Pairs of a query and a row whose distance can be among the k smallest of the query.

    Attributes:
        query, rows: (M,) numbers of the queries and rows of the pairs, grouped by query.
        low, high: (M,) float64 bounds of their squared distances.
    """

    def __init__(self, queries: NDArray[np.float32], database: Descriptors, k: int) -> None:
        self._queries, self._database = queries, database
        self._k = k
        self._norms = _squared_norms(queries)
        self._slack = np.float32(relative_rounding(queries.shape[1], _unit_of_products()))
        self._reach = np.full(len(queries), np.inf)  # (Q,) upper bound of the k-th smallest distance
        self.query = self.rows = np.empty(0, np.int64)
        self.low = self.high = np.empty(0, np.float64)

    def add(self, rows: NDArray[np.int64], block: NDArray[np.float32]) -> None:
        """Compare the queries with rows (n, D), and keep the pairs within reach."""
        norms = _squared_norms(block)
        table = _table(self._queries, block, norms)  # (Q, n) squared distances minus the squared norms of the queries
        if np.isinf(self._reach[0]) and len(rows) >= self._k:
            self._reach = self._first_reach(table, norms)
        # an entry is within reach if its lower bound is at most the upper bound; this form takes one pass over the table
        limit = (self._reach - (1 - 2 * self._slack) * self._norms).astype(np.float32)
        within_reach = table <= limit[:, None] + 2 * self._slack * norms.max()
        query, column = _true_entries(within_reach)
        distances = (table[query, column] + self._norms[query]).astype(np.float64)
        slack = self._slack * (norms[column] + self._norms[query])
        self._keep(query, rows[column], distances, slack.astype(np.float64))

    def settle(self) -> None:
        """Replace the bounds by exact distances, and keep the k smallest of each query, in ascending order."""
        distances = _distances(self._queries, self._database, self.query, self.rows)
        chosen = _first_of_each(self.query, self._k, self.rows, distances)
        self.query, self.rows = self.query[chosen], self.rows[chosen]
        self.low = self.high = distances[chosen].astype(np.float64)

    def _first_reach(self, table: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return an upper bound (Q,) of the k-th smallest distance of each query, from the first block."""
        high = table + self._slack * norms
        kth = np.partition(high, self._k - 1, axis=1)[:, self._k - 1].astype(np.float64)
        return np.asarray(kth + (1 + self._slack) * self._norms)

    def _keep(
        self, query: NDArray[np.int64], rows: NDArray[np.int64], distances: NDArray[np.float64], slack: NDArray[np.float64]
    ) -> None:
        """Add new pairs, and drop all pairs that are now out of reach."""
        if not len(query):
            return
        query, rows = np.append(self.query, query), np.append(self.rows, rows)
        low, high = np.append(self.low, distances - slack), np.append(self.high, distances + slack)
        order = np.lexsort((high, query))
        self.query, self.rows = query[order], rows[order]
        self.low, self.high = low[order], high[order]
        self._shorten_reach()
        near = self.low <= self._reach[self.query]
        self.query, self.rows = self.query[near], self.rows[near]
        self.low, self.high = self.low[near], self.high[near]
        if len(self.query) > max(CANDIDATE_LIMIT, 2 * self._k * len(self._queries)):
            self.settle()

    def _shorten_reach(self) -> None:
        """Lower the bounds of queries that have at least k pairs to the k-th smallest upper bound of their pairs."""
        starts = np.searchsorted(self.query, np.arange(len(self._queries) + 1))
        full = np.flatnonzero(np.diff(starts) >= self._k)
        self._reach[full] = np.minimum(self._reach[full], self.high[starts[full] + self._k - 1])


def _unit_of_products() -> float:
    """Return the rounding unit of products: torch may multiply in bfloat16 unless its precision is "highest"."""
    torch = loaded_torch()
    is_exact = torch is None or torch.get_float32_matmul_precision() == "highest"
    return FLOAT32_UNIT if is_exact else 2.0**-7


def _table(queries: NDArray[np.float32], block: NDArray[np.float32], norms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squared norms (n,) of rows (n, D) minus twice their products with queries (Q, D): (Q, n)."""
    torch = loaded_torch()
    if torch is not None:
        table: NDArray[np.float32] = _to_tensor(norms).addmm(_to_tensor(queries), _to_tensor(block).T, alpha=-2).numpy()
        return table
    products = queries @ block.T
    products *= np.float32(-2)
    products += norms
    return products


def _true_entries(table: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns of the true entries of a table, in a few passes where there are few of them."""
    entries = np.flatnonzero(table)
    return entries // table.shape[1], entries % table.shape[1]


def _blocks(database: Descriptors, rows: Rows, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]:
    """Yield row numbers in ascending order and their descriptors, at most `size` float32 bytes at once."""
    step = max(1, size // (4 * max(1, database.shape[1])))
    for start in range(0, len(rows), step):
        chosen = np.asarray(rows[start : start + step], np.int64)
        yield chosen, _take(database, chosen)


def _take(database: Descriptors, rows: NDArray[np.int64]) -> NDArray[np.floating]:
    if rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():  # a view, without a copy
        return database[int(rows[0]) : int(rows[-1]) + 1]
    return take_rows(database, rows)


def _to_float32(block: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows in float32 and in C order, without a copy where they are so already."""
    torch = loaded_torch()
    if torch is not None and block.dtype == np.float16:  # torch converts several times as fast as numpy
        converted: NDArray[np.float32] = _to_tensor(block).float().numpy()
        return converted
    return np.ascontiguousarray(block, np.float32)


def _to_tensor(block: NDArray[np.floating]) -> Any:
    """Return a tensor that shares the memory of an array.

    torch warns of memory that is read-only, such as of mapped files; nothing here writes to it.
    """
    import torch

    block = np.ascontiguousarray(block)
    interface = block.__array_interface__ | {"data": (block.ctypes.data, False)}
    return torch.from_numpy(np.asarray(_Memory(interface, block)))


class _Memory:
    """Memory that numpy can wrap, with a reference that keeps its owner alive."""

    def __init__(self, interface: dict[str, Any], owner: NDArray[Any]) -> None:
        self.__array_interface__, self._owner = interface, owner


def _squared_norms(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squared norms (n,) of descriptors (n, D); raise ValueError if one is not finite."""
    torch = loaded_torch()
    if torch is None:
        norms = np.einsum("nd,nd->n", descriptors, descriptors)
    else:  # 1.6 times as fast as a sum of squares, and without its copy
        norms = torch.linalg.vector_norm(_to_tensor(descriptors), dim=1).square().numpy()
    if not np.isfinite(norms).all():
        raise ValueError("A database descriptor is not finite; nearest neighbours are not defined.")
    return np.asarray(norms)


def _distances(
    queries: NDArray[np.float32], database: Descriptors, query: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the squared distance (M,) of each pair of a query and a row, summed in float64."""
    distances = np.empty(len(rows), np.float32)
    order = np.argsort(rows, kind="stable")  # reads files from front to back
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
    """Return the indices of the k nearest pairs of each query: query by query, nearest first, ties in the order of the rows."""
    order = np.lexsort((rows, distances, query))
    ordered = query[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return order[rank < k]
