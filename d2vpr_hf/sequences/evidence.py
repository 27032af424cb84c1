"""The evidence of one frame: the probability of each state, from its matches and the calibration's confidence.

A calibration gives the probability that a frame's estimate is correct. The rest is divided between the other matches, places of
the map that the search did not return, and "not in the map". The probabilities of a state, divided by its share of the map, are
the emissions of the hidden Markov model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2vpr_hf.index import Match
from d2vpr_hf.localization.calibration import Calibration, num_matches_of, radius_of
from d2vpr_hf.localization.consensus import estimate_position, match_weights
from d2vpr_hf.sequences.hidden_markov import Logs
from d2vpr_hf.sequences.states import Floats, States, state_distances

LEAST_CONFIDENCE = 1e-4  # no single frame is surer than this
_OTHER_MATCHES = 0.5  # probability that a place of the map is among the matches if the estimate is wrong
_UNCALIBRATED = 0.5  # confidence of an estimate without a calibration


@dataclass(frozen=True)
class Evidence:
    """The evidence of a frame.

    Attributes:
        states: The C positions of its matches.
        log_emission: (C,) logarithm of each position's probability by the share of a photo of the map.
        log_unseen: The same of a photo of the map that is not among the matches.
        log_nowhere: The same of "not in the map", or in it without a match.
        confidence: Confidence of the frame's own estimate.
    """

    states: States
    log_emission: Logs
    log_unseen: float
    log_nowhere: float
    confidence: float


def frame_evidence(
    matches: Sequence[Match],
    calibration: Calibration | None,
    num_photos: int,
    outside_share: float,
    num_states: int | None = None,
) -> Evidence | None:
    """Return the evidence of a frame; `None` if no match has a position.

    Args:
        matches: The frame's matches, the most similar first.
        calibration: Calibration of the map; without one, every estimate has the same confidence, and "not in the map" is
            never an answer.
        num_photos: Number of the map's photos with a position.
        outside_share: Share of frames that are outside the map, before the first frame is seen.
        num_states: Number of matches that are states; `None` for all. The estimate is made from as many as the calibration's.
    """
    radius = radius_of(calibration)
    placed = [match for match in matches if match.place.has_position]
    estimate = estimate_position(placed, num_matches_of(calibration), radius)
    if estimate is None:
        return None
    confidence = _UNCALIBRATED
    if calibration is not None:
        confidence = float(np.clip(calibration.confidences(estimate.features[None])[0], LEAST_CONFIDENCE, 1 - LEAST_CONFIDENCE))
    placed = placed[:num_states]
    states = States.of_places([match.place for match in placed])
    agrees = state_distances(states, States.of_places([estimate.place]))[:, 0] <= radius
    agrees[0] |= not agrees.any()
    weights = match_weights(np.array([match.similarity for match in placed]))
    outside = _outside_share(calibration, outside_share)
    outside_if_wrong = outside / max(outside, 1 - _base_rate(calibration, outside_share))
    unsure = (1 - confidence) * (1 - outside_if_wrong)
    probabilities = np.where(agrees, confidence, unsure * _OTHER_MATCHES) * _shares(weights, agrees)
    others = unsure * _OTHER_MATCHES if not agrees.all() else 0.0
    share = (1 - outside) / max(num_photos, 1)  # of one photo of the map
    nowhere = (1 - confidence) * outside_if_wrong + unsure - others
    return Evidence(
        states,
        np.log(probabilities / share),
        float(np.log((unsure - others) / (1 - outside))),
        float(np.log(nowhere / outside)) if calibration is not None else -np.inf,
        confidence,
    )


def repeated_share(matches: Sequence[Match], earlier: Sequence[Match]) -> float:
    """Return the share of a frame's evidence that repeats an earlier frame's, in [0, 1]: the weights of their common matches.

    A camera that stands still sees the same wrong place again and again, which must not make it surer.
    """
    weights, earlier_weights = (
        dict(
            zip(
                (match.row for match in each),
                match_weights(np.array([match.similarity for match in each])).tolist(),
                strict=True,
            )
        )
        for each in (matches, earlier)
    )
    return float(sum(min(weight, earlier_weights.get(row, 0.0)) for row, weight in weights.items()))


def _shares(weights: Floats, agrees: np.ndarray) -> Floats:
    """Return the share of each weight in the sum of its group."""
    sums = np.where(agrees, weights[agrees].sum(), weights[~agrees].sum())
    return np.asarray(weights / sums)


def _base_rate(calibration: Calibration | None, outside_share: float) -> float:
    """Return the share of labelled queries with a correct estimate."""
    if calibration is None or not calibration.num_queries:
        return (1 - outside_share) / 2
    return calibration.num_correct / calibration.num_queries


def _outside_share(calibration: Calibration | None, outside_share: float) -> float:
    """Return the share of frames outside the map; at most that of the wrong estimates of the labelled queries."""
    return float(np.clip(outside_share, 1e-3, max(1e-3, 0.95 * (1 - _base_rate(calibration, outside_share)))))
