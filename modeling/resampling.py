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
"""Bicubic resampling of a grid to sizes that may be symbols of a traced graph, which torch's `interpolate` would fix.

The numbers are those of `interpolate` with a scale, `align_corners=False` and no antialiasing.
"""

import torch

_SLOPE = -0.75  # of torch's cubic kernel at a distance of 1


def resample_axis(grid: torch.Tensor, length: int, scale: float) -> torch.Tensor:
    """Resample the first axis of a grid (S, ...) to a length, as (length, ...); values repeat beyond the edges.

    Each sample is a sum of four values and no matrix product, so that TF32 and autocast do not round it, and samples at stored
    positions are the stored values.

    Args:
        grid: Values at the positions 0, 1, 2, ...
        length: Number of samples.
        scale: Distance of two samples; the first one is at `scale / 2 - 0.5`.
    """
    centres = (torch.arange(length, dtype=torch.float32, device=grid.device) + 0.5) * scale - 0.5
    near = centres.floor().unsqueeze(1) + torch.arange(-1, 3, device=grid.device)  # (length, 4)
    weights = cubic_kernel((centres.unsqueeze(1) - near).abs(), _SLOPE)
    values = grid.index_select(0, near.clamp(0, grid.shape[0] - 1).long().flatten()).unflatten(0, (length, 4))
    return (values * weights.view(length, 4, *[1] * (grid.ndim - 1))).sum(dim=1)


def cubic_kernel(distances: torch.Tensor, slope: float) -> torch.Tensor:
    """Return the weights of values at distances, by Keys' cubic kernel, which is 0 from 2 on."""
    near = ((slope + 2) * distances - (slope + 3)) * distances * distances + 1
    far = slope * (((distances - 5) * distances + 8) * distances - 4)
    return torch.where(distances <= 1, near, torch.where(distances < 2, far, torch.zeros_like(far)))


__all__ = ["cubic_kernel", "resample_axis"]
