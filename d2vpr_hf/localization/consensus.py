"""Where matches agree that a photo was taken.

The spread of the matches' positions, weighted by similarity, says how uncertain an answer is: Zaffar et al., "On the estimation
of image-matching uncertainty in visual place recognition", arXiv 2404.00546 (SUE). Here it is one of several features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import Match
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, flat_coordinates
from d2vpr_hf.places.place import with_degrees

NUM_MATCHES = 10  # that are asked for an opinion
FEATURES = ("similarity", "margin", "support", "log_spread", "gap")
_SHARPNESS = 3.0  # the last match weighs exp(-3), 5 %, of the first, whatever similarities a model gives
_SURE_MARGIN = 1.0  # margin where no match disagrees: more than similarities usually differ by


@dataclass(frozen=True)
class PositionEstimate:
    """A position that matches agree on, and how well they do.

    Attributes:
        place: The position, in UTM metres with degrees or in a local frame, and the heading; `path` is empty.
        frame: The flat frame of the position, as [`flat_coordinates`] names it.
        position: Metres in that frame.
        features: (F,) float64, one for each of `FEATURES`: similarity of the best match; how far that of the best match
            elsewhere is below it; weight of the matches that agree, in [0, 1]; logarithm of 1 + the weighted standard deviation
            of all matches' positions in metres (SUE); how far the last match is below the first.
    """

    place: Place
    frame: str
    position: tuple[float, ...]
    features: NDArray[np.float64]


def estimate_position(
    matches: Sequence[Match], num_matches: int = NUM_MATCHES, radius: float = POSITIVE_DIST_THRESHOLD
) -> PositionEstimate | None:
    """Find the position that the top matches of one query agree on.

    Matches weigh by similarity. The one with the most weight within `radius` metres of it wins, and the answer is the weighted
    mean of the positions there. Positions must be in one frame: that of the best match that has any.

    Args:
        matches: Of one query, the nearest first.
        num_matches: How many of them count.
        radius: Metres within which matches mean one place.

    Returns:
        `None` if no match has a position in metres.
    """
    matches = list(matches[:num_matches])
    frame = next((name for match in matches for name in flat_coordinates(match.place)), None)
    if frame is None:
        return None
    placed = [(match, flat_coordinates(match.place)) for match in matches]
    voters = [match for match, frames in placed if frame in frames]
    positions = np.array([frames[frame] for _, frames in placed if frame in frames])
    scores = np.array([match.similarity for match in voters])
    weights = _weights(scores)
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=2)  # (V, V)
    agreeing = apart[np.argmax((apart <= radius) @ weights)] <= radius
    position = np.average(positions[agreeing], axis=0, weights=weights[agreeing])
    best = voters[int(np.flatnonzero(agreeing)[0])].place
    features = _features(scores, weights, positions, agreeing)
    return PositionEstimate(_place_at(position, best), frame, tuple(position.tolist()), features)


def _weights(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weigh matches by how near they come to the best, on the scale of their own scores, to a sum of 1."""
    scale = max(float(scores[0] - scores[-1]), 1e-9)
    weights = np.exp(-_SHARPNESS * (scores[0] - scores) / scale)
    return weights / weights.sum()


def _features(
    scores: NDArray[np.float64], weights: NDArray[np.float64], positions: NDArray[np.float64], agreeing: NDArray[np.bool_]
) -> NDArray[np.float64]:
    best = scores[agreeing].max()
    margin = best - scores[~agreeing].max() if not agreeing.all() else _SURE_MARGIN
    centre = np.average(positions, axis=0, weights=weights)
    spread = math.sqrt(np.average(((positions - centre) ** 2).sum(axis=1), weights=weights))
    return np.array([best, margin, weights[agreeing].sum(), math.log1p(spread), scores[0] - scores[-1]])


def _place_at(position: NDArray[np.float64], best: Place) -> Place:
    """Make the place of a position in the frame, zone and heading of the best match that agrees."""
    if best.is_local:
        x, y, z = position.tolist()
        height = None if best.z is None else z
        return Place("", x=x, y=y, z=height, yaw=best.yaw, frame=best.frame, heading=best.heading)
    east, north = position.tolist()
    return with_degrees(Place("", utm_east=east, utm_north=north, utm_zone=best.utm_zone, heading=best.heading))
