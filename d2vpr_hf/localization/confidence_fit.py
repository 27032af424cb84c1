"""Confidences by logistic regression (Platt scaling with several features), thresholds for a precision, and radii."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from d2vpr_hf.evaluation.confidence import precision_curve

RADIUS_SHARE = 0.9
_LARGEST = 1e30  # above all weights, means and metres of a calibration
_PENALTY = 1.0  # factor on half the squared weights; keeps them finite for few or linearly separable queries
_CURVE_POINTS = 200
_LEAST_RADIUS = 0.1  # metres
_RADIUS_POINTS = 201  # the radius is stored for the confidences 0, 0.005, ... 1


@dataclass(frozen=True)
class ConfidenceFit:
    """Parameters that convert features of a position estimate to a confidence and a radius.

    Attributes:
        weights: (F,) weights of the standardised features in the logistic regression.
        bias: Bias of the logistic regression.
        means, deviations: (F,) means and standard deviations that standardise the features.
        thresholds: (T,) falling thresholds on the confidence.
        precision: (T,) share of correct estimates among those with a confidence at or above the threshold.
        coverage: (T,) share of all queries with such a confidence.
        radius_confidence: (R,) rising confidences.
        radius: (R,) metres within which 90 % of the estimates of each of these confidences are from the true position; never
            rising.
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

    def confidences(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the probability that each estimate is correct, in [0, 1]: features (Q, F) -> (Q,)."""
        return regression_values(features, self.weights, self.bias, self.means, self.deviations)

    def threshold(self, precision: float) -> float:
        """Return the smallest threshold on the confidence with at least this precision on the labelled queries.

        It is infinity if no threshold has this precision, and 0 for a precision of 0, so that every estimate is accepted.

        Raises:
            ValueError: If the precision is not within 0 and 1.
        """
        if not 0 <= precision <= 1:
            raise ValueError(f"`precision` must be within 0 and 1, got {precision}.")
        if precision == 0:
            return 0.0
        reached = np.flatnonzero(np.array(self.precision) >= precision)
        return self.thresholds[reached[-1]] if len(reached) else math.inf

    def radius_90(self, confidence: float) -> float:
        """Return the metres within which 90 % of the estimates of this confidence are from the true position."""
        return float(np.exp(np.interp(confidence, self.radius_confidence, np.log(self.radius))))

    def has_columns_of(self, features: Sequence[str]) -> bool:
        """Return whether the columns belong to these features and to each other, and their numbers are finite."""
        columns = (
            (self.weights, self.means, self.deviations, features),
            (self.thresholds, self.precision, self.coverage),
            (self.radius_confidence, self.radius),
        )
        if not all(len({len(column) for column in group}) == 1 and group[0] for group in columns):
            return False
        numbers = [*self.weights, self.bias, *self.means, *self.deviations, *self.radius]
        return max(map(abs, numbers)) < _LARGEST and min(self.deviations) > 0 and min(self.radius) >= 0


def fit_confidences(
    features: NDArray[np.float64], errors: NDArray[np.float64], positive_dist_threshold: float
) -> dict[str, Any]:
    """Fit confidences and radii to features (Q, F) and errors (Q,) in metres; return the values of a [`ConfidenceFit`]."""
    regression = fit_regression(features, errors <= positive_dist_threshold)
    return regression | fit_curves(regression_values(features, **regression), errors, positive_dist_threshold)


def fit_regression(features: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, Any]:
    """Fit the logistic regression; return weights, bias, means and deviations."""
    means, deviations = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    weights, bias = fit_logistic((features - means) / deviations, correct)
    return {"weights": weights.tolist(), "bias": bias, "means": means.tolist(), "deviations": deviations.tolist()}


def regression_values(
    features: NDArray[np.floating], weights: Sequence[float], bias: float, means: Sequence[float], deviations: Sequence[float]
) -> NDArray[np.float64]:
    """Return the confidences (Q,) that a logistic regression gives features (Q, F)."""
    standardised = (np.asarray(features, np.float64) - means) / deviations
    return expit(standardised @ np.array(weights) + bias)


def fit_curves(confidences: NDArray[np.float64], errors: NDArray[np.float64], positive_dist_threshold: float) -> dict[str, Any]:
    """Return precision and coverage over thresholds on confidences (Q,), and the radius over confidences."""
    correct = errors <= positive_dist_threshold
    curve = precision_curve(confidences, correct, int(correct.sum()))
    points = np.unique(np.linspace(0, len(curve.thresholds) - 1, _CURVE_POINTS).astype(int))
    radius_confidence = np.linspace(0, 1, _RADIUS_POINTS)
    return {
        "thresholds": curve.thresholds[points].tolist(),
        "precision": curve.precision[points].tolist(),
        "coverage": curve.coverage[points].tolist(),
        "radius_confidence": radius_confidence.tolist(),
        "radius": _fit_radii(radius_confidence, errors, positive_dist_threshold).tolist(),
    }


def fit_logistic(features: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Fit weights (F,) and a bias to standardised features (Q, F) by penalised maximum likelihood."""
    from scipy.optimize import minimize

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        values = features @ parameters[:-1] + parameters[-1]
        slope = expit(values) - correct
        penalty = 0.5 * _PENALTY * float(parameters[:-1] @ parameters[:-1])
        gradient = np.append(features.T @ slope + _PENALTY * parameters[:-1], slope.sum())
        return float((np.logaddexp(0, values) - correct * values).sum()) + penalty, gradient

    minimum = minimize(loss, np.zeros(features.shape[1] + 1), jac=True, method="L-BFGS-B")
    return minimum.x[:-1], float(minimum.x[-1])


def _fit_radii(
    confidences: NDArray[np.float64], errors: NDArray[np.float64], positive_dist_threshold: float
) -> NDArray[np.float64]:
    """Return the radius in metres that contains 90 % of the estimates of each confidence, (R,) -> (R,); never rising.

    An estimate of confidence p is correct with probability p, and every wrong estimate has a larger error than every correct
    one. From p = 0.9 on, the radius is therefore the 0.9 / p quantile of the errors of correct estimates, below it the
    (0.9 - p) / (1 - p) quantile of the errors of wrong ones. Quantiles of the estimates with similar confidences would need a
    hundred of them each: with fewer, one wrong estimate in ten makes the radius of confident answers as large as the map.
    """
    is_correct = errors <= positive_dist_threshold
    correct, wrong = np.sort(errors[is_correct]), np.sort(errors[~is_correct])
    largest = float(errors.max())
    radii = [
        _upper_quantile(correct, RADIUS_SHARE / confidence, positive_dist_threshold)
        if confidence >= RADIUS_SHARE
        else _upper_quantile(wrong, (RADIUS_SHARE - confidence) / (1 - confidence), largest)
        for confidence in confidences.tolist()
    ]
    return np.maximum(radii, _LEAST_RADIUS)


def _upper_quantile(errors: NDArray[np.float64], share: float, upper_bound: float) -> float:
    """Return the value that the error of a new estimate does not exceed with probability `share`.

    It is one of the sorted errors, such as the 90th of 99 errors for a share of 0.9, or `upper_bound` if they are too few.
    """
    rank = math.ceil(round(share * (len(errors) + 1), 6))  # rounded, because products such as 0.9 * 110 are slightly too large
    return float(errors[rank - 1]) if rank <= len(errors) else upper_bound
