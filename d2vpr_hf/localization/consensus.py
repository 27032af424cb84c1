"""Consensus: the position that most matches of a photo agree on.

One of its features is the spread of the matches' positions, weighted by similarity, which measures the uncertainty of a
position: Zaffar et al., "On the estimation of image-matching uncertainty in visual place recognition", arXiv 2404.00546 (SUE).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import utm
from numpy.typing import NDArray

from d2vpr_hf.index import Match
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, Place, flat_coordinates
from d2vpr_hf.places.geometry import EARTH, FramePoints, distances_in_frames, earth_degrees, frame_points
from d2vpr_hf.places.place import EARTH_RADIUS, LOCAL_FRAME, place_zone, with_utm
from d2vpr_hf.places.utm_zones import zone_text

NUM_MATCHES = 10  # matches that vote
FEATURES = ("similarity", "margin", "support", "log_spread", "gap")
NOT_COMPARABLE = math.pi * EARTH_RADIUS  # metres; distance of places without a common frame: that of two antipodes
_SHARPNESS = 3.0  # the last match has exp(-3), 5 %, of the first one's weight, for similarities of any scale
_SURE_MARGIN = 1.0  # margin if all matches agree: larger than usual differences of similarities


@dataclass(frozen=True)
class PositionEstimate:
    """The position that most matches agree on, with features of their agreement.

    Attributes:
        place: The position, in degrees with UTM metres or in a local frame, and the heading; `path` is empty.
        frame: Name of the position's flat frame, from [`flat_coordinates`]; `"the Earth"` near the poles, where UTM ends.
        position: Coordinates in this frame, metres; latitude and longitude near the poles.
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
    wins, and the estimate is the weighted mean of the positions there. Positions with degrees are compared on the sphere, in
    whichever UTM zone they are. Matches without a common frame, such as those of two local frames, disagree.

    Args:
        matches: Matches of one query, the most similar first; re-ranked ones vote by their fused similarities.
        num_matches: Number of matches that vote.
        radius: Metres within which matches agree.

    Returns:
        The estimate; `None` if no match has a position.

    Raises:
        ValueError: If the UTM zone of a match does not exist; the message names its photo.
    """
    places = [match.place for match in matches[:num_matches]]
    frames = _needed_frames(frame_points(places))
    if not frames:
        return None
    distances = distances_in_frames(frames, len(places))
    rows = np.flatnonzero(np.isfinite(distances.diagonal()))  # matches with a position
    if len(rows) < len(places):
        distances = distances[np.ix_(rows, rows)]  # (V, V) between voters
    similarities = np.array([matches[row].ordering_similarity for row in rows.tolist()])
    weights = match_weights(similarities)
    agreeing = _find_majority(distances, weights, radius)
    place = mean_place(places, frames, rows[agreeing], weights[agreeing])
    frame, position = next(iter(flat_coordinates(place).items()), (EARTH, (place.latitude or 0.0, place.longitude or 0.0)))
    return PositionEstimate(place, frame, position, _features(similarities, weights, distances, agreeing))


def _needed_frames(frames: FramePoints) -> FramePoints:
    """Return the frames without zones whose places all have degrees, which are compared on the sphere."""
    if EARTH not in frames:
        return frames
    on_earth = set(frames[EARTH][0].tolist())
    return {
        name: points
        for name, points in frames.items()
        if name == EARTH or name.startswith(LOCAL_FRAME) or not on_earth.issuperset(points[0].tolist())
    }


def _find_majority(distances: NDArray[np.float64], weights: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Return the voters (V,) near the one with the largest weight within `radius`; of equal ones, the tightest group."""
    is_near = distances <= radius
    support = is_near @ weights
    spread = np.square(np.where(is_near, distances, 0.0)) @ weights
    is_largest = support >= support.max() * (1 - 1e-9)  # sums of equal weights differ by rounding
    return np.asarray(is_near[np.argmin(np.where(is_largest, spread, np.inf))])


def match_weights(similarities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of sum 1 that fall with the distance to the best similarity, relative to the range of similarities."""
    scale = max(float(similarities[0] - similarities[-1]), 1e-9)
    weights = np.exp(-_SHARPNESS * (similarities[0] - similarities) / scale)
    return weights / weights.sum()


def _features(
    similarities: NDArray[np.float64],
    weights: NDArray[np.float64],
    distances: NDArray[np.float64],
    agreeing: NDArray[np.bool_],
) -> NDArray[np.float64]:
    best = similarities[agreeing].max()
    margin = best - similarities[~agreeing].max() if not agreeing.all() else _SURE_MARGIN
    # in a plane, half the mean squared distance of pairs is the variance around the centre
    spread = math.sqrt(weights @ np.minimum(distances, NOT_COMPARABLE) ** 2 @ weights / 2)
    return np.array([best, margin, weights[agreeing].sum(), math.log1p(spread), similarities[0] - similarities[-1]])


def mean_place(places: Sequence[Place], frames: FramePoints, rows: NDArray[np.int64], weights: NDArray[np.float64]) -> Place:
    """Return the weighted mean of the places of some rows, with the frame or zone and the heading of the best of them.

    Of several frames, the one with the largest weight counts, and of equal ones the preferred one. The mean has local
    coordinates and degrees if all places of that frame have both.
    """
    weight_of_row = np.zeros(len(places))
    weight_of_row[rows] = weights
    totals = {frame: float(weight_of_row[frame_rows].sum()) for frame, (frame_rows, _) in frames.items()}
    frame = next(name for name, total in totals.items() if total >= max(totals.values()) * (1 - 1e-9))
    is_used = np.zeros(len(places), bool)
    is_used[frames[frame][0]] = True
    is_used &= weight_of_row > 0
    used_weights = weight_of_row[is_used]
    used = [places[row] for row in np.flatnonzero(is_used).tolist()]
    mean = Place("", heading=used[0].heading)
    for name, (frame_rows, points) in frames.items():
        used_points = points[is_used[frame_rows]]
        if len(used_points) < len(used):
            continue  # not all of them have a position in this frame
        if name == EARTH:
            mean = _with_mean_degrees(mean, used_points, used_weights)
        elif name.startswith(LOCAL_FRAME):
            mean = _with_mean_of_local_frame(mean, used_points, used_weights, used[0])
    return _with_mean_metres(mean, used, used_weights)


def _with_mean_degrees(mean: Place, vectors: NDArray[np.float64], weights: NDArray[np.float64]) -> Place:
    """Add the direction of the mean vector; the first vector's, if the vectors are all around the Earth."""
    vector = weights @ vectors
    is_direction = np.linalg.norm(vector) > 1e-6 * weights.sum() * EARTH_RADIUS
    latitude, longitude = earth_degrees(vector if is_direction else vectors[0])
    return replace(mean, latitude=latitude, longitude=longitude)


def _with_mean_of_local_frame(mean: Place, points: NDArray[np.float64], weights: NDArray[np.float64], best: Place) -> Place:
    x, y = _mean(points[:, :2], weights).tolist()
    has_height = ~np.isnan(points[:, 2])
    height = float(np.average(points[has_height, 2], weights=weights[has_height])) if has_height.any() else None
    return replace(mean, x=x, y=y, z=height, yaw=best.yaw, frame=best.frame)


def _mean(points: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted mean (2,) of points (V, 2), as the slower `np.average` does."""
    return np.asarray((points * weights[:, None]).sum(axis=0) / weights.sum())


def _with_mean_metres(mean: Place, places: Sequence[Place], weights: NDArray[np.float64]) -> Place:
    """Add UTM metres: the mean of metres in a common zone, otherwise those of the mean degrees in the best place's zone."""
    best = places[0]
    metres = [(place.utm_east, place.utm_north) for place in places]
    zones = {str(place_zone(place)) for place in places}
    if len(zones) == 1 and not any(None in pair for pair in metres):
        east, north = _mean(np.array(metres, np.float64), weights).tolist()
        return replace(mean, utm_east=east, utm_north=north, utm_zone=best.utm_zone)
    zone = place_zone(best)
    if zone is None or mean.latitude is None or not -80 <= mean.latitude <= 84:
        return with_utm(mean)
    east, north, _, _ = utm.from_latlon(mean.latitude, mean.longitude, zone.number, force_northern=zone.is_north)
    return replace(mean, utm_east=float(east), utm_north=float(north), utm_zone=zone_text(zone, mean.latitude))
