"""Resampling as products with matrices, whose sizes may depend on the input of a graph.

The results equal those of torch's `interpolate`, whose bicubic and antialiased modes, and sizes that depend on the input, are
missing in some runtimes.
"""

import torch

_PADDING = 3  # cells that a cubic kernel may reach beyond an edge


def cubic_matrix(length: torch.Tensor, stored: int, scale: torch.Tensor) -> torch.Tensor:
    """Make the matrix (length, stored + 2 * 3) that resamples a row bicubically, as `interpolate` without antialiasing does.

    Args:
        length: (length,) ones, one for each sample.
        stored: Number of values in the row, without the three values that [`pad_edges`] adds on each side.
        scale: Distance of two samples, in stored values.
    """
    centres = (_positions(length) + 0.5) * scale - 0.5
    distances = (centres.unsqueeze(1) - torch.arange(-_PADDING, stored + _PADDING)).abs()
    return _cubic(distances, -0.75)


def pad_edges(grid: torch.Tensor) -> torch.Tensor:
    """Repeat the outer values of a grid (1, C, H, W) three times on each side."""
    return torch.nn.functional.pad(grid, [_PADDING] * 4, mode="replicate")


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
    weights = _cubic(distances, -0.5) if mode == "bicubic" else (1 - distances).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def _positions(ones: torch.Tensor) -> torch.Tensor:
    """Return the positions 0, 1, 2, ... of a tensor of ones."""
    return ones.cumsum(0) - 1


def _cubic(distances: torch.Tensor, slope: float) -> torch.Tensor:
    """Return the weights of values at distances, by Keys' cubic kernel, which is 0 from 2 on."""
    near = ((slope + 2) * distances - (slope + 3)) * distances * distances + 1
    far = slope * (((distances - 5) * distances + 8) * distances - 4)
    return torch.where(distances <= 1, near, torch.where(distances < 2, far, torch.zeros_like(far)))
