"""Resampling as products with matrices, whose sizes may be unknown while a graph is made.

torch's `interpolate` does the same; but not every runtime has its bicubic and antialiased forms, or a size that comes with the
input.
"""

import torch

_PADDING = 3  # cells that a cubic kernel may reach beyond an edge


def cubic_matrix(length: torch.Tensor, stored: int, scale: torch.Tensor) -> torch.Tensor:
    """Make the matrix (length, stored + 2 * 3) that resamples a row bicubically, as `interpolate` without antialiasing does.

    Args:
        length: (length,) ones, as many as samples are wanted.
        stored: Values in the row. Three more stand before and behind it, see [`pad_edges`].
        scale: How many stored values apart samples are.
    """
    centres = (_counted(length) + 0.5) * scale - 0.5
    distances = (centres.unsqueeze(1) - torch.arange(-_PADDING, stored + _PADDING)).abs()
    return _cubic(distances, -0.75)


def pad_edges(grid: torch.Tensor) -> torch.Tensor:
    """Repeat the outer values of a grid (1, C, H, W) three times on each side."""
    return torch.nn.functional.pad(grid, [_PADDING] * 4, mode="replicate")


def antialiasing_matrix(length: torch.Tensor, target: int, mode: str) -> torch.Tensor:
    """Make the matrix (target, length) that resizes a row of pixels, as `interpolate(antialias=True)` does.

    Args:
        length: (length,) ones, as many as there are pixels.
        target: How many there will be.
        mode: `"bilinear"` or `"bicubic"`.
    """
    scale = length.sum() / target
    centres = (torch.arange(target) + 0.5) * scale
    distances = (centres.unsqueeze(1) - _counted(length) - 0.5).abs() / scale.clamp(min=1)
    weights = _cubic(distances, -0.5) if mode == "bicubic" else (1 - distances).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def _counted(ones: torch.Tensor) -> torch.Tensor:
    """Number ones: 0, 1, 2, ..."""
    return ones.cumsum(0) - 1


def _cubic(distances: torch.Tensor, slope: float) -> torch.Tensor:
    """Weigh values at distances by Keys' cubic kernel, which ends at 2."""
    near = ((slope + 2) * distances - (slope + 3)) * distances * distances + 1
    far = slope * (((distances - 5) * distances + 8) * distances - 4)
    return torch.where(distances <= 1, near, torch.where(distances < 2, far, torch.zeros_like(far)))
