"""Faster forms of the recovery module and the aggregator: constants computed once, powers by logarithms.

Shapes: B images, N = H x W patches, T = 1 + N tokens, D channels, R regions, P samples over all regions.
"""

from typing import Any

import torch
from torch import nn

from d2vpr_hf.backends.optimized.folding import make_linear
from d2vpr_hf.backends.optimized.fused_linear import Product
from d2vpr_hf.modeling.deformable_aggregation import (
    DeformableAggregator,
    DeformableSampler,
    OffsetGenerator,
    SampleGrid,
    TopDownFusion,
    sample_grid,
)
from d2vpr_hf.modeling.generalized_mean import GeneralizedMean
from d2vpr_hf.modeling.modeling_d2vpr import RecoveryModule
from d2vpr_hf.modeling.vision_transformer import GridSize


class PreparedRecovery(nn.Module):
    """The recovery module with its product in any type, and its normalisation in float32."""

    def __init__(self, recovery: RecoveryModule, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers, self.norm = recovery.layers, recovery.norm
        self.dtype = dtype
        self.projection = Product(make_linear(recovery.projection.weight, recovery.projection.bias)).to(dtype)

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        """Map the 1 + L residual streams (B, T, C) to recovered tokens (B, T, D), in float32."""
        taps = torch.cat([hidden_states[layer].to(self.dtype) for layer in self.layers], dim=-1)
        return self.norm(self.projection(taps).float())


class PreparedAggregator(DeformableAggregator):
    """The aggregator with its constants computed once; sampling positions and pooling are in float32."""

    def __init__(self, aggregator: DeformableAggregator, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)  # the parts are taken from the aggregator
        self.config = aggregator.config
        self.sampler = None if aggregator.sampler is None else PreparedSampler(aggregator.sampler, dtype)
        self.gem = PreparedGeneralizedMean(aggregator.gem)
        self.fusion = None if aggregator.fusion is None else PreparedFusion(aggregator.fusion)
        self.position_encoding = aggregator.position_encoding
        # as buffers: torch.compile(dynamic=True) takes sizes of plain tensors as dynamic, and equal ones as one symbol
        for name, part in sample_grid(self.config.regions, aggregator.gem.p.device)._asdict().items():
            self.register_buffer(name, part, persistent=False)

    def _sample_grid(self, device: torch.device) -> SampleGrid:
        return SampleGrid(*(getattr(self, name) for name in SampleGrid._fields))


class PreparedFusion(TopDownFusion):
    """The fusion with its matrix computed once; a matrix from the CPU's memory could not be part of a CUDA graph."""

    averaging: torch.Tensor

    def __init__(self, fusion: TopDownFusion) -> None:
        nn.Module.__init__(self)
        self.medium = fusion.medium
        self.small_to_medium, self.medium_to_global = fusion.small_to_medium, fusion.medium_to_global
        weight = fusion.small_to_medium.down.weight
        self.register_buffer("averaging", fusion._averaging(weight), persistent=False)

    def _averaging(self, regions: torch.Tensor) -> torch.Tensor:
        return self.averaging


class PreparedSampler(DeformableSampler):
    """The sampler with the largest product of its head in any type."""

    def __init__(self, sampler: DeformableSampler, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.config = sampler.config
        self.offset_generator = PreparedOffsetGenerator(sampler.offset_generator, dtype)


class PreparedOffsetGenerator(OffsetGenerator):
    """The offset head, whose product over all patches may be in half precision; its output is in float32."""

    def __init__(self, head: OffsetGenerator, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        weight, self.dtype = head.global_projection.weight, dtype
        self.global_projection = make_linear(weight, torch.zeros_like(weight[:, 0]))
        self.patch_projection: Any = Product(make_linear(head.patch_projection.weight, head.global_projection.bias)).to(dtype)
        self.output = head.output

    def forward(self, global_feature: torch.Tensor, patches: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """Map (B, D) and (B, N, D) to the offset map (B, 4, H, W) of dx, dy, log sx, log sy."""
        hidden = self.patch_projection(patches.to(self.dtype)) + self.global_projection(global_feature).unsqueeze(1)
        return self.output(nn.functional.relu(hidden)).transpose(1, 2).unflatten(2, grid_size)


class PreparedGeneralizedMean(GeneralizedMean):
    """Generalised-mean pooling; a power is the exponential of a multiple of the logarithm, which takes a third of the time."""

    def __init__(self, gem: GeneralizedMean) -> None:
        nn.Module.__init__(self)
        self.eps, self.p = gem.eps, gem.p

    def forward(self, vectors: torch.Tensor, averaging: torch.Tensor) -> torch.Tensor:
        """Pool (B, D, P) by the means of `averaging` (R, P) into (B, R, D)."""
        powers = (nn.functional.normalize(vectors, dim=1).clamp(min=self.eps).log() * self.p).exp()
        means = (powers @ averaging.T).transpose(1, 2)  # (B, D, P) @ (P, R) -> (B, R, D)
        return (means.log() / self.p).exp()


class GatheringAggregator(PreparedAggregator):
    """The aggregator for a CPU: each sample is a weighted sum of four rows of the patch features, read as stored."""

    def _pool(self, patches: torch.Tensor, grid_size: GridSize, positions: torch.Tensor, grid: SampleGrid) -> torch.Tensor:
        rows, weights = bilinear_neighbours(positions, grid_size)
        rows = rows + patches.shape[1] * torch.arange(len(patches)).view(-1, 1, 1)
        samples = nn.functional.embedding_bag(
            rows.flatten(0, 1), patches.flatten(0, 1), per_sample_weights=weights.flatten(0, 1), mode="sum"
        )
        vectors = nn.functional.normalize(samples.unflatten(0, positions.shape[:2]), dim=2)  # (B * P, D) -> (B, P, D)
        powers = vectors.clamp_(min=self.gem.eps).log_().mul_(self.gem.p).exp_()
        return (grid.averaging @ powers).log_().div_(self.gem.p).exp_()


def bilinear_neighbours(positions: torch.Tensor, grid_size: GridSize) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the four patches (B, P, 4) around positions (B, P, 2) in [0, 1], and their weights (B, P, 4).

    The centres of the outer patches are the edges of the image, as with `align_corners=True`.
    """
    last = torch.tensor((grid_size[1] - 1, grid_size[0] - 1))
    scaled = positions * last
    near = scaled.floor()
    (x, y), (far_x, far_y) = near.long().unbind(-1), torch.minimum(near + 1, last).long().unbind(-1)
    right, down = (scaled - near).unbind(-1)
    upper, lower = y * grid_size[1], far_y * grid_size[1]
    rows = torch.stack((upper + x, upper + far_x, lower + x, lower + far_x), dim=-1)
    weights = torch.stack(((1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down), dim=-1)
    return rows, weights
