"""Linear layers with the activation and the sum that follow. On CPUs one kernel computes all, with weights in its layout."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from d2vpr_hf.backends.optimized.folding import copy_linear

_FUSED_ACTIVATIONS = ("none", "relu", "gelu")


class Product(nn.Module):
    """A linear layer, an activation that is named as in transformers, and a sum."""

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.linear, self.name = copy_linear(linear), activation
        self.activation = nn.Identity() if activation == "none" else ACT2FN[activation]

    def forward(self, values: torch.Tensor, summand: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., C_in) to (..., C_out), and add it to a summand of that shape."""
        product = self.activation(self.linear(values))
        return product if summand is None else summand + product


class PackedProduct(nn.Module):
    """A [`Product`] in float32 by oneDNN's kernel, as torch's own compiler calls it."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(product.linear.weight.detach(), None)
        self.bias, self.name = product.linear.bias.detach(), product.name

    def forward(self, values: torch.Tensor, summand: torch.Tensor | None = None) -> torch.Tensor:
        """Map (..., C_in) to (..., C_out), and add it to a summand of that shape."""
        multiply = torch.ops.mkldnn._linear_pointwise
        if summand is None:
            return multiply(values, self.weight, self.bias, self.name, [], "none")
        return multiply.binary(values, summand, self.weight, self.bias, "add")


def pack_products(model: nn.Module) -> None:
    """Replace the products of a prepared model that runs in float32 on a CPU. Without oneDNN nothing changes."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    for module in model.modules():
        for name, part in module.named_children():
            if isinstance(part, Product) and part.name in _FUSED_ACTIVATIONS:
                setattr(module, name, PackedProduct(part))
