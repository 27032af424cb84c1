"""The evidence of a photo's neighbours for one position: the group of neighbours near each other that supports it most."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.map_check.positions import MapPositions

MIN_AGREEING = 2  # neighbours that must agree on another position than the photo's own
_BLOCK = 2048  # photos whose neighbours are compared with each other at once
_LEAST = 1e-3  # probability below which evidence counts as none


@dataclass(frozen=True)
class Evidence:
    """The most supported position of each photo, judged by its neighbours alone.

    Attributes:
        members: (N, K) whether each neighbour is in the group that supports it.
        best: (N,) position in the list of neighbours of the group's middle, the neighbour with the most support.
        features: (N, 5) logarithms of the odds of the best and second best member, of the sum of the members' probabilities,
            and of the largest and the sum of the others' probabilities.
    """

    members: NDArray[np.bool_]
    best: NDArray[np.int64]
    features: NDArray[np.float64]


def weigh_evidence(
    positions: MapPositions, neighbours: NDArray[np.int64], probabilities: NDArray[np.float64], radius: float
) -> Evidence:
    """Find the group of neighbours, within `radius` metres of one of them, with the largest sum of probabilities.

    Args:
        positions: Positions of the N photos.
        neighbours: (N, K) the neighbours of each photo.
        probabilities: (N, K) probability that the two photos show one place; it does not depend on the photo's own position.
        radius: Metres.
    """
    members = np.zeros(neighbours.shape, bool)
    best = np.zeros(len(neighbours), np.int64)
    for start in range(0, len(neighbours), _BLOCK):
        part = slice(start, start + _BLOCK)
        rows = neighbours[part]
        is_near = positions.distances(rows[:, :, None], rows[:, None, :]) <= radius  # (B, K, K)
        support = (is_near * probabilities[part][:, None, :]).sum(axis=2)
        best[part] = support.argmax(axis=1)
        members[part] = is_near[np.arange(len(rows)), best[part]]
    inside = np.where(members, probabilities, 0.0)
    outside = np.where(members, 0.0, probabilities)
    ordered = np.sort(inside, axis=1)
    second = ordered[:, -2] if inside.shape[1] > 1 else np.zeros(len(inside))
    columns = (
        _log_odds(ordered[:, -1]),
        _log_odds(second),
        np.log(inside.sum(axis=1) + _LEAST),
        np.log(outside.max(axis=1) + _LEAST),
        np.log(outside.sum(axis=1) + _LEAST),
    )
    return Evidence(members, best, np.column_stack(columns))


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(bounded / (1 - bounded)))
