"""Sampling points of a photo in pixels: the deformed points, the fixed grid from which they were moved, and the regions' boxes.

The model's positions are from 0 to 1 between the centres of the outermost patches (`align_corners=True`), not between the edges
of the photo: for an input of 224 pixels and patches of 14 pixels they correspond to pixels 7 to 217.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf.modeling import D2VPRConfig
from d2vpr_hf.modeling.deformable_aggregation import sample_grid

_ROWS = {2: ("upper", "lower"), 3: ("upper", "middle", "lower")}
_COLUMNS = {2: ("left", "right"), 3: ("left", "centre", "right")}


@dataclass(frozen=True)
class PhotoRegions:
    """Sampling points and boxes of the regions of one photo.

    Attributes:
        size: Height and width of the photo in pixels.
        points: (P, 2) x and y of the sampling points in pixels, x to the right and y down, region by region.
        fixed: (P, 2) sampling points without the model's offsets and scales.
        region: (P,) number of each point's region, from 1; region 0 is the whole photo, which has no points.
        boxes: (1 + R, 4) left, top, right and bottom of each region's points in pixels, the whole photo first.
    """

    size: tuple[int, int]
    points: NDArray[np.float64]
    fixed: NDArray[np.float64]
    region: NDArray[np.int64]
    boxes: NDArray[np.float64]


def locate_regions(
    config: D2VPRConfig, positions: NDArray[np.floating], input_size: tuple[int, int], photo_size: tuple[int, int]
) -> PhotoRegions:
    """Convert the sampling positions of one photo to pixels.

    Args:
        config: Configuration of the model.
        positions: (P, 2) sampling positions in [0, 1] from the model.
        input_size: Height and width of the network's input in pixels.
        photo_size: Height and width of the photo in pixels.
    """
    grid = sample_grid(config.regions, torch.device("cpu"))
    region = np.repeat(np.arange(1, config.num_regions), config.sample_counts)
    points = _to_pixels(positions, config.patch_size, input_size, photo_size)
    fixed = _to_pixels(grid.samples.numpy(), config.patch_size, input_size, photo_size)
    return PhotoRegions(photo_size, points, fixed, region, _boxes(points, region, photo_size))


def region_names(config: D2VPRConfig) -> list[str]:
    """Return readable names of the 1 + R regions: the whole photo, then names such as "upper left quarter"."""
    names = ["whole photo"]
    for level, kind in (("medium", "quarter"), ("small", "ninth")):
        indices = config.region_indices(level)
        side = round(len(indices) ** 0.5)
        regular = side in _ROWS and side * side == len(indices)
        names += [
            f"{_ROWS[side][n // side]} {_COLUMNS[side][n % side]} {kind}" if regular else f"{level} region {n + 1}"
            for n in range(len(indices))
        ]
    return _in_table_order(config.regions, names)


def _in_table_order(regions: Sequence[dict[str, Any]], names: list[str]) -> list[str]:
    """Sort names, of which medium regions come before small ones, in the order of the table of regions."""
    order = sorted(range(len(regions)), key=lambda i: (regions[i]["level"] != "medium", i))
    named = dict(zip(order, names[1:], strict=True))
    return [names[0], *(named[i] for i in range(len(regions)))]


def _to_pixels(
    positions: NDArray[np.floating], patch: int, input_size: tuple[int, int], photo_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Convert (P, 2) positions in [0, 1] between the outermost patch centres to pixels of the photo."""
    inner = np.array(input_size[::-1], np.float64)  # width, height
    return (positions * (inner - patch) + patch / 2) * (np.array(photo_size[::-1]) / inner)


def _boxes(points: NDArray[np.float64], region: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.float64]:
    boxes = [np.array([0, 0, size[1], size[0]], np.float64)]
    for number in range(1, int(region.max()) + 1):
        region_points = points[region == number]
        boxes.append(np.concatenate([region_points.min(axis=0), region_points.max(axis=0)]))
    return np.stack(boxes)
