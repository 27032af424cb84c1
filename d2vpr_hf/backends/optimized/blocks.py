"""Faster forms of the ViT's blocks and embeddings: the same numbers by fewer and larger operations.

Shapes: B images, T = 1 + N tokens (the cls token first, then the H x W patches row by row), C channels. Products are in the
type of the weights; the residual stream and the normalisations stay in float32.
"""

from typing import Any

import torch
from torch import nn

from d2vpr_hf.backends.optimized.folding import (
    fold_batch_norm,
    join_pointwise,
    join_spatial,
    linear_before_scale,
    make_linear,
    select_channels,
)
from d2vpr_hf.backends.optimized.fused_linear import Product
from d2vpr_hf.modeling.vision_transformer import (
    AdapterBlock,
    ConvolutionalAdapter,
    Embeddings,
    GatedFeedForward,
    GridSize,
    SelfAttention,
)

_MAX_SIZES = 32  # image sizes whose position embeddings are cached; photos that are not resized may have more sizes


class PreparedEmbeddings(nn.Module):
    """Turn pixels into tokens; position embeddings are resampled once for each size, and the cls token is added to the first.

    In half precision a pixel is the sum of two terms: its rounded value and the rest. Without the rest, all pixels of an even
    surface would be rounded in the same direction; over a patch these errors add up to most of a descriptor's change.
    """

    def __init__(self, embeddings: Embeddings, dtype: torch.dtype) -> None:
        super().__init__()
        conv = embeddings.patch_embeddings
        self.plain = embeddings
        self.patch_size, self.dtype = conv.kernel_size[0], dtype
        weight = conv.weight.flatten(1)
        weight = weight if dtype == torch.float32 else torch.cat((weight, weight), dim=1)
        self.projection = Product(make_linear(weight, conv.bias)).to(dtype)
        self._positions: dict[GridSize, torch.Tensor] = {}

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed `pixel_values` (B, 3, height, width) as tokens (B, T, C), in float32."""
        size = self.patch_size
        grid_size = (pixel_values.shape[2] // size, pixel_values.shape[3] // size)
        patches = pixel_values.float().unflatten(3, (grid_size[1], size)).unflatten(2, (grid_size[0], size))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, 3, H, 14, W, 14) -> (B, N, 588)
        positions = self.positions(grid_size)
        first = positions[:, :1].expand(patches.shape[0], -1, -1)
        return torch.cat((first, self.projection(_terms(patches, self.dtype)) + positions[:, 1:]), dim=1)

    def positions(self, grid_size: GridSize) -> torch.Tensor:
        """Return the cls token and the position embeddings of a grid (1, T, C), in float32."""
        # in compiled and exported graphs, sides may be symbols: a lookup would fix them to one size
        if torch.compiler.is_dynamo_compiling() or not all(isinstance(side, int) for side in grid_size):
            return self._resample(grid_size)
        if grid_size not in self._positions:
            if len(self._positions) == _MAX_SIZES:
                self._positions.clear()
            self._positions[grid_size] = self._resample(grid_size)
        return self._positions[grid_size]

    def _resample(self, grid_size: GridSize) -> torch.Tensor:
        resampled = self.plain.resample_positions(grid_size).detach().float()
        return torch.cat((resampled[:, :1] + self.plain.cls_token, resampled[:, 1:]), dim=1)


def _terms(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert numbers (..., C) to a type: float32 unchanged, half precision as the two terms (..., 2 C) of a sum."""
    if dtype == torch.float32:
        return values
    rounded = values.to(dtype)
    return torch.cat((rounded, (values - rounded).to(dtype)), dim=-1)


class PreparedAttention(nn.Module):
    """Self-attention by torch's fused kernel."""

    def __init__(self, attention: SelfAttention, scale: torch.Tensor) -> None:
        super().__init__()
        self.num_heads, self.scaling = attention.num_heads, attention.scaling
        self.qkv = Product(attention.qkv)
        self.proj = Product(linear_before_scale(attention.proj, scale))

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Attend over the second axis of (B, T, C), and add the result to the residual stream (B, T, C)."""
        qkv = self.qkv(hidden_states).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, T, 3, heads, d) -> 3 x (B, heads, T, d)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.proj(attended.transpose(1, 2).flatten(2), residual)  # (B, heads, T, d) -> (B, T, C)


class GraphAttention(nn.Module):
    """Self-attention for other runtimes: query, key and value by products of their own, the scale folded into the first.

    Runtimes join transposes of query, key and value with the products that follow, but not those of a joined tensor: OpenVINO
    computes a graph in 0.96 (int8) and 0.99 (float32) of the time, ONNX Runtime in 0.95 and 0.99.
    """

    def __init__(self, attention: SelfAttention, scale: torch.Tensor) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        width = attention.qkv.out_features // 3
        query, key, value = (
            select_channels(attention.qkv, rows=range(start, start + width)) for start in (0, width, 2 * width)
        )
        self.query = Product(linear_before_scale(query, torch.full((width,), attention.scaling)))
        self.key, self.value = Product(key), Product(value)
        self.proj = Product(linear_before_scale(attention.proj, scale))

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Attend over the second axis of (B, T, C), and add the result to the residual stream (B, T, C)."""
        query, key, value = (
            product(hidden_states).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, heads, T, d)
            for product in (self.query, self.key, self.value)
        )
        attended = (query @ key.transpose(2, 3)).softmax(dim=-1) @ value
        return self.proj(attended.transpose(1, 2).flatten(2), residual)  # (B, heads, T, d) -> (B, T, C)


class PreparedBlock(nn.Module):
    """A block whose LayerScales and adapter's scale are folded into the linear layers before them."""

    attention_form: type[nn.Module] = PreparedAttention

    def __init__(self, block: AdapterBlock, dtype: torch.dtype) -> None:
        super().__init__()
        scale, activation = block.layer_scale2.gamma, block.attention.config.hidden_act
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.dtype = dtype
        self.attention = self.attention_form(block.attention, block.layer_scale1.gamma).to(dtype)
        self.mlp = PreparedFeedForward(block.mlp, activation, scale).to(dtype)
        self.adapter = PreparedAdapter(block.adapter, block.adapter_scale * scale).to(dtype)

    def forward(self, hidden_states: torch.Tensor, grid_size: GridSize) -> tuple[torch.Tensor, None]:
        """Map tokens (B, T, C) to tokens (B, T, C); there are no attention weights."""
        hidden_states = self.attention(self.norm1(hidden_states).to(self.dtype), hidden_states)
        normed = self.norm2(hidden_states).to(self.dtype)
        return self.adapter(normed, grid_size, self.mlp(normed, hidden_states)), None


class GraphBlock(PreparedBlock):
    """A prepared block for a graph that another runtime runs."""

    attention_form = GraphAttention


class PreparedFeedForward(nn.Module):
    """The MLP of a block, gated or not."""

    def __init__(self, mlp: Any, activation: str, scale: torch.Tensor) -> None:
        super().__init__()
        self.gated = isinstance(mlp, GatedFeedForward)
        first, second = (mlp.gate_up, mlp.down) if isinstance(mlp, GatedFeedForward) else (mlp.fc1, mlp.fc2)
        self.first = Product(first, "none" if self.gated else activation)
        self.second = Product(linear_before_scale(second, scale))

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., C), and add the result to the residual stream (..., C)."""
        hidden_states = self.first(hidden_states)
        if self.gated:
            gate, values = hidden_states.chunk(2, dim=-1)
            hidden_states = nn.functional.silu(gate) * values
        return self.second(hidden_states, residual)


class PreparedAdapter(nn.Module):
    """An adapter with its BatchNorms folded, its 1x1 convolutions joined to one product and the larger ones to one convolution.

    The channels of the weights are reordered so that branches with only a 1x1 convolution come first.
    """

    def __init__(self, adapter: ConvolutionalAdapter, scale: torch.Tensor) -> None:
        super().__init__()
        units: Any = adapter.branches
        branches = [[fold_batch_norm(unit) for unit in branch] for branch in units]
        order = sorted(range(len(branches)), key=lambda index: len(branches[index]))
        widths = [branch[-1].out_channels for branch in branches]
        channels = [sum(widths[:index]) + channel for index in order for channel in range(widths[index])]
        first, larger = [branches[i][0] for i in order], [branches[i][1] for i in order if len(branches[i]) > 1]
        self.num_direct = sum(branch[0].out_channels for branch in branches if len(branch) == 1)
        self.down = Product(select_channels(adapter.down, rows=channels), "relu")
        self.pointwise = Product(select_channels(join_pointwise(first), columns=channels), "relu")
        self.spatial = join_spatial(larger).to(memory_format=torch.channels_last) if larger else None  # type: ignore[call-overload]
        self.up = Product(linear_before_scale(select_channels(adapter.up, columns=channels), scale))

    def forward(self, hidden_states: torch.Tensor, grid_size: GridSize, residual: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, T, C) to (B, T, C), and add them to the residual; the cls token passes only through the bottleneck."""
        bottleneck = self.down(hidden_states)
        features = self.pointwise(bottleneck[:, 1:])
        direct, reduced = features[:, :, : self.num_direct], features[:, :, self.num_direct :]
        if self.spatial is not None:
            maps = reduced.transpose(1, 2).unflatten(2, grid_size)  # (B, N, C) -> (B, C, H, W)
            reduced = nn.functional.relu(self.spatial(maps)).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, N, C)
        features = torch.cat((bottleneck[:, :1], torch.cat((direct, reduced), dim=2)), dim=1)
        return self.up(bottleneck + features, residual)
