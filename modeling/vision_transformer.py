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
"""The ViT with convolutional adapters that students and teachers share: DINOv2's blocks (arXiv 2304.07193) plus, next to
each MLP, a small convolution over the patch grid.

Shapes: B images, T = 1 + N tokens (the cls token first, then the H x W patches row by row), C channels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .resampling import resample_axis
from .weight_initialization import constant, drawn_by, zeros

GridSize = tuple[int, int]  # (height, width) in patches


class Embeddings(nn.Module):
    """Turn pixels into tokens: patches, the cls token before them, position embeddings added."""

    mask_token: torch.Tensor

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        grid = config.position_grid_size
        self.position_grid_size = grid
        self.position_offset = config.position_embedding_offset
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + grid * grid, config.hidden_size))
        # DINOv2's mask token is never used for place recognition. It is carried along so that checkpoints convert both
        # ways without loss, as a buffer, because an unused parameter breaks distributed training.
        self.register_buffer("mask_token", torch.zeros(1, config.hidden_size))
        self.patch_embeddings = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed `pixel_values` (B, 3, height, width) as tokens (B, T, C)."""
        patches = self.patch_embeddings(pixel_values.to(self.cls_token.dtype))  # (B, C, H, W)
        positions = self.resample_positions((patches.shape[2], patches.shape[3]))
        patches = patches.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, N, C)
        tokens = torch.cat((self.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1)
        return tokens + positions

    def resample_positions(self, grid_size: GridSize) -> torch.Tensor:
        """Return the position embeddings (1, T, C) for a patch grid; on the stored grid they are used as stored."""
        stored, (height, width) = self.position_grid_size, grid_size
        # The published weights were trained with DINOv2's first release, which adds 0.1 to the sides against rounding before
        # it resamples. The stored grid is not resampled: there the scale is 1. It is arithmetic and no condition, because
        # sides may be symbols of a traced graph. It has squares and no abs(), which `torch.export.save` cannot write.
        rows, columns = height - stored, width - stored
        offset = self.position_offset * torch.sym_min(1, rows * rows + columns * columns)
        cls_position, positions = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        grid = positions[0].float().unflatten(0, (stored, stored))  # (1, N, C) -> (H, W, C)
        for side in grid_size:
            grid = resample_axis(grid, side, stored / (side + offset)).transpose(0, 1)  # the other axis is the next
        return torch.cat((cls_position, grid.flatten(0, 1).unsqueeze(0).to(positions.dtype)), dim=1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend step by step, and return the weights (B, heads, T, T) after the values (B, T, heads, C / heads)."""
    weights = query @ key.transpose(2, 3) * scaling
    weights = nn.functional.dropout(weights.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


def unfused_attention_forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
    """Attend step by step in place of a fused kernel, which returns no weights."""
    return eager_attention_forward(*args, **kwargs)[0], None


def attention_function(implementation: str, tokens: torch.Tensor) -> Callable[..., Any]:
    """Look up an attention implementation by transformers' name for it.

    With gradients on the CPU, the fused kernel is replaced by the step-by-step one, which the published code runs: the fused
    kernel rounds differently, which flips ReLUs in the adapters and moves single gradient norms by up to 1e-3.
    """
    if implementation == "sdpa" and tokens.device.type == "cpu" and torch.is_grad_enabled():
        return unfused_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one joint projection, by any implementation of transformers."""

    is_causal = False  # read by transformers' attention functions

    def __init__(self, config: PreTrainedConfig, size: int, num_heads: int, qkv_bias: bool = True, dropout: float = 0.0):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (size // num_heads) ** -0.5
        self.dropout = dropout
        self.qkv = nn.Linear(size, 3 * size, bias=qkv_bias)
        self.proj = nn.Linear(size, size)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend over the second axis of (B, T, C); the weights are None unless the implementation is eager."""
        qkv = self.qkv(hidden_states).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, T, 3, heads, d) -> 3 x (B, heads, T, d)
        attend = attention_function(self.config._attn_implementation, hidden_states)
        dropout = self.dropout if self.training else 0.0
        attended, weights = attend(self, query, key, value, None, dropout=dropout, scaling=self.scaling)
        return self.proj(attended.reshape(hidden_states.shape)), weights


class FeedForward(nn.Module):
    """The MLP of a transformer block."""

    def __init__(self, size: int, hidden_size: int, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, hidden_size)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_size, size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))


class GatedFeedForward(nn.Module):
    """The MLP of a transformer block, gated by SiLU (SwiGLU), as in DINOv2's ViT-g."""

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(size, 2 * hidden_size)
        self.down = nn.Linear(hidden_size, size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., C)."""
        gate, values = self.gate_up(hidden_states).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * values)


def block_mlp(config: PreTrainedConfig) -> nn.Module:
    """Build the MLP of a block."""
    if config.use_swiglu_ffn:
        return GatedFeedForward(config.hidden_size, config.mlp_size)
    return FeedForward(config.hidden_size, config.mlp_size, config.hidden_act)


class LayerScale(nn.Module):
    """One learned factor per channel."""

    def __init__(self, size: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.gamma = nn.Parameter(torch.full((size,), float(value)))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Scale the channels of (..., C)."""
        return hidden_states * self.gamma


class CheckpointSafeBatchNorm(nn.BatchNorm2d):
    """BatchNorm that updates its running statistics once a step, also inside gradient checkpointing.

    Checkpointing runs the forward a second time during the backward pass. The second run works on copies of the
    statistics: passing None instead would change the number of saved tensors, which torch refuses.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    momentum: float

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W)."""
        if not (self.training and inside_backward_pass()):
            return super().forward(features)
        return nn.functional.batch_norm(
            features,
            self.running_mean.clone(),
            self.running_var.clone(),
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )


def inside_backward_pass() -> bool:
    """Return whether a forward runs inside a backward pass, as in gradient checkpointing."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class ConvolutionUnit(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, config: PreTrainedConfig, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.conv = drawn_by(partial(constant, value=config.adapter_conv_init), conv)
        self.norm = CheckpointSafeBatchNorm(
            out_channels, eps=config.adapter_batch_norm_eps, momentum=config.adapter_batch_norm_momentum
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        return nn.functional.relu(self.norm(self.conv(features)))


def adapter_branch(config: PreTrainedConfig, ratio: float, kernel_size: int) -> nn.Sequential:
    """Build one branch of an adapter: a 1x1 unit alone, or one that reduces the channels before a larger kernel."""
    width = config.adapter_size
    out_channels = round(width * ratio)
    if kernel_size == 1:
        return nn.Sequential(ConvolutionUnit(config, width, out_channels, 1))
    reduced = max(1, round(width * config.adapter_reduction_ratio))
    return nn.Sequential(
        ConvolutionUnit(config, width, reduced, 1), ConvolutionUnit(config, reduced, out_channels, kernel_size)
    )


class ConvolutionalAdapter(nn.Module):
    """A bottleneck parallel to the MLP; its middle convolves the patch grid with several kernel sizes."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.down = nn.Linear(config.hidden_size, config.adapter_size)
        self.branches = nn.ModuleList(
            adapter_branch(config, ratio, kernel_size)
            for ratio, kernel_size in zip(config.adapter_branch_ratios, config.adapter_kernel_sizes, strict=True)
        )
        self.up = drawn_by(zeros, nn.Linear(config.adapter_size, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """Map tokens (B, T, C) to tokens (B, T, C); the cls token passes through the bottleneck alone."""
        bottleneck = nn.functional.relu(self.down(hidden_states))
        cls_token, patches = bottleneck[:, :1], bottleneck[:, 1:]
        patches = patches.transpose(1, 2).unflatten(2, grid_size)  # (B, N, C) -> (B, C, H, W)
        features = torch.cat([branch(patches) for branch in self.branches], dim=1)
        features = features.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, N, C)
        return self.up(torch.cat((cls_token, features), dim=1) + bottleneck)


class AdapterBlock(GradientCheckpointingLayer):
    """A pre-norm transformer block with LayerScale and an adapter parallel to its MLP."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.adapter_scale = config.adapter_scale
        self.norm1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config, size, config.num_attention_heads, config.qkv_bias)
        self.layer_scale1 = LayerScale(size, config.layerscale_value)
        self.norm2 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = block_mlp(config)
        self.adapter = ConvolutionalAdapter(config)
        self.layer_scale2 = LayerScale(size, config.layerscale_value)

    def forward(self, hidden_states: torch.Tensor, grid_size: GridSize) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map tokens (B, T, C) to tokens (B, T, C), with the attention weights (B, heads, T, T) or None."""
        attended, weights = self.attention(self.norm1(hidden_states))
        hidden_states = hidden_states + self.layer_scale1(attended)
        normed = self.norm2(hidden_states)
        update = self.mlp(normed) + self.adapter_scale * self.adapter(normed, grid_size)
        return hidden_states + self.layer_scale2(update), weights


class Encoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AdapterBlock(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, hidden_states: torch.Tensor, grid_size: GridSize, output_attentions: bool
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the 1 + L residual streams (B, T, C), input first, and the attention weights, if requested and available."""
        all_hidden_states, attentions = [hidden_states], []
        for layer in self.layers:
            hidden_states, weights = layer(hidden_states, grid_size)
            all_hidden_states.append(hidden_states)
            if output_attentions and weights is not None:
                attentions.append(weights)
        return all_hidden_states, attentions


__all__ = [
    "AdapterBlock",
    "CheckpointSafeBatchNorm",
    "ConvolutionUnit",
    "ConvolutionalAdapter",
    "Embeddings",
    "Encoder",
    "FeedForward",
    "GatedFeedForward",
    "GridSize",
    "LayerScale",
    "SelfAttention",
    "inside_backward_pass",
]
