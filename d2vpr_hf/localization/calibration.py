"""How sure an answer is: probabilities from a labelled split of the user's own map.

The features of a position estimate go through a logistic regression (Platt's scaling, of several features) to the probability
that the estimate is right: within 25 m of the truth. On the same split, probabilities are the thresholds of precisions that can
be promised, and errors of right and of wrong answers make the radius that holds for 90 % at each probability. All of it is
plain numbers in JSON.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from d2vpr_hf.evaluation.confidence import precision_curve
from d2vpr_hf.localization.consensus import FEATURES, NUM_MATCHES, PositionEstimate
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres

CALIBRATION_FORMAT_VERSION = 1
MIN_QUERIES = 50  # with fewer, and fewer than 5 of either kind, probabilities would be guesses
RADIUS_SHARE = 0.9
_MIN_OF_EITHER_KIND = 5
_PENALTY = 1.0  # of squared weights, against the sum over queries: it decides where the split is tiny or can be parted in two
_CURVE_POINTS = 200
_LEAST_RADIUS = 0.1  # metres
_RADIUS_POINTS = 201  # confidences that radii are kept of: 0, 0.005, ... 1


@dataclass(frozen=True)
class Calibration:
    """What makes confidences of features.

    Attributes:
        weights: (F,) of the standardised features, and `bias`.
        bias: Of the logistic regression.
        means, deviations: (F,) that standardise the features.
        thresholds, precision, coverage: (T,) of confidences accepted at or above a threshold: how many were right, and how many
            of all queries they were. Thresholds fall.
        radius_confidence, radius: (R,) metres that held for 90 % at each confidence; confidences rise, metres do not.
        num_matches: Matches that estimates are made of.
        positive_dist_threshold: Metres within which an estimate is right.
        num_queries, num_right: Of the split it was fitted on.
        fingerprint: Of the model whose similarities these are, or `None`.
    """

    weights: list[float]
    bias: float
    means: list[float]
    deviations: list[float]
    thresholds: list[float]
    precision: list[float]
    coverage: list[float]
    radius_confidence: list[float]
    radius: list[float]
    num_matches: int = NUM_MATCHES
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD
    num_queries: int = 0
    num_right: int = 0
    fingerprint: str | None = None
    features: list[str] = field(default_factory=lambda: list(FEATURES))

    def confidences(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the probability that each estimate is right, in [0, 1]: features (Q, F) -> (Q,)."""
        return expit(self._standardise(features) @ np.array(self.weights) + self.bias)

    def threshold(self, precision: float) -> float:
        """Return the least confidence to accept so that, on the split, at least this share of the accepted was right.

        Infinity where no threshold reached it; of 0, everything is accepted.

        Raises:
            ValueError: If the precision is not within 0 and 1.
        """
        if not 0 <= precision <= 1:
            raise ValueError(f"A precision must be within 0 and 1, got {precision}.")
        if precision == 0:
            return 0.0
        reached = np.flatnonzero(np.array(self.precision) >= precision)
        return self.thresholds[reached[-1]] if len(reached) else math.inf

    def radius_90(self, confidence: float) -> float:
        """Return the metres within which the truth lies for 90 % of the queries of such a confidence."""
        return float(np.exp(np.interp(confidence, self.radius_confidence, np.log(self.radius))))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, as [`PlaceIndex.store_calibration`] takes them."""
        return {"format_version": CALIBRATION_FORMAT_VERSION} | asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises:
            ValueError: If it is damaged, has another format, or is of features that this package does not compute.
        """
        try:
            version = values["format_version"]
            own = {name: value for name, value in values.items() if name != "format_version"}
            found = cls(**own) if version == CALIBRATION_FORMAT_VERSION else None
            whole = found is None or found._is_whole()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The calibration is damaged ({error!r}). Make it anew with `d2vpr calibrate`.") from error
        if found is None:
            raise ValueError(
                f"The calibration has format {version}, this package reads format {CALIBRATION_FORMAT_VERSION}. Make it anew "
                "with `d2vpr calibrate`."
            )
        if not whole:
            raise ValueError(
                "The calibration is damaged: its numbers do not fit each other. Make it anew with `d2vpr calibrate`."
            )
        return found

    def _is_whole(self) -> bool:
        columns = (
            (self.weights, self.means, self.deviations, self.features),
            (self.thresholds, self.precision, self.coverage),
            (self.radius_confidence, self.radius),
        )
        lengths_fit = all(len({len(column) for column in group}) == 1 and group[0] for group in columns)
        return lengths_fit and self.features == list(FEATURES)

    def _standardise(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        return (np.asarray(features, np.float64) - self.means) / self.deviations


def fit_calibration(
    estimates: Sequence[PositionEstimate],
    truths: Sequence[Place],
    *,
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD,
    num_matches: int = NUM_MATCHES,
    fingerprint: str | None = None,
) -> Calibration:
    """Fit a calibration to queries whose positions are known; some should lie outside the map, as some will later.

    Args:
        estimates: Of Q queries.
        truths: Where they were taken.
        positive_dist_threshold: Metres within which an estimate is right.
        num_matches: Matches that the estimates were made of.
        fingerprint: Of the model that the similarities come from.

    Raises:
        ValueError: If there are too few queries, or too few right or wrong ones, or positions that cannot be compared.
    """
    errors = position_errors(estimates, truths)
    right = errors <= positive_dist_threshold
    _check_enough(errors, positive_dist_threshold)
    features = np.array([estimate.features for estimate in estimates])
    means, deviations = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    weights, bias = _fit_logistic((features - means) / deviations, right)
    confidences = expit((features - means) / deviations @ weights + bias)
    thresholds, precision, coverage = _precision_curve(confidences, right)
    radius_confidence, radius = _fit_radius(errors, positive_dist_threshold)
    return Calibration(
        weights=weights.tolist(),
        bias=bias,
        means=means.tolist(),
        deviations=deviations.tolist(),
        thresholds=thresholds.tolist(),
        precision=precision.tolist(),
        coverage=coverage.tolist(),
        radius_confidence=radius_confidence.tolist(),
        radius=radius.tolist(),
        num_matches=num_matches,
        positive_dist_threshold=positive_dist_threshold,
        num_queries=len(right),
        num_right=int(right.sum()),
        fingerprint=fingerprint,
    )


def position_errors(estimates: Sequence[PositionEstimate], truths: Sequence[Place]) -> NDArray[np.float64]:
    """Return how far each estimate is off, in metres (Q,).

    Raises:
        ValueError: If a truth cannot be compared with its estimate.
    """
    errors = [distance_in_metres(estimate.place, truth) for estimate, truth in zip(estimates, truths, strict=True)]
    for estimate, truth, error in zip(estimates, truths, errors, strict=True):
        if error is None:
            raise ValueError(
                f"{truth.path} has no position in {estimate.frame}, in which the map answers. Give queries with positions of "
                "the map's kind: latitude and longitude or UTM with its zone, or the same local frame."
            )
    return np.array(errors, np.float64)


def _check_enough(errors: NDArray[np.float64], positive_dist_threshold: float) -> None:
    right = int((errors <= positive_dist_threshold).sum())
    advice = _advice(len(errors), right)
    if advice is not None:
        median = f", median error {np.median(errors):.0f} m" if len(errors) else ""
        raise ValueError(
            f"A calibration needs at least {MIN_QUERIES} labelled queries, {_MIN_OF_EITHER_KIND} of them answered rightly to "
            f"{positive_dist_threshold:g} m and as many wrongly; got {len(errors)} queries, {right} right{median}. {advice}"
        )


def _advice(count: int, right: int) -> str | None:
    """Say what is to be done about queries of which so many were answered rightly; nothing if they are enough."""
    if count < MIN_QUERIES:
        return "Add queries with positions, some of them from outside the map."
    if right < _MIN_OF_EITHER_KIND:
        return (
            "Are they of this map's area, and was its model trained? Add queries from inside the map, or allow more metres "
            "with `--positive-dist-threshold`."
        )
    if count - right < _MIN_OF_EITHER_KIND:
        return "Leave out photos that are in the index themselves, and add harder ones and some from outside the map."
    return None


def _fit_logistic(features: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Fit weights (F,) and a bias to standardised features (Q, F) by penalised maximum likelihood."""

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        values = features @ parameters[:-1] + parameters[-1]
        slope = expit(values) - right
        penalty = 0.5 * _PENALTY * float(parameters[:-1] @ parameters[:-1])
        gradient = np.append(features.T @ slope + _PENALTY * parameters[:-1], slope.sum())
        return float((np.logaddexp(0, values) - right * values).sum()) + penalty, gradient

    found = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[:-1], float(found.x[-1])


def _precision_curve(
    confidences: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return falling thresholds and what is right and accepted at each, thinned to some hundred points."""
    curve = precision_curve(confidences, right, int(right.sum()))
    points = np.unique(np.linspace(0, len(curve.thresholds) - 1, _CURVE_POINTS).astype(int))
    return curve.thresholds[points], curve.precision[points], curve.coverage[points]


def _fit_radius(errors: NDArray[np.float64], positive_dist_threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return confidences, rising, and the metres that hold for 90 % of answers of each, never rising.

    An answer of confidence p is right with probability p, and no wrong one is as near as a right one. From 0.9 on, the radius
    is thus the 0.9 / p quantile of the errors of right answers, below it the (0.9 - p) / (1 - p) quantile of those of wrong
    ones. Quantiles of the answers about each confidence need a hundred of them: with fewer, a wrong one in ten makes the radius
    of sure answers as large as the map.
    """
    points = np.linspace(0, 1, _RADIUS_POINTS)
    right, wrong = (np.sort(errors[side]) for side in (errors <= positive_dist_threshold, errors > positive_dist_threshold))
    radius = [
        _upper_quantile(right, RADIUS_SHARE / point, positive_dist_threshold)
        if point >= RADIUS_SHARE
        else _upper_quantile(wrong, (RADIUS_SHARE - point) / (1 - point), wrong[-1])
        for point in points.tolist()
    ]
    return points, np.maximum(radius, _LEAST_RADIUS)


def _upper_quantile(errors: NDArray[np.float64], share: float, most: float) -> float:
    """Return the error, of sorted ones, that a share stays within, the new one counted: of 99 errors and 0.9 the 90th.

    Where that is beyond all errors that are there, it is the most that it can be.
    """
    rank = math.ceil(round(share * (len(errors) + 1), 6))  # products such as 0.9 * 110 are a little more than they should be
    return float(errors[rank - 1]) if rank <= len(errors) else most
