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
"""From tokens to region features: the Top-Down-attention-based Deformable Aggregator (TDDA) of D2-VPR (arXiv 2511.12528,
section 3).

Shapes: B images, N = H x W patches, D channels, R regions, P samples over all regions, x to the right and y down in [0, 1].
All regions share one offset map and one feature map, so everything is done once over all P points.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.generic import maybe_autocast

from .aggregation import Aggregator, AggregatorOutput
from .generalized_mean import GeneralizedMean, at_least_float32
from .vision_transformer import GridSize
from .weight_initialization import drawn_by, torch_default


class SampleGrid(NamedTuple):
    """Positions of the regions' samples before deformation.

    Attributes:
        samples (`torch.Tensor` of shape (P, 2)): x and y of each sample.
        centres (`torch.Tensor` of shape (P, 2)): x and y of the centre of each sample's region.
        sizes (`torch.Tensor` of shape (P, 2)): Width and height of each sample's region.
        averaging (`torch.Tensor` of shape (R, P)): Row r times per-sample values is their mean over region r.
        members (`torch.Tensor` of shape (R, largest sample count)): Sample indices of each region, the first one repeated
            to fill a row.
    """

    samples: torch.Tensor
    centres: torch.Tensor
    sizes: torch.Tensor
    averaging: torch.Tensor
    members: torch.Tensor


def sample_grid(regions: list[dict[str, Any]], device: torch.device) -> SampleGrid:
    """Lay out the samples of a regions table, region by region and row by row, both edges included.

    Computed in each forward: a buffer would be rounded by `dtype=torch.bfloat16` and lost by loading on the meta device.
    """
    counts = [region["rows"] * region["columns"] for region in regions]
    owner = torch.tensor([index for index, count in enumerate(counts) for _ in range(count)])  # region of each sample
    starts = torch.tensor([sum(counts[:index]) for index in range(len(counts))])
    boxes = torch.tensor([region["box"] for region in regions], dtype=torch.float64)[owner]
    sides = torch.tensor([[region["columns"], region["rows"]] for region in regions])[owner]
    number = torch.arange(len(owner)) - starts[owner]  # of a sample within its region
    steps = torch.stack((number % sides[:, 0], number // sides[:, 0]), dim=1) / (sides - 1)  # x and y, from 0 to 1
    corners, sizes = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    points = (part.float() for part in (corners + sizes * steps, corners + sizes / 2, sizes, _averaging(owner, counts)))
    return SampleGrid(*(part.to(device, non_blocking=True) for part in (*points, _members(starts, counts))))


def _averaging(owner: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the matrix (R, P) whose rows average the samples of a region."""
    return (owner == torch.arange(len(counts)).unsqueeze(1)) / torch.tensor(counts).unsqueeze(1)


def _members(starts: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the sample indices of each region as a row, filled up with the region's first sample."""
    column = torch.arange(max(counts))
    return starts.unsqueeze(1) + column * (column < torch.tensor(counts).unsqueeze(1))


def sample_map(features: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Read a map (B, D, H, W) bilinearly at [-1, 1] coordinates (B, P, 2), x first, as (B, D, P)."""
    return nn.functional.grid_sample(
        features, grid.unsqueeze(2), mode="bilinear", padding_mode="border", align_corners=True
    ).squeeze(3)


class OffsetGenerator(nn.Module):
    """The offset head: two 1x1 convolutions over [patch feature, global feature].

    The half of the first one that acts on the global feature is the same for all patches, so it is computed once an image.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        size, hidden_size = config.feature_size, config.offset_hidden_size
        half = partial(torch_default, fan_in=2 * size)  # the two halves are one layer over both features
        self.patch_projection = drawn_by(half, nn.Linear(size, hidden_size, bias=False))
        self.global_projection = drawn_by(half, nn.Linear(size, hidden_size))
        self.output = drawn_by(torch_default, nn.Linear(hidden_size, 4))

    def forward(self, global_feature: torch.Tensor, patches: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """Map (B, D) and (B, N, D) to the offset map (B, 4, H, W) of dx, dy, log sx, log sy."""
        hidden = self.patch_projection(patches) + self.global_projection(global_feature).unsqueeze(1)
        return self.output(nn.functional.relu(hidden)).transpose(1, 2).unflatten(2, grid_size)


class DeformableSampler(nn.Module):
    """Move every sample by the offset and the scale read from the offset map (step 1 to 3 of TDDA)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.offset_generator = OffsetGenerator(config)

    def forward(
        self, global_feature: torch.Tensor, patches: torch.Tensor, grid_size: GridSize, grid: SampleGrid
    ) -> torch.Tensor:
        """Return the sampling positions (B, P, 2) in [0, 1]."""
        offset_map = at_least_float32(self.offset_generator(global_feature, patches, grid_size))
        values = self._read_offsets(offset_map, grid.samples).transpose(1, 2)  # (B, 4, P) -> (B, P, 4)
        spread = grid.samples - grid.centres
        if self.config.use_scales:
            smallest, largest = self.config.scale_range
            spread = spread * (smallest + (largest - smallest) * values[..., 2:].sigmoid())
        positions = grid.centres + spread
        if self.config.use_offsets:
            limit = self.config.offset_limit
            positions = positions + values[..., :2].clamp(-limit, limit) * grid.sizes
        return positions.expand(patches.shape[0], -1, -1).clamp(0, 1)

    def _read_offsets(self, offset_map: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        # The published code passes [0, 1] coordinates to grid_sample, which expects [-1, 1]. Its weights were
        # trained that way: only the lower right quarter of the map is ever read.
        coordinates = samples if self.config.published_offset_sampling else 2 * samples - 1
        coordinates = coordinates.to(offset_map.dtype).expand(offset_map.shape[0], -1, -1)
        return sample_map(offset_map, coordinates)


class FusionPath(nn.Module):
    """The MLP that carries features one level up."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.down = drawn_by(torch_default, nn.Linear(config.feature_size, config.fusion_hidden_size))
        self.norm = nn.LayerNorm(config.fusion_hidden_size, eps=config.fusion_layer_norm_eps)
        self.dropout = nn.Dropout(config.fusion_dropout)
        self.up = drawn_by(torch_default, nn.Linear(config.fusion_hidden_size, config.feature_size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., D)."""
        return self.up(self.dropout(nn.functional.gelu(self.norm(self.down(features)))))


class TopDownFusion(nn.Module):
    """Enhance the global feature by the medium regions, which are enhanced by the small ones (step 6 of TDDA)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.medium = config.region_indices("medium")
        self.neighbour_weights = self._neighbour_weights(config)
        self.small_to_medium = FusionPath(config)
        self.medium_to_global = FusionPath(config)

    def _neighbour_weights(self, config: PreTrainedConfig) -> list[list[float]]:
        """Return the matrix (medium regions, R) whose rows average the small regions that overlap a medium one."""
        neighbours = [config.overlapping_small_regions(index) for index in self.medium]
        return [[(i in row) / len(row) for i in range(config.num_regions - 1)] for row in neighbours]

    def forward(self, global_feature: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Return the enhanced global feature (B, D), from (B, D) and the region features (B, R, D)."""
        medium = torch.stack([regions[:, index] for index in self.medium], dim=1)
        medium = medium + self.small_to_medium(self._averaging(regions) @ regions)
        return global_feature + self.medium_to_global(medium.mean(dim=1))

    def _averaging(self, regions: torch.Tensor) -> torch.Tensor:
        """Return the matrix of `neighbour_weights`, on the device and in the type of the region features."""
        return torch.tensor(self.neighbour_weights, dtype=regions.dtype).to(regions.device, non_blocking=True)


class RegionPositionEncoding(nn.Module):
    """Encode the position and the spread of a region's samples (step 7 of TDDA)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        hidden_size = config.position_encoding_hidden_size
        self.fc1 = drawn_by(torch_default, nn.Linear(4, hidden_size))
        self.fc2 = drawn_by(torch_default, nn.Linear(hidden_size, config.feature_size))

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        """Map boxes (B, 1 + R, 4) to encodings (B, 1 + R, D)."""
        return self.fc2(nn.functional.relu(self.fc1(boxes)))


def region_boxes(positions: torch.Tensor, grid: SampleGrid) -> torch.Tensor:
    """Summarise positions (B, P, 2) as one box per region, the whole image first.

    Returns:
        `torch.Tensor` of shape (B, 1 + R, 4): mean x, mean y, extent in x, extent in y; (0.5, 0.5, 1, 1) for the image.
    """
    means = grid.averaging.to(positions.dtype) @ positions  # (R, P) @ (B, P, 2) -> (B, R, 2)
    members = positions[:, grid.members]  # (B, R, largest sample count, 2)
    # max, not amax: where two samples tie, amax halves the gradient between them
    extents = members.max(dim=2, keepdim=True).values - members.min(dim=2, keepdim=True).values  # kept: XNNPACK needs it
    regions = torch.cat((means, extents.squeeze(2)), dim=-1)
    whole = torch.cat((torch.full_like(regions[:, :1, :2], 0.5), torch.ones_like(regions[:, :1, 2:])), dim=-1)
    return torch.cat((whole, regions), dim=1)


class DeformableAggregator(Aggregator):
    """Pool tokens into a global and R region features at learned positions (TDDA)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.sampler = DeformableSampler(config) if config.use_offsets or config.use_scales else None
        self.gem = GeneralizedMean(config)
        self.fusion = TopDownFusion(config) if config.use_top_down_fusion else None
        self.position_encoding = RegionPositionEncoding(config) if config.use_position_encoding else None

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> AggregatorOutput:
        """Aggregate tokens (B, 1 + N, D), the global feature first, laid out on a grid of N patches."""
        global_feature, patches = tokens[:, 0], tokens[:, 1:]
        grid = self._sample_grid(tokens.device)
        positions = self._positions(global_feature, patches, grid_size, grid)
        with maybe_autocast(device_type=tokens.device.type, enabled=False):
            pooled = self._pool(at_least_float32(patches), grid_size, positions, grid).to(patches.dtype)
            boxes = region_boxes(positions, grid)
        if self.fusion is not None:
            global_feature = self.fusion(global_feature, pooled)
        features = torch.cat((global_feature.unsqueeze(1), pooled), dim=1)
        if self.position_encoding is not None:
            # not in the type of the weights, which is an integer in quantised layers
            features = features + self.position_encoding(boxes.to(features.dtype))
        return AggregatorOutput(features, positions, boxes)

    def _sample_grid(self, device: torch.device) -> SampleGrid:
        return sample_grid(self.config.regions, device)

    def _positions(
        self, global_feature: torch.Tensor, patches: torch.Tensor, grid_size: GridSize, grid: SampleGrid
    ) -> torch.Tensor:
        if self.sampler is None:
            return grid.samples.expand(patches.shape[0], -1, -1)
        return self.sampler(global_feature, patches, grid_size, grid)

    def _pool(self, patches: torch.Tensor, grid_size: GridSize, positions: torch.Tensor, grid: SampleGrid) -> torch.Tensor:
        features = patches.transpose(1, 2).unflatten(2, grid_size)  # (B, N, D) -> (B, D, H, W)
        return self.gem(sample_map(features, (2 * positions - 1).to(features.dtype)), grid.averaging)


__all__ = ["DeformableAggregator"]
