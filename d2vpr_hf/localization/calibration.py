"""Calibration: confidences and radii of position estimates, fitted to labelled queries of the user's own map.

A logistic regression (Platt scaling with several features) maps the features of an estimate to the probability that it is
correct, which means within 25 m of the true position. The same queries give the precision at each threshold on the confidence,
and their errors give the radius that contains the true position in 90 % of the cases of each confidence. A calibration consists
of numbers only and is stored as JSON.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from d2vpr_hf.evaluation.confidence import precision_curve
from d2vpr_hf.localization.consensus import FEATURES, NOT_COMPARABLE, NUM_MATCHES, PositionEstimate
from d2vpr_hf.model_info.model_options import DEFAULT_TEST_TIME, TestTime
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres
from d2vpr_hf.places.geometry import comparable_coordinates
from d2vpr_hf.places.place import check_finite_numbers
from d2vpr_hf.utils.value_types import check_types

CALIBRATION_FORMAT_VERSION = 1
_LARGEST = 1e30  # above all weights, means and metres of a calibration
MIN_QUERIES = 50  # with fewer queries, or fewer than 5 correct or wrong ones, probabilities would be guesses
RADIUS_SHARE = 0.9
_MIN_OF_EITHER_KIND = 5
_PENALTY = 1.0  # factor on half the squared weights; keeps them finite for few or linearly separable queries
_CURVE_POINTS = 200
_LEAST_RADIUS = 0.1  # metres
_RADIUS_POINTS = 201  # the radius is stored for the confidences 0, 0.005, ... 1


@dataclass(frozen=True)
class Calibration:
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
        num_matches: Number of matches that an estimate is made from.
        positive_dist_threshold: Metres within which an estimate is correct.
        num_queries: Number of labelled queries.
        num_correct: Number of labelled queries with a correct estimate; `num_right` in the JSON.
        fingerprint: Fingerprint of the model of the index that the similarities come from, or `None`.
        query_fingerprint: Fingerprint of the model of the queries, if it is another one; `None` if it is the same.
        query_model: Name of that model, if it has one.
        features: Names of the F features.
        test_time: Form of the queries that were encoded; see [`ModelOptions`].
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
    num_correct: int = 0
    fingerprint: str | None = None
    query_fingerprint: str | None = None
    query_model: str | None = None
    features: list[str] = field(default_factory=lambda: list(FEATURES))
    test_time: TestTime = DEFAULT_TEST_TIME

    def confidences(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the probability that each estimate is correct, in [0, 1]: features (Q, F) -> (Q,)."""
        standardised = (np.asarray(features, np.float64) - self.means) / self.deviations
        return expit(standardised @ np.array(self.weights) + self.bias)

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

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON values, for [`PlaceIndex.store_calibration`]."""
        values = {"num_right" if name == "num_correct" else name: value for name, value in asdict(self).items()}
        of_pair = ("query_fingerprint", "query_model")  # omitted where there is one model, as before they existed
        stored = {name: value for name, value in values.items() if name not in of_pair or value is not None}
        if self.test_time == DEFAULT_TEST_TIME:
            del stored["test_time"]  # omitted for the usual form, as before it existed
        return {"format_version": CALIBRATION_FORMAT_VERSION} | stored

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a calibration from the values of [`to_dict`].

        Raises:
            ValueError: If the values are damaged, have another format, or belong to features of another version.
        """
        try:
            version = values["format_version"]
            renamed = {"num_correct" if key == "num_right" else key: value for key, value in values.items()}
            del renamed["format_version"]
            calibration = cls(**renamed) if version == CALIBRATION_FORMAT_VERSION else None
            if calibration is not None:
                check_types(calibration)
            is_complete = calibration is None or calibration._is_complete()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The calibration is damaged ({error!r}). Make a new one with `d2vpr calibrate`.") from error
        if calibration is None:
            raise ValueError(
                f"The calibration has format {version}, this package reads format {CALIBRATION_FORMAT_VERSION}. Make a new one "
                "with `d2vpr calibrate`."
            )
        if not is_complete:
            raise ValueError(
                "The calibration is damaged: its columns do not fit each other, or have numbers out of their range. "
                "Make a new one with `d2vpr calibrate`."
            )
        return calibration

    def _is_complete(self) -> bool:
        """Return whether columns that belong together have the same length, and confidences and radii of them are finite."""
        columns = (
            (self.weights, self.means, self.deviations, self.features),
            (self.thresholds, self.precision, self.coverage),
            (self.radius_confidence, self.radius),
        )
        lengths_fit = all(len({len(column) for column in group}) == 1 and group[0] for group in columns)
        if not lengths_fit or self.features != list(FEATURES):
            return False
        numbers = [*self.weights, self.bias, *self.means, *self.deviations, *self.radius]
        return max(map(abs, numbers)) < _LARGEST and min(self.deviations) > 0 and min(self.radius) >= 0


def fit_calibration(
    estimates: Sequence[PositionEstimate],
    truths: Sequence[Place],
    *,
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD,
    num_matches: int = NUM_MATCHES,
    fingerprint: str | None = None,
    test_time: TestTime = DEFAULT_TEST_TIME,
) -> Calibration:
    """Fit a calibration to queries with known positions.

    The share of these queries that are outside the map should be the same as that of the photos to localize.

    Args:
        estimates: Position estimates of Q queries.
        truths: True places of these queries.
        positive_dist_threshold: Metres within which an estimate is correct.
        num_matches: Number of matches that each estimate was made from.
        fingerprint: Fingerprint of the model that the similarities come from.
        test_time: Form of the queries.

    Raises:
        ValueError: If there are too few queries, too few correct or wrong estimates, or positions in a frame that the map
            does not have.
    """
    errors = position_errors(estimates, truths)
    correct = errors <= positive_dist_threshold
    _check_enough(errors, positive_dist_threshold)
    features = np.array([estimate.features for estimate in estimates])
    means, deviations = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-9)
    weights, bias = _fit_logistic((features - means) / deviations, correct)
    confidences = expit((features - means) / deviations @ weights + bias)
    curve = precision_curve(confidences, correct, int(correct.sum()))
    points = np.unique(np.linspace(0, len(curve.thresholds) - 1, _CURVE_POINTS).astype(int))
    radius_confidence = np.linspace(0, 1, _RADIUS_POINTS)
    return Calibration(
        weights=weights.tolist(),
        bias=bias,
        means=means.tolist(),
        deviations=deviations.tolist(),
        thresholds=curve.thresholds[points].tolist(),
        precision=curve.precision[points].tolist(),
        coverage=curve.coverage[points].tolist(),
        radius_confidence=radius_confidence.tolist(),
        radius=_fit_radii(radius_confidence, errors, positive_dist_threshold).tolist(),
        num_matches=num_matches,
        positive_dist_threshold=positive_dist_threshold,
        num_queries=len(correct),
        num_correct=int(correct.sum()),
        fingerprint=fingerprint,
        test_time=test_time,
    )


def position_errors(estimates: Sequence[PositionEstimate], truths: Sequence[Place]) -> NDArray[np.float64]:
    """Return the distance between each estimate and the true position, (Q,) metres.

    An estimate in another frame of the map than the true one, such as another floor's, is `NOT_COMPARABLE` metres off.

    Raises:
        ValueError: If a true place has no position in any frame of the estimates, or numbers that are not finite.
    """
    check_finite_numbers(truths)
    frames_of_map = {frame for estimate in estimates for frame in comparable_coordinates(estimate.place)}
    errors = []
    for estimate, truth in zip(estimates, truths, strict=True):
        error = distance_in_metres(estimate.place, truth)
        if error is None and not frames_of_map & comparable_coordinates(truth).keys():
            raise ValueError(
                f"{truth.path} has no position in {estimate.frame}, the frame of the map. Give queries with positions of "
                "the map's kind: latitude and longitude, UTM with its zone, or the same local frame."
            )
        errors.append(NOT_COMPARABLE if error is None else error)
    return np.array(errors, np.float64)


def _check_enough(errors: NDArray[np.float64], positive_dist_threshold: float) -> None:
    num_correct = int((errors <= positive_dist_threshold).sum())
    advice = _advice(len(errors), num_correct)
    if advice is not None:
        median = f", median error {np.median(errors):.0f} m" if len(errors) else ""
        raise ValueError(
            f"A calibration needs at least {MIN_QUERIES} labelled queries, at least {_MIN_OF_EITHER_KIND} with a position "
            f"correct to {positive_dist_threshold:g} m and at least {_MIN_OF_EITHER_KIND} with a wrong one; "
            f"got {len(errors)} queries, {num_correct} correct{median}. {advice}"
        )


def _advice(count: int, num_correct: int) -> str | None:
    """Return advice for a user with too few queries, or too few correct or wrong ones; `None` if there are enough."""
    if count < MIN_QUERIES:
        return "Add queries with positions, some of them from outside the map."
    if num_correct < _MIN_OF_EITHER_KIND:
        return (
            "Are they from this map's area, and was its model trained? Add queries from inside the map, or give a larger "
            "`positive_dist_threshold`."
        )
    if count - num_correct < _MIN_OF_EITHER_KIND:
        return "Remove queries that are in the index themselves, and add harder ones and some from outside the map."
    return None


def _fit_logistic(features: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
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
    radii = [
        _upper_quantile(correct, RADIUS_SHARE / confidence, positive_dist_threshold)
        if confidence >= RADIUS_SHARE
        else _upper_quantile(wrong, (RADIUS_SHARE - confidence) / (1 - confidence), wrong[-1])
        for confidence in confidences.tolist()
    ]
    return np.maximum(radii, _LEAST_RADIUS)


def _upper_quantile(errors: NDArray[np.float64], share: float, upper_bound: float) -> float:
    """Return the value that the error of a new estimate does not exceed with probability `share`.

    It is one of the sorted errors, such as the 90th of 99 errors for a share of 0.9, or `upper_bound` if they are too few.
    """
    rank = math.ceil(round(share * (len(errors) + 1), 6))  # rounded, because products such as 0.9 * 110 are slightly too large
    return float(errors[rank - 1]) if rank <= len(errors) else upper_bound
