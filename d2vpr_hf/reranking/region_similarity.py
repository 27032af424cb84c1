"""Similarity of photos by their regions: every region of one photo is compared with every region of the other.

Shapes: R regions of D numbers each, C candidates of a query. Regions are L2-normalised.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.model_info.region_boxes import Box

DISTANCE_PENALTY = 0.4  # for centres that are one side of the photo apart; chosen on a validation city


def position_penalties(boxes: Sequence[Box], distance_penalty: float = DISTANCE_PENALTY) -> NDArray[np.float32]:
    """Return the position prior (R, R): the number that is subtracted from the cosine of two regions.

    Args:
        boxes: Boxes of the R regions, from 0 to 1.
        distance_penalty: Penalty for a distance of the centres of 1, the side of the photo.
    """
    centres = np.array(boxes, np.float64).reshape(-1, 2, 2).mean(axis=1)  # (R, 2 corners, 2) -> (R, 2)
    return np.asarray(distance_penalty * np.linalg.norm(centres[:, None] - centres, axis=2), np.float32)


def split_regions(descriptors: NDArray[np.floating], num_regions: int) -> NDArray[np.float32]:
    """Divide descriptors (N, R * D) into L2-normalised regions (N, R, D); a region of zeros stays."""
    regions = np.asarray(descriptors, np.float32).reshape(len(descriptors), num_regions, -1)
    lengths = np.sqrt(np.einsum("nrd,nrd->nr", regions, regions))
    return np.asarray(regions / np.maximum(lengths, 1e-12)[..., None], np.float32)


def region_values(
    query: NDArray[np.float32], candidates: NDArray[np.float32], penalties: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the value of each region (C, R) for a query and its candidates; their weighted mean is the region similarity.

    The value of region r is the largest cosine, less the penalty, of the query's region r with a region of the candidate,
    averaged with that of the candidate's region r with a region of the query. Equal photos have values of 1.

    Args:
        query: Regions (R, D) of the query.
        candidates: Regions (C, R, D) of the candidates.
        penalties: Position prior (R, R).
    """
    count, num_regions, width = candidates.shape
    cosines = candidates.reshape(-1, width) @ query.T  # (C * R, D) @ (D, R)
    values = cosines.reshape(count, num_regions, num_regions) - penalties
    return np.asarray((values.max(axis=1) + values.max(axis=2)) / 2, np.float32)
