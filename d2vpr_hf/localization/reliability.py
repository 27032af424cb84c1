"""How good confidences are: how often the sure are right, and what is gained over similarity."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.localization.calibration import Calibration, fit_calibration, position_errors
from d2vpr_hf.localization.consensus import FEATURES, PositionEstimate
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, flat_coordinates

BINS = 15  # of equal width, the usual number


@dataclass(frozen=True)
class Reliability:
    """Confidences of queries that they were not fitted on, and what was true.

    Attributes:
        confidences: (Q,) in [0, 1].
        similarities: (Q,) of the best match, which confidences are compared with.
        right: (Q,) whether the position was right.
        errors: (Q,) metres.
        radii: (Q,) metres that should hold for 90 %.
    """

    confidences: NDArray[np.float64]
    similarities: NDArray[np.float64]
    right: NDArray[np.bool_]
    errors: NDArray[np.float64]
    radii: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and share of right ones, over bins of equal width, weighted by their queries."""
        return float(sum(abs(mean - share) * count for mean, share, count in self.bins()) / len(self.right))

    @property
    def brier(self) -> float:
        """Mean squared distance of confidence and truth; lower is better."""
        return float(((self.confidences - self.right) ** 2).mean())

    @property
    def base_brier(self) -> float:
        """The Brier score of who says the share of right ones to everything."""
        return float(self.right.mean() * (1 - self.right.mean()))

    @property
    def radius_coverage(self) -> float:
        """Share of queries whose error is within their radius."""
        return float((self.errors <= self.radii).mean())

    def bins(self) -> list[tuple[float, float, int]]:
        """Return mean confidence, share of right ones and number of queries of each bin that has any."""
        numbers = np.minimum((self.confidences * BINS).astype(int), BINS - 1)
        rows = [numbers == number for number in range(BINS) if (numbers == number).any()]
        return [(float(self.confidences[row].mean()), float(self.right[row].mean()), int(row.sum())) for row in rows]

    def to_text(self) -> str:
        """Say it in two lines."""
        return (
            f"expected calibration error {self.expected_calibration_error:.3f}, Brier score {self.brier:.3f} "
            f"(of the base rate: {self.base_brier:.3f})\n"
            f"{100 * self.right.mean():.1f} % of {len(self.right)} positions are right, {100 * self.radius_coverage:.1f} % lie "
            "within their 90 % radius"
        )


def judge_calibration(calibration: Calibration, estimates: Sequence[PositionEstimate], truths: Sequence[Place]) -> Reliability:
    """Compare a calibration with the truth on queries that it was not fitted on."""
    errors = position_errors(estimates, truths)
    features = np.array([estimate.features for estimate in estimates])
    confidences = calibration.confidences(features)
    radii = np.array([calibration.radius_90(confidence) for confidence in confidences.tolist()])
    similarities = features[:, FEATURES.index("similarity")]
    return Reliability(confidences, similarities, errors <= calibration.positive_dist_threshold, errors, radii)


def cross_judge(
    estimates: Sequence[PositionEstimate], truths: Sequence[Place], positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD
) -> Reliability:
    """Fit on one half of the queries and judge on the other, both ways; queries near each other stay in one half.

    Raises:
        ValueError: As [`fit_calibration`] does, of a half.
    """
    half = np.array([_cell(truth, 4 * positive_dist_threshold) % 2 for truth in truths])
    judged = []
    for side in (0, 1):
        fitted, asked = np.flatnonzero(half != side).tolist(), np.flatnonzero(half == side).tolist()
        calibration = _fit_half([estimates[row] for row in fitted], [truths[row] for row in fitted], positive_dist_threshold)
        judged.append(judge_calibration(calibration, [estimates[row] for row in asked], [truths[row] for row in asked]))
    columns = ("confidences", "similarities", "right", "errors", "radii")
    return Reliability(*(np.concatenate([getattr(part, column) for part in judged]) for column in columns))


def _fit_half(estimates: Sequence[PositionEstimate], truths: Sequence[Place], positive_dist_threshold: float) -> Calibration:
    try:
        return fit_calibration(estimates, truths, positive_dist_threshold=positive_dist_threshold)
    except ValueError as error:
        squares = f"every other square of {4 * positive_dist_threshold:g} m"
        raise ValueError(
            f"Confidences are judged on halves of the queries, those in {squares}, and one is no good: {error}"
        ) from error


def _cell(place: Place, side: float) -> int:
    """Number the square of a chessboard that a place lies in."""
    position = next(iter(flat_coordinates(place).values()), (0.0, 0.0))
    return int(position[0] // side) + int(position[1] // side)
