"""Boxes of the regions that descriptors and tokens are pooled in. This module loads no library."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Box = tuple[float, float, float, float]  # left, top, right and bottom, from 0 to 1

WHOLE_PHOTO: Box = (0.0, 0.0, 1.0, 1.0)
PYRAMID_CUTS = ((1 / 2,), (5 / 16, 11 / 16))  # of CricaVPR: 2 x 2 and 3 x 3 cells


def own_region_boxes(config: Any) -> list[Box] | None:
    """Return the boxes of the regions of a model of this package, the whole photo first; `None` if they are not known."""
    if config.model_type == "cricavpr":
        boxes = pyramid_boxes(config.region_cuts)
    else:
        boxes = [WHOLE_PHOTO, *((box[0], box[1], box[2], box[3]) for box in (region["box"] for region in config.regions))]
    return boxes if len(boxes) == config.num_regions else None


def pyramid_boxes(region_cuts: Sequence[Sequence[float]] = PYRAMID_CUTS) -> list[Box]:
    """Return the boxes of a pyramid of cells: the whole photo, then level by level, row by row, x fastest."""
    boxes = [WHOLE_PHOTO]
    for cuts in region_cuts:
        strips = list(pairwise((0.0, *cuts, 1.0)))
        boxes += [(left, top, right, bottom) for top, bottom in strips for left, right in strips]
    return boxes
