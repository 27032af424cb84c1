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
"""The contract of the student's aggregators. aggregators.py is their table."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig

from .vision_transformer import GridSize


class AggregatorOutput(NamedTuple):
    """Output of an aggregator: B images, 1 + R features of D channels.

    Attributes:
        region_features (`torch.Tensor` of shape (B, 1 + R, D)): The global feature, then the regions' ones.
        sampling_positions (`torch.Tensor` of shape (B, P, 2)): x and y in [0, 1], float32 or wider; `None` for an aggregator
            that does not sample.
        region_boxes (`torch.Tensor` of shape (B, 1 + R, 4)): Mean x, mean y, width and height of each region's samples, the
            whole image first; `None` for an aggregator that does not sample.
    """

    region_features: torch.Tensor
    sampling_positions: torch.Tensor | None = None
    region_boxes: torch.Tensor | None = None


class Aggregator(nn.Module):
    """Base of the student's aggregators: pool tokens into one global and R region features.

    Args:
        config: The model's configuration, with the fields of the aggregator.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config

    @staticmethod
    def num_features(config: PreTrainedConfig) -> int:
        """Return 1 + R, the number of features that an aggregator of this configuration makes."""
        return 1 + len(config.regions)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> AggregatorOutput:
        """Aggregate tokens (B, 1 + N, D), the global feature first, laid out on a grid of N patches."""
        raise NotImplementedError


__all__ = ["Aggregator", "AggregatorOutput"]
