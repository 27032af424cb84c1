"""Reliability of a calibration: its confidences compared with the correctness of positions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.localization.calibration import Calibration, fit_calibration, position_errors
from d2vpr_hf.localization.confidence_fit import ConfidenceFit
from d2vpr_hf.localization.consensus import FEATURES, PositionEstimate
from d2vpr_hf.localization.localize import fit_of_reranked
from d2vpr_hf.localization.reranked_fit import RerankedEstimate
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, flat_coordinates
from d2vpr_hf.places.place import EARTH_RADIUS
from d2vpr_hf.readers import Remark
from d2vpr_hf.reranking.options import Reranking

BINS = 15  # of equal width, the usual number


@dataclass(frozen=True)
class Reliability:
    """Confidences and radii of queries that the calibration was not fitted to, and the errors of their positions.

    Attributes:
        confidences: (Q,) confidences in [0, 1].
        similarities: (Q,) similarities of the best match, for comparison with the confidences.
        correct: (Q,) whether the position is correct.
        errors: (Q,) metres between estimated and true position.
        radii: (Q,) metres, which should contain 90 % of the errors.
        skipped: Reasons why other queries were not used, by path.
        remarks: Lines about files that were skipped, and values that were corrected or assumed.
    """

    confidences: NDArray[np.float64]
    similarities: NDArray[np.float64]
    correct: NDArray[np.bool_]
    errors: NDArray[np.float64]
    radii: NDArray[np.float64]
    skipped: dict[str, str] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()

    @property
    def expected_calibration_error(self) -> float:
        """Mean difference between confidence and share of correct queries over all bins, weighted by their queries."""
        return float(sum(abs(mean - share) * count for mean, share, count in self.bins()) / len(self.correct))

    @property
    def brier(self) -> float:
        """Brier score: the mean squared difference between confidence and correctness (0 or 1); lower is better."""
        return float(((self.confidences - self.correct) ** 2).mean())

    @property
    def base_brier(self) -> float:
        """The Brier score of a constant confidence, the share of correct queries."""
        return float(self.correct.mean() * (1 - self.correct.mean()))

    @property
    def radius_coverage(self) -> float:
        """Share of queries whose error is within their radius."""
        return float((self.errors <= self.radii).mean())

    def bins(self) -> list[tuple[float, float, int]]:
        """Return mean confidence, share of correct queries and number of queries of each bin that is not empty."""
        numbers = np.minimum((self.confidences * BINS).astype(int), BINS - 1)
        rows = [numbers == number for number in range(BINS) if (numbers == number).any()]
        return [(float(self.confidences[row].mean()), float(self.correct[row].mean()), int(row.sum())) for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary, the skipped queries and the remarks as JSON values."""
        return {
            "count": len(self.correct),
            "correct": float(self.correct.mean()),
            "radius_coverage": self.radius_coverage,
            "expected_calibration_error": self.expected_calibration_error,
            "brier": self.brier,
            "base_brier": self.base_brier,
            "skipped": self.skipped,
            "remarks": [remark.to_dict() for remark in self.remarks],
        }

    def to_text(self) -> str:
        """Return a summary of two lines."""
        return (
            f"expected calibration error {self.expected_calibration_error:.3f}, Brier score {self.brier:.3f} "
            f"(of the base rate: {self.base_brier:.3f})\n"
            f"{100 * self.correct.mean():.1f} % of {len(self.correct)} positions are correct, "
            f"{100 * self.radius_coverage:.1f} % are within their 90 % radius"
        )


def judge_calibration(
    calibration: Calibration,
    estimates: Sequence[PositionEstimate],
    truths: Sequence[Place],
    reranked: Sequence[RerankedEstimate] | None = None,
) -> Reliability:
    """Compare a calibration with the true places of queries that it was not fitted to.

    Args:
        calibration: The calibration.
        estimates: Position estimates of Q queries.
        truths: True places of these queries.
        reranked: Estimates after re-ranking, to judge answers of a run that re-ranks matches.
    """
    errors = position_errors(estimates, truths)
    features = np.array([estimate.features for estimate in estimates])
    confidences = calibration.confidences(features)
    fit: ConfidenceFit = calibration
    if reranked is not None:
        fit = fit_of_reranked(calibration)
        is_reranked = fit.are_reranked(confidences)
        new_confidences = fit.confidences(np.array([estimate.features for estimate in reranked]))
        confidences = np.where(is_reranked, new_confidences, confidences)
        errors = np.where(is_reranked, position_errors(reranked, truths), errors)
    radii = np.array([fit.radius_90(confidence) for confidence in confidences.tolist()])
    similarities = features[:, FEATURES.index("similarity")]
    return Reliability(confidences, similarities, errors <= calibration.positive_dist_threshold, errors, radii)


def cross_judge(
    estimates: Sequence[PositionEstimate],
    truths: Sequence[Place],
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD,
    *,
    reranked: Sequence[RerankedEstimate] | None = None,
    reranking: Reranking | None = None,
) -> Reliability:
    """Fit a calibration to each half of the queries and judge it on the other half.

    The halves are the squares of a chessboard, so that queries near each other are in the same half.

    Args:
        estimates: Position estimates of Q queries.
        truths: True places of these queries.
        positive_dist_threshold: Metres within which an estimate is correct.
        reranked: Estimates after re-ranking, to judge answers of runs that re-rank matches.
        reranking: The options of this re-ranking.

    Raises:
        ValueError: If [`fit_calibration`] raises it for a half.
    """
    half = chessboard_halves(truths, positive_dist_threshold)
    parts = []
    for tested_half in (0, 1):
        fitted, tested = (np.flatnonzero(chosen).tolist() for chosen in (half != tested_half, half == tested_half))
        of_fitted, of_tested = (None if reranked is None else [reranked[row] for row in rows] for rows in (fitted, tested))
        try:
            calibration = fit_calibration(
                [estimates[row] for row in fitted],
                [truths[row] for row in fitted],
                positive_dist_threshold=positive_dist_threshold,
                reranked=of_fitted,
                reranking=reranking,
            )
        except ValueError as error:
            squares = f"every other square of {4 * positive_dist_threshold:g} m"
            raise ValueError(
                f"Confidences are judged on halves of the queries, those in {squares}, and one half cannot be used: {error}"
            ) from error
        judged = [estimates[row] for row in tested], [truths[row] for row in tested]
        parts.append(judge_calibration(calibration, *judged, of_tested))

    def join(column: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, column) for part in parts])

    return Reliability(join("confidences"), join("similarities"), join("correct"), join("errors"), join("radii"))


def chessboard_halves(truths: Sequence[Place], positive_dist_threshold: float) -> NDArray[np.int64]:
    """Return the half, 0 or 1, of each query (Q,): squares of a chessboard, so that queries near each other share a half."""
    return np.array([_cell(truth, 4 * positive_dist_threshold) % 2 for truth in truths], np.int64)


def _cell(place: Place, side: float) -> int:
    """Return the number of the chessboard's square that contains a place; squares of one colour have the same parity."""
    x, y = 0.0, 0.0
    if metres := flat_coordinates(place):
        x, y = next(iter(metres.values()))[:2]
    elif place.latitude is not None and place.longitude is not None:  # near the poles, where UTM ends
        y = EARTH_RADIUS * math.radians(place.latitude)
        x = EARTH_RADIUS * math.radians(place.longitude) * math.cos(math.radians(place.latitude))
    return int(x // side) + int(y // side)
