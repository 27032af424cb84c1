"""Fold layers into their neighbours: BatchNorms, scales and parallel branches become weights of one layer.

Everything is computed in float64; the modules that use the layers convert them to the type of their products.
"""

from collections.abc import Sequence

import torch
from torch import nn

from d2vpr_hf.modeling.vision_transformer import ConvolutionUnit


def linear_before_scale(linear: nn.Linear, scale: torch.Tensor) -> nn.Linear:
    """Fold factors of the output channels into a linear layer."""
    return make_linear(linear.weight.double() * scale.unsqueeze(1), linear.bias.double() * scale)


def copy_linear(linear: nn.Linear) -> nn.Linear:
    """Make a linear layer with the same weights, and a bias of zeros if there is none, whose type can be changed separately."""
    return make_linear(linear.weight, linear.bias)


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """Make a linear layer of given weights (C_out, C_in) and bias (C_out,); a bias of `None` becomes zeros."""
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    bias = torch.zeros_like(weight[:, 0]) if bias is None else bias
    made.weight, made.bias = _frozen(weight), _frozen(bias)
    return made


def select_channels(linear: nn.Linear, *, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None) -> nn.Linear:
    """Reorder the outputs (rows) or the inputs (columns) of a linear layer."""
    weight: torch.Tensor = linear.weight
    bias: torch.Tensor | None = linear.bias
    if rows is not None:
        weight, bias = weight[list(rows)], None if bias is None else bias[list(rows)]
    return make_linear(weight if columns is None else weight[:, list(columns)], bias)


def fold_batch_norm(unit: ConvolutionUnit) -> nn.Conv2d:
    """Fold a BatchNorm's running statistics and weights into the convolution before it."""
    conv, norm = unit.conv, unit.norm
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * factor.view(-1, 1, 1, 1)
    return make_convolution(weight, (_bias(conv).double() - norm.running_mean) * factor + norm.bias)


def make_convolution(weight: torch.Tensor, bias: torch.Tensor, groups: int = 1) -> nn.Conv2d:
    """Make a convolution (C_out, C_in / groups, size, size) whose output has the height and width of its input."""
    size = weight.shape[-1]
    made = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], size, padding=size // 2, groups=groups, device="meta")
    made.weight, made.bias = _frozen(weight), _frozen(bias)
    return made


def join_pointwise(convolutions: Sequence[nn.Conv2d]) -> nn.Linear:
    """Join 1x1 convolutions of one map into one linear layer over tokens, with their outputs in order."""
    weight = torch.cat([conv.weight.flatten(1) for conv in convolutions])
    return make_linear(weight, torch.cat([_bias(conv) for conv in convolutions]))


def join_spatial(convolutions: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """Join convolutions of neighbouring channels into one convolution, with their inputs and outputs in order.

    Smaller kernels are padded with zeros to the size of the largest. Branches of equal width become groups; branches of other
    widths become blocks of a kernel that is zero elsewhere.
    """
    size = max(conv.kernel_size[0] for conv in convolutions)
    kernels = [nn.functional.pad(conv.weight, [(size - conv.kernel_size[0]) // 2] * 4) for conv in convolutions]
    bias = torch.cat([_bias(conv) for conv in convolutions])
    if len({kernel.shape for kernel in kernels}) == 1:
        return make_convolution(torch.cat(kernels), bias, groups=len(kernels))
    return make_convolution(_block_diagonal(kernels), bias)


def _block_diagonal(kernels: Sequence[torch.Tensor]) -> torch.Tensor:
    inputs = [kernel.shape[1] for kernel in kernels]
    blocks = (
        nn.functional.pad(kernel, (0, 0, 0, 0, sum(inputs[:index]), sum(inputs[index + 1 :])))
        for index, kernel in enumerate(kernels)
    )
    return torch.cat(list(blocks))


def _bias(conv: nn.Conv2d) -> torch.Tensor:
    assert conv.bias is not None
    return conv.bias


def _frozen(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.detach(), requires_grad=False)
