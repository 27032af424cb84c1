"""Resample the tokens of a grid of patches to another grid."""

import functools

import torch

from d2vpr_hf.modeling.vision_transformer import GridSize


def resample_patches(patches: torch.Tensor, grid_size: GridSize, target: GridSize) -> torch.Tensor:
    """Resample patches (B, H * W, D) to another grid, (B, H' * W', D), in float32.

    An axis with fewer cells than before has the mean over the area of each new cell, in which a patch that is partly inside
    counts by its share. An axis with more cells is interpolated linearly between the centres of patches.
    """
    patches = patches.float()
    if grid_size == target:
        return patches
    grid = patches.unflatten(1, grid_size)  # (B, H, W, D)
    rows, columns = (_weights(*sizes).to(patches.device) for sizes in zip(grid_size, target, strict=True))
    return torch.einsum("yh,bhwd,xw->byxd", rows, grid, columns).flatten(1, 2)


@functools.cache
def _weights(source: int, target: int) -> torch.Tensor:
    """Return the weights (target, source) of the cells of an axis in each new cell; each row has the sum 1."""
    if target < source:
        edges = torch.linspace(0, source, target + 1, dtype=torch.float64)
        cells = torch.arange(source, dtype=torch.float64)
        overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
        return (overlap.clamp(min=0) * target / source).float()
    centres = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(0, source - 1)
    distances = (centres[:, None] - torch.arange(source, dtype=torch.float64)).abs()
    return (1 - distances).clamp(min=0).float()
