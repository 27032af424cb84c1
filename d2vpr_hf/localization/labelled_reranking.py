"""Re-ranking of labelled queries: weights of regions, and estimates by weights that were fitted to other queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.localization.consensus import NUM_MATCHES
from d2vpr_hf.localization.reliability import chessboard_halves
from d2vpr_hf.localization.reranked_fit import RerankedEstimate, estimate_reranked
from d2vpr_hf.places import Place, distance_in_metres
from d2vpr_hf.reranking.open_reranker import index_reranker
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.reranking.region_weights import fit_region_weights
from d2vpr_hf.reranking.reranker import match_arrays, order_rows, reorder

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Encoder


@dataclass(frozen=True)
class LabelledMatches:
    """The matches of labelled queries.

    Attributes:
        descriptors: (Q, D) descriptors of the queries.
        photos: Their photos.
        matches: Q lists of k matches, the most similar first.
        truths: True places of the queries.
        positive_dist_threshold: Metres within which a match is correct.
    """

    descriptors: NDArray[np.floating]
    photos: Sequence[Path]
    matches: Sequence[Sequence[Match]]
    truths: Sequence[Place]
    positive_dist_threshold: float

    def correct(self) -> NDArray[np.bool_]:
        """Return whether each match (Q, k) is correct."""
        distances = [
            [distance_in_metres(match.place, truth) for match in of_query]
            for of_query, truth in zip(self.matches, self.truths, strict=True)
        ]
        return np.array(distances, np.float64) <= self.positive_dist_threshold  # `None` becomes NaN


def rerank_labelled(
    index: PlaceIndex, encoder: Encoder, reranking: Reranking, labelled: LabelledMatches
) -> tuple[Reranking, list[RerankedEstimate]]:
    """Fit the weights of regions to labelled queries, and estimate their positions after re-ranking.

    The queries of one half of a chessboard are re-ranked by the weights that the other half gave, so that confidences that are
    fitted to them hold for new queries.

    Returns:
        The options with the weights that all queries give, and the Q estimates.

    Raises:
        ValueError: If queries cannot be re-ranked.
    """
    reranker = index_reranker(index, encoder, replace(reranking, mode="regions"))
    defaults = replace(reranker.options, mode=reranking.mode)
    rows, similarities = match_arrays(labelled.matches)
    values = reranker.compare(labelled.descriptors, labelled.photos, rows, similarities)
    reranker.report()
    correct = labelled.correct()
    half = chessboard_halves(labelled.truths, labelled.positive_dist_threshold)
    estimates: list[RerankedEstimate | None] = [None] * len(rows)
    for tested in (0, 1):
        options = _fitted(defaults, values, similarities, correct, half != tested)
        chosen = np.flatnonzero(half == tested)
        reranked = order_rows(rows[chosen], similarities[chosen], values[chosen], options)
        reordered = reorder([labelled.matches[row] for row in chosen.tolist()], reranked)
        for row, matches in zip(chosen.tolist(), reordered, strict=True):
            estimate = estimate_reranked(matches, NUM_MATCHES, labelled.positive_dist_threshold)
            estimates[row] = estimate if isinstance(estimate, RerankedEstimate) else None
    complete = [estimate for estimate in estimates if estimate is not None]
    if len(complete) < len(estimates):
        raise ValueError(
            f"{len(estimates) - len(complete)} of {len(estimates)} queries cannot be re-ranked: photos of their best matches "
            "could not be read to be encoded again. Bring the photos of the map there, or leave `rerank` out."
        )
    return _fitted(defaults, values, similarities, correct, np.ones(len(rows), bool)), complete


def _fitted(
    reranking: Reranking,
    values: NDArray[np.float32],
    similarities: NDArray[np.float32],
    correct: NDArray[np.bool_],
    chosen: NDArray[np.bool_],
) -> Reranking:
    """Return the options with the weights that some queries give; with too few of them, those of the model, or equal ones."""
    fitted = fit_region_weights(values[chosen], similarities[chosen], correct[chosen])
    if fitted is not None:
        return replace(reranking, weight=fitted[0], region_weights=fitted[1])
    num_regions = values.shape[2]
    return replace(reranking, region_weights=reranking.region_weights or (1 / num_regions,) * num_regions)
