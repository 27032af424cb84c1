"""Re-ranking: a new order of the best matches, by the similarity of descriptors and that of regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import Match
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.reranking.region_similarity import region_values
from d2vpr_hf.reranking.region_sources import RegionSource

FindUnsure = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.bool_]]
"""Returns which queries have an unsure answer (Q,), from the rows and similarities (Q, k) of their matches."""


@dataclass(frozen=True)
class RerankedRows:
    """Matches of Q queries in their new order.

    Attributes:
        order: (Q, k) earlier positions of the matches, from 0.
        rows: (Q, k) rows; those beyond the candidates keep their order behind the others.
        similarities: (Q, k) cosine similarities of the descriptors.
        region_similarities: (Q, k) region similarities; NaN for rows that were not compared.
        fused_similarities: (Q, k) mean of both, weighted; NaN for queries that were not re-ranked. A row that was not compared
            counts with the smallest region similarity of its query.
        is_reranked: (Q,) whether the query was re-ranked.
    """

    order: NDArray[np.int64]
    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    region_similarities: NDArray[np.float32]
    fused_similarities: NDArray[np.float32]
    is_reranked: NDArray[np.bool_]


class Reranker:
    """Sort matches by the similarity of their regions.

    Args:
        source: The regions of queries and rows.
        penalties: (R, R) position prior, from [`position_penalties`].
        options: Number of candidates and weight.
        find_unsure: Finds the queries to re-rank; `None` re-ranks all.

    Attributes:
        num_queries: Number of queries so far.
        num_reranked: Number of these that were re-ranked.
        num_compared: Number of comparisons of a query with a candidate.
    """

    def __init__(
        self,
        source: RegionSource,
        penalties: NDArray[np.float32],
        options: Reranking,
        find_unsure: FindUnsure | None = None,
    ) -> None:
        self.options = options
        self._source, self._penalties = source, penalties
        self._find_unsure = find_unsure
        self.num_queries = self.num_reranked = self.num_compared = 0

    def rerank(
        self,
        descriptors: NDArray[np.floating],
        photos: Sequence[Any],
        rows: NDArray[np.int64],
        similarities: NDArray[np.float32],
    ) -> RerankedRows:
        """Re-rank the matches of queries; arguments and errors as for [`compare`]."""
        reranked = order_rows(rows, similarities, self.compare(descriptors, photos, rows, similarities), self.options)
        self.num_queries += len(rows)
        self.num_reranked += int(reranked.is_reranked.sum())
        self.num_compared += int(np.isfinite(reranked.region_similarities).sum())
        return reranked

    def compare(
        self,
        descriptors: NDArray[np.floating],
        photos: Sequence[Any],
        rows: NDArray[np.int64],
        similarities: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Compare the regions of queries with those of their matches.

        Args:
            descriptors: (Q, D) descriptors of the queries.
            photos: Photos of the queries, for a source that encodes them again.
            rows: (Q, k) rows of their matches, the most similar first; -1 for a missing one.
            similarities: (Q, k) cosine similarities of these rows.

        Returns:
            (Q, k, R) values of the regions; NaN for matches that are not compared.

        Raises:
            ValueError: If queries have several descriptors each.
        """
        if descriptors.ndim != 2:
            raise ValueError(
                'Re-ranking needs one descriptor of each query, and `test_time="nearest-crop"` gives several. Leave it out.'
            )
        candidates = self._candidates(rows, similarities)
        values = np.full((*rows.shape, len(self._penalties)), np.nan, np.float32)
        numbers = np.flatnonzero(candidates.any(axis=1))
        if len(numbers):
            needed, positions = np.unique(rows[candidates], return_inverse=True)
            regions = self._source.of_rows(needed)
            queries = self._source.of_queries(descriptors[numbers], [photos[number] for number in numbers.tolist()])
            parts = np.split(positions, np.cumsum(candidates[numbers].sum(axis=1))[:-1])
            for number, query, part in zip(numbers.tolist(), queries, parts, strict=True):
                values[number, candidates[number]] = region_values(query, regions[part], self._penalties)
        return values

    def rerank_matches(
        self, descriptors: NDArray[np.floating], photos: Sequence[Any], matches: Sequence[Sequence[Match]]
    ) -> list[list[Match]]:
        """Re-rank matches of queries with the same number of matches each; arguments and errors as for [`compare`]."""
        rows, similarities = match_arrays(matches)
        return reorder(matches, self.rerank(descriptors, photos, rows, similarities))

    def report(self) -> None:
        """Log the number of photos that were encoded again, if any were."""
        self._source.report()

    def _candidates(self, rows: NDArray[np.int64], similarities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which matches (Q, k) are compared."""
        candidates = (rows >= 0) & (similarities >= similarities[:, :1] - self.options.max_gap)
        candidates[:, self.options.top :] = False
        if self._find_unsure is not None and len(rows):
            candidates &= self._find_unsure(rows, similarities)[:, None]
        return candidates


def order_rows(
    rows: NDArray[np.int64], similarities: NDArray[np.float32], values: NDArray[np.float32], options: Reranking
) -> RerankedRows:
    """Sort matches by their fused similarities.

    Args:
        rows: (Q, k) rows.
        similarities: (Q, k) cosine similarities of the descriptors.
        values: (Q, k, R) values of the regions; NaN for matches that were not compared.
        options: Weights.

    Raises:
        ValueError: If there are weights for another number of regions.
    """
    num_regions = values.shape[2]
    weights = np.full(num_regions, 1 / num_regions) if options.region_weights is None else np.array(options.region_weights)
    if len(weights) != num_regions:
        raise ValueError(f"Expected weights of {num_regions} regions, got {len(weights)}. Make a new calibration.")
    compared = np.asarray(values @ weights.astype(np.float32))  # (Q, k, R) -> (Q, k)
    is_compared: NDArray[np.bool_] = np.isfinite(compared)
    is_reranked = np.asarray(is_compared.any(axis=1))
    smallest = np.where(is_compared, compared, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    completed = np.where(is_compared, compared, smallest)
    fused = ((similarities + options.weight * completed) / (1 + options.weight)).astype(np.float32)
    order = np.argsort(-np.where(is_reranked[:, None], fused, similarities), axis=1, kind="stable")
    return RerankedRows(
        order,
        np.take_along_axis(rows, order, axis=1),
        np.take_along_axis(similarities, order, axis=1),
        np.take_along_axis(compared, order, axis=1),
        np.take_along_axis(np.where(is_reranked[:, None], fused, np.float32(np.nan)), order, axis=1),
        is_reranked,
    )


def match_arrays(matches: Sequence[Sequence[Match]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return rows and similarities (Q, k) of the matches of queries with k matches each."""
    rows = np.array([[match.row for match in of_query] for of_query in matches], np.int64)
    similarities = np.array([[match.similarity for match in of_query] for of_query in matches], np.float32)
    shape = len(matches), len(matches[0]) if matches else 0
    return rows.reshape(shape), similarities.reshape(shape)


def reorder(matches: Sequence[Sequence[Match]], reranked: RerankedRows) -> list[list[Match]]:
    """Return the matches of queries in their new order; those of a query that was not re-ranked stay."""
    return [
        _reorder(of_query, *values) if is_reranked else list(of_query)
        for of_query, is_reranked, *values in zip(
            matches,
            reranked.is_reranked.tolist(),
            reranked.rows.tolist(),
            reranked.region_similarities.tolist(),
            reranked.fused_similarities.tolist(),
            strict=True,
        )
    ]


def _reorder(matches: Sequence[Match], rows: list[int], region_similarities: list[float], fused: list[float]) -> list[Match]:
    """Return the matches of a query in the order of some rows, with their similarities."""
    of_row = {match.row: match for match in matches}
    values = enumerate(zip(rows, region_similarities, fused, strict=True), 1)
    return [
        replace(of_row[row], rank=rank, region_similarity=None if math.isnan(region) else region, fused_similarity=similarity)
        for rank, (row, region, similarity) in values
    ]
