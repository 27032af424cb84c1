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
"""Generalised-mean (GeM) pooling of several regions at once."""

import torch
from torch import nn
from transformers import PreTrainedConfig


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Convert half precision to float32: geometry, norms and powers are too inexact in it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class GeneralizedMean(nn.Module):
    """Generalised-mean (GeM) pooling of L2-normalised vectors with one learned exponent (arXiv 1711.02512)."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.initial_p = config.gem_p
        self.eps = config.gem_eps
        self.p = nn.Parameter(torch.full((1,), float(config.gem_p)))

    def forward(self, vectors: torch.Tensor, averaging: torch.Tensor) -> torch.Tensor:
        """Pool (B, D, P) by the means of `averaging` (R, P) into (B, R, D)."""
        p = at_least_float32(self.p)
        powers = nn.functional.normalize(vectors, dim=1).clamp(min=self.eps).pow(p)
        means = averaging.to(powers.dtype) @ powers.transpose(1, 2)
        # a large p makes the powers of small numbers 0, and the root of 0 has an infinite gradient
        return means.clamp(min=torch.finfo(means.dtype).tiny).pow(1 / p)


__all__ = ["GeneralizedMean", "at_least_float32"]
