# Copyright 2026 The D2-VPR for Hugging Face authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""From tokens to region features without learned positions: a pyramid of cells of the patch grid, as CricaVPR pools
(arXiv 2402.19231, section 3.2).

Shapes: B images, N = H x W patches, D channels, R regions.
"""

import math
from itertools import pairwise

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.generic import maybe_autocast

from .generalized_mean import GeneralizedMean, at_least_float32
from .vision_transformer import GridSize


def cell_edges(cuts: list[float], side: int) -> list[int]:
    """Place cuts, as fractions, on the edges between `side` patches; both ends of the axis are added.

    Raises:
        ValueError: If there are too few patches for every cell to have one.
    """
    edges = [0, *(_round(cut * side) for cut in cuts), side]
    if any(first >= second for first, second in pairwise(edges)):
        raise ValueError(
            f"{side} patches along an axis are too few for {len(cuts) + 1} regions cut at {cuts}: some would be empty. "
            "Use larger images."
        )
    return edges


def _round(value: float) -> int:
    """Round a number >= 0 as Python's `round`, halves to the even number.

    Its operations are those that ONNX and `torch.export.save` have for symbols of a traced graph.
    """
    above = math.trunc(value + 0.5)
    is_half = math.trunc(above - value + 0.5)  # 1 between two whole numbers, otherwise 0
    return above - is_half * (above % 2)


def cell_averaging(region_cuts: list[list[float]], grid_size: GridSize) -> torch.Tensor:
    """Return the matrix (R, N) whose rows average the patches of a cell; level by level, row by row, x fastest."""
    levels = []
    for cuts in region_cuts:
        rows, columns = (_strips(cell_edges(cuts, side), side) for side in grid_size)
        levels.append(torch.einsum("ih,jw->ijhw", rows, columns).flatten(2).flatten(0, 1))
    return torch.cat(levels)


def _strips(edges: list[int], side: int) -> torch.Tensor:
    """Return the matrix (strips, side) whose rows average the positions between two edges."""
    position = torch.arange(side)
    return torch.stack([((first <= position) & (position < second)) / (second - first) for first, second in pairwise(edges)])


class GridAggregator(nn.Module):
    """Pool tokens into a global feature, which is the first token unchanged, and R region features."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.gem = GeneralizedMean(config)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """Map tokens (B, 1 + N, D), laid out on a grid of N patches, to (B, 1 + R, D).

        Raises:
            ValueError: If the grid is too small for the regions.
        """
        averaging = cell_averaging(self.config.region_cuts, grid_size).to(tokens.device, non_blocking=True)
        with maybe_autocast(device_type=tokens.device.type, enabled=False):
            patches = at_least_float32(tokens[:, 1:]).transpose(1, 2)  # (B, N, D) -> (B, D, N)
            pooled = self.gem(patches, averaging).to(tokens.dtype)
        return torch.cat((tokens[:, :1], pooled), dim=1)


__all__ = ["GridAggregator", "cell_averaging", "cell_edges"]
