"""Consensus: the position that most matches of a photo agree on.

One of its features is the spread of the matches' positions, weighted by similarity, which measures the uncertainty of a
position: Zaffar et al., "On the estimation of image-matching uncertainty in visual place recognition", arXiv 2404.00546 (SUE).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.index import Match
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, flat_coordinates
from d2vpr_hf.places.place import with_degrees

NUM_MATCHES = 10  # matches that vote
FEATURES = ("similarity", "margin", "support", "log_spread", "gap")
_SHARPNESS = 3.0  # the last match has exp(-3), 5 %, of the first one's weight, for similarities of any scale
_SURE_MARGIN = 1.0  # margin if all matches agree: larger than usual differences of similarities


@dataclass(frozen=True)
class PositionEstimate:
    """The position that most matches agree on, with features of their agreement.

    Attributes:
        place: The position, in UTM metres with degrees or in a local frame, and the heading; `path` is empty.
        frame: Name of the position's flat frame, from [`flat_coordinates`].
        position: Coordinates in this frame, metres.
        features: (F,) float64 values of `FEATURES`: similarity of the best agreeing match; its margin over the best match
            elsewhere; weight of the agreeing matches, in [0, 1]; logarithm of 1 + the weighted standard deviation of all
            matches' positions in metres (SUE); gap between the similarities of the first and the last match.
    """

    place: Place
    frame: str
    position: tuple[float, ...]
    features: NDArray[np.float64]


def estimate_position(
    matches: Sequence[Match], num_matches: int = NUM_MATCHES, radius: float = POSITIVE_DIST_THRESHOLD
) -> PositionEstimate | None:
    """Estimate the position that most top matches of one query agree on.

    Each match has a weight that follows from its similarity. The match with the largest total weight within `radius` metres
    wins, and the estimate is the weighted mean of the positions there. Only matches in the frame of the best match with a
    position are used.

    Args:
        matches: Matches of one query, the most similar first.
        num_matches: Number of matches that vote.
        radius: Metres within which matches agree.

    Returns:
        The estimate; `None` if no match has a position in metres.
    """
    matches = list(matches[:num_matches])
    frame = next((name for match in matches for name in flat_coordinates(match.place)), None)
    if frame is None:
        return None
    placed = [(match, flat_coordinates(match.place)) for match in matches]
    voters = [match for match, frames in placed if frame in frames]
    positions = np.array([frames[frame] for _, frames in placed if frame in frames])
    similarities = np.array([match.similarity for match in voters])
    weights = _weights(similarities)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)  # (V, V) between voters
    agreeing = distances[np.argmax((distances <= radius) @ weights)] <= radius
    position = np.average(positions[agreeing], axis=0, weights=weights[agreeing])
    best = voters[int(np.flatnonzero(agreeing)[0])].place
    features = _features(similarities, weights, positions, agreeing)
    return PositionEstimate(_place_at(position, best), frame, tuple(position.tolist()), features)


def _weights(similarities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of sum 1 that fall with the distance to the best similarity, relative to the range of similarities."""
    scale = max(float(similarities[0] - similarities[-1]), 1e-9)
    weights = np.exp(-_SHARPNESS * (similarities[0] - similarities) / scale)
    return weights / weights.sum()


def _features(
    similarities: NDArray[np.float64],
    weights: NDArray[np.float64],
    positions: NDArray[np.float64],
    agreeing: NDArray[np.bool_],
) -> NDArray[np.float64]:
    best = similarities[agreeing].max()
    margin = best - similarities[~agreeing].max() if not agreeing.all() else _SURE_MARGIN
    centre = np.average(positions, axis=0, weights=weights)
    spread = math.sqrt(np.average(((positions - centre) ** 2).sum(axis=1), weights=weights))
    return np.array([best, margin, weights[agreeing].sum(), math.log1p(spread), similarities[0] - similarities[-1]])


def _place_at(position: NDArray[np.float64], best: Place) -> Place:
    """Return the place of a position, with the frame or zone and the heading of the best agreeing match."""
    if best.is_local:
        x, y, z = position.tolist()
        height = None if best.z is None else z
        return Place("", x=x, y=y, z=height, yaw=best.yaw, frame=best.frame, heading=best.heading)
    east, north = position.tolist()
    return with_degrees(Place("", utm_east=east, utm_north=north, utm_zone=best.utm_zone, heading=best.heading))
