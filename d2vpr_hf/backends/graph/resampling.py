"""Resizing as products with matrices, whose sizes may depend on the input of a graph.

The results equal those of torch's `interpolate`, whose antialiased modes, and sizes that depend on the input, are missing in
some runtimes.
"""

import torch

from d2vpr_hf.modeling.resampling import cubic_kernel


def antialiasing_matrix(length: torch.Tensor, target: int, mode: str) -> torch.Tensor:
    """Make the matrix (target, length) that resizes a row of pixels, as `interpolate(antialias=True)` does.

    Args:
        length: (length,) ones, one for each pixel of the row.
        target: Number of pixels after resizing.
        mode: `"bilinear"` or `"bicubic"`.
    """
    scale = length.sum() / target
    centres = (torch.arange(target) + 0.5) * scale
    distances = (centres.unsqueeze(1) - _positions(length) - 0.5).abs() / scale.clamp(min=1)
    weights = cubic_kernel(distances, -0.5) if mode == "bicubic" else (1 - distances).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def _positions(ones: torch.Tensor) -> torch.Tensor:
    """Return the positions 0, 1, 2, ... of a tensor of ones."""
    return ones.cumsum(0) - 1
