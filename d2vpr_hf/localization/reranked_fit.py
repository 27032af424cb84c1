"""Confidences of runs that re-rank matches: the region similarity and the new agreement are features too."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import Match
from d2vpr_hf.localization.confidence_fit import ConfidenceFit, fit_curves, fit_regression, regression_values
from d2vpr_hf.localization.consensus import FEATURES, PositionEstimate, estimate_position
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place
from d2vpr_hf.reranking.options import Reranking, RerankMode

RERANKED_FEATURES = (*FEATURES, *(f"reranked_{name}" for name in FEATURES), "region_similarity")


@dataclass(frozen=True)
class RerankedEstimate:
    """The position that re-ranked matches agree on.

    Attributes:
        first: The estimate from the order before re-ranking.
        estimate: The estimate from the new order.
        region_similarity: Region similarity of the best match of the new order.
    """

    first: PositionEstimate
    estimate: PositionEstimate
    region_similarity: float

    @property
    def place(self) -> Place:
        """The position in the new order."""
        return self.estimate.place

    @property
    def frame(self) -> str:
        """The frame of the position."""
        return self.estimate.frame

    @property
    def features(self) -> NDArray[np.float64]:
        """(F,) values of `RERANKED_FEATURES`."""
        return np.array([*self.first.features, *self.estimate.features, self.region_similarity])


@dataclass(frozen=True)
class RerankedFit(ConfidenceFit):
    """Confidences and radii of runs that re-rank matches.

    `weights`, `bias`, `means` and `deviations` belong to re-ranked answers and `RERANKED_FEATURES`; thresholds and radii belong
    to all answers of such a run. Answers that are not re-ranked have the confidence of the calibration.

    Attributes:
        rerank: The queries that are re-ranked: `"regions"` for all, `"unsure"` for those below `unsure_below`.
        rerank_top: Number of matches that are compared at most.
        weight, max_gap, region_weights: The other options; see [`Reranking`].
        unsure_below: Confidence before re-ranking below which an answer is unsure; `None` if all are.
        num_correct: Number of labelled queries with a correct estimate.
        features: Names of the F features.
    """

    rerank: RerankMode
    rerank_top: int
    weight: float
    max_gap: float
    region_weights: list[float]
    unsure_below: float | None
    num_correct: int
    features: list[str] = field(default_factory=lambda: list(RERANKED_FEATURES))

    def are_reranked(self, confidences: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether answers with these confidences before re-ranking are re-ranked: (Q,) -> (Q,)."""
        return np.ones(len(confidences), bool) if self.unsure_below is None else confidences < self.unsure_below

    @property
    def reranking(self) -> Reranking:
        """The options of re-ranking that the fit was made with."""
        return Reranking(self.rerank, self.rerank_top, self.weight, self.max_gap, tuple(self.region_weights))


def fit_reranked(
    first: tuple[NDArray[np.float64], NDArray[np.float64]],
    estimates: Sequence[RerankedEstimate],
    errors: NDArray[np.float64],
    positive_dist_threshold: float,
    reranking: Reranking,
    unsure_below: float,
) -> RerankedFit:
    """Fit confidences and radii of runs that re-rank matches.

    Args:
        first: Confidences (Q,) and errors (Q,) of the estimates before re-ranking.
        estimates: Estimates of the Q queries after re-ranking.
        errors: (Q,) metres between these and the true positions.
        positive_dist_threshold: Metres within which an estimate is correct.
        reranking: Options of re-ranking.
        unsure_below: With `mode="unsure"`, the confidence below which an answer is re-ranked; infinity for all.
    """
    features = np.array([estimate.features for estimate in estimates])
    regression = fit_regression(features, errors <= positive_dist_threshold)
    is_reranked = np.ones(len(errors), bool) if reranking.mode == "regions" else first[0] < unsure_below
    confidences = np.where(is_reranked, regression_values(features, **regression), first[0])
    errors = np.where(is_reranked, errors, first[1])
    has_sure_answers = reranking.mode == "unsure" and np.isfinite(unsure_below)
    return RerankedFit(
        **regression,
        **fit_curves(confidences, errors, positive_dist_threshold),
        **reranking.to_dict(),
        unsure_below=unsure_below if has_sure_answers else None,
        num_correct=int((errors <= positive_dist_threshold).sum()),
    )


def estimate_reranked(
    matches: Sequence[Match], num_matches: int, radius: float = POSITIVE_DIST_THRESHOLD
) -> RerankedEstimate | PositionEstimate | None:
    """Estimate the position that re-ranked matches agree on; the first estimate, if they were not re-ranked.

    Args:
        matches: Matches of one query, in the new order, with all that were candidates.
        num_matches: Number of matches that vote.
        radius: Metres within which matches agree.

    Returns:
        The estimate; `None` if no match has a position.
    """
    first = estimate_position(first_order(matches), num_matches, radius)
    if first is None or not matches[0].reranked:
        return first
    estimate = estimate_position(matches, num_matches, radius)
    region_similarity = matches[0].region_similarity
    if estimate is None or region_similarity is None:
        return first
    return RerankedEstimate(first, estimate, region_similarity)


def first_order(matches: Sequence[Match]) -> list[Match]:
    """Return matches in the order of a search, by their descriptors' similarities, without the values of re-ranking."""
    ordered = sorted(matches, key=lambda match: (-match.similarity, match.row))
    return [Match(rank, it.row, it.place, it.photo, it.similarity) for rank, it in enumerate(ordered, 1)]
