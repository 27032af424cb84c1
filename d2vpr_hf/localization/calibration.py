"""Calibration: confidences and radii of position estimates, fitted to labelled queries of the user's own map.

A logistic regression (Platt scaling with several features) maps the features of an estimate to the probability that it is
correct, which means within 25 m of the true position. The same queries give the precision at each threshold on the confidence,
and their errors give the radius that contains the true position in 90 % of the cases of each confidence. A calibration consists
of numbers only and is stored as JSON.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.localization.confidence_fit import ConfidenceFit, fit_confidences
from d2vpr_hf.localization.consensus import FEATURES, NOT_COMPARABLE, NUM_MATCHES, PositionEstimate
from d2vpr_hf.localization.reranked_fit import RERANKED_FEATURES, RerankedEstimate, RerankedFit, fit_reranked
from d2vpr_hf.model_info.model_options import DEFAULT_TEST_TIME, TestTime
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, distance_in_metres
from d2vpr_hf.places.geometry import comparable_coordinates
from d2vpr_hf.places.place import check_finite_numbers
from d2vpr_hf.reranking.options import Reranking
from d2vpr_hf.utils.value_types import check_types

CALIBRATION_FORMAT_VERSION = 1
PRECISION = 0.95  # default share of correct answers
MIN_QUERIES = 50  # with fewer queries, or fewer than 5 correct or wrong ones, probabilities would be guesses
_MIN_OF_EITHER_KIND = 5


@dataclass(frozen=True)
class Calibration(ConfidenceFit):
    """Parameters that convert features of a position estimate to a confidence and a radius, for one map.

    Attributes:
        num_matches: Number of matches that an estimate is made from.
        positive_dist_threshold: Metres within which an estimate is correct.
        num_queries: Number of labelled queries.
        num_correct: Number of labelled queries with a correct estimate; `num_right` in the JSON.
        fingerprint: Fingerprint of the model of the index that the similarities come from, or `None`.
        query_fingerprint: Fingerprint of the model of the queries, if it is another one; `None` if it is the same.
        query_model: Name of that model, if it has one.
        features: Names of the F features.
        test_time: Form of the queries that were encoded; see [`ModelOptions`].
        reranked: The fit for runs that re-rank matches; `None` if none was made.
    """

    num_matches: int = NUM_MATCHES
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD
    num_queries: int = 0
    num_correct: int = 0
    fingerprint: str | None = None
    query_fingerprint: str | None = None
    query_model: str | None = None
    features: list[str] = field(default_factory=lambda: list(FEATURES))
    test_time: TestTime = DEFAULT_TEST_TIME
    reranked: RerankedFit | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON values, for [`PlaceIndex.store_calibration`]."""
        values = {"num_right" if name == "num_correct" else name: value for name, value in asdict(self).items()}
        later = ("query_fingerprint", "query_model", "reranked")  # omitted where they are not set, as before they existed
        stored = {name: value for name, value in values.items() if name not in later or value is not None}
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
            if renamed.get("reranked") is not None:
                renamed["reranked"] = RerankedFit(**renamed["reranked"])
            calibration = cls(**renamed) if version == CALIBRATION_FORMAT_VERSION else None
            if calibration is not None:
                check_types(calibration)
                if calibration.reranked is not None:
                    check_types(calibration.reranked)
                    calibration.reranked.reranking  # noqa: B018 - it checks the options
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
        if self.features != list(FEATURES) or not self.has_columns_of(FEATURES):
            return False
        fit = self.reranked
        return fit is None or (fit.features == list(RERANKED_FEATURES) and fit.has_columns_of(RERANKED_FEATURES))


def num_matches_of(calibration: Calibration | None) -> int:
    """Return the number of matches that an estimate is made from; the default without a calibration."""
    return NUM_MATCHES if calibration is None else calibration.num_matches


def radius_of(calibration: Calibration | None) -> float:
    """Return the metres within which an estimate is correct; the default without a calibration."""
    return POSITIVE_DIST_THRESHOLD if calibration is None else calibration.positive_dist_threshold


def fit_calibration(
    estimates: Sequence[PositionEstimate],
    truths: Sequence[Place],
    *,
    positive_dist_threshold: float = POSITIVE_DIST_THRESHOLD,
    num_matches: int = NUM_MATCHES,
    fingerprint: str | None = None,
    test_time: TestTime = DEFAULT_TEST_TIME,
    reranked: Sequence[RerankedEstimate] | None = None,
    reranking: Reranking | None = None,
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
        reranked: Position estimates of all queries after re-ranking, for a second fit.
        reranking: The options of this re-ranking.

    Raises:
        ValueError: If there are too few queries, too few correct or wrong estimates, or positions in a frame that the map
            does not have.
    """
    errors = position_errors(estimates, truths)
    correct = errors <= positive_dist_threshold
    _check_enough(errors, positive_dist_threshold)
    features = np.array([estimate.features for estimate in estimates])
    calibration = Calibration(
        **fit_confidences(features, errors, positive_dist_threshold),
        num_matches=num_matches,
        positive_dist_threshold=positive_dist_threshold,
        num_queries=len(correct),
        num_correct=int(correct.sum()),
        fingerprint=fingerprint,
        test_time=test_time,
    )
    if reranked is None or reranking is None:
        return calibration
    fit = fit_reranked(
        (calibration.confidences(features), errors),
        reranked,
        position_errors(reranked, truths),
        positive_dist_threshold,
        reranking,
        calibration.threshold(PRECISION),
    )
    return replace(calibration, reranked=fit)


def position_errors(estimates: Sequence[PositionEstimate | RerankedEstimate], truths: Sequence[Place]) -> NDArray[np.float64]:
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
