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
"""The optional cross-image encoder of CricaVPR (arXiv 2402.19231) and D2-VPR: images of a batch attend to each other.

A descriptor then depends on the other images of its batch, so published results with it depend on the batch size and on the
order of the images.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig

from .vision_transformer import FeedForward, SelfAttention
from .weight_initialization import drawn_by, torch_attention_input, torch_attention_output, torch_default


class CrossImageLayer(nn.Module):
    """A post-norm transformer encoder layer, as torch's `nn.TransformerEncoderLayer` computes it."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        size, dropout = config.feature_size, config.cross_image_dropout
        self.attention = SelfAttention(config, size, config.cross_image_num_heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(size, eps=config.cross_image_layer_norm_eps)
        self.mlp = FeedForward(size, config.cross_image_intermediate_size, "gelu", dropout)
        self.norm2 = nn.LayerNorm(size, eps=config.cross_image_layer_norm_eps)
        self.dropout = nn.Dropout(dropout)
        drawn_by(torch_attention_input, self.attention.qkv)
        drawn_by(torch_attention_output, self.attention.proj)
        drawn_by(torch_default, self.mlp.fc1)
        drawn_by(torch_default, self.mlp.fc2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (regions, images, D) to (regions, images, D), attending over the images."""
        features = self.norm1(features + self.dropout(self.attention(features)[0]))
        return self.norm2(features + self.dropout(self.mlp(features)))


class CrossImageEncoder(nn.Module):
    """Layers that attend over the images of the batch, separately for each region."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossImageLayer(config) for _ in range(config.cross_image_num_layers))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map the region features (B, regions, D) to (B, regions, D)."""
        features = features.transpose(0, 1)  # (B, regions, D) -> (regions, B, D)
        for layer in self.layers:
            features = layer(features)
        return features.transpose(0, 1)


__all__ = ["CrossImageEncoder", "CrossImageLayer"]
