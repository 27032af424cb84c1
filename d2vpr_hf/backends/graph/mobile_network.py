"""A form of the network that the exporters for phones convert: one photo, one size, at most five axes."""

import copy

import torch
from torch import nn

from d2vpr_hf.backends.graph.onnx_graph import DescriptorNetwork
from d2vpr_hf.backends.optimized.blocks import PreparedEmbeddings
from d2vpr_hf.modeling import VPRPreTrainedModel


class MobileNetwork(nn.Module):
    """A network for one photo of a fixed size, with weights in the order of their axes, which XNNPACK requires.

    Args:
        network: The network; it is not changed.
        height: Height of the photo, in pixels.
        width: Width of the photo.

    Raises:
        ValueError: If a model of this package has other embeddings than its own.
    """

    def __init__(self, network: DescriptorNetwork, height: int, width: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        model = self.network.network
        if isinstance(model, VPRPreTrainedModel):
            if not isinstance(model.embeddings, PreparedEmbeddings):
                raise ValueError(f"Embeddings of the type {type(model.embeddings).__name__} cannot be exported to this format.")
            model.add_module("embeddings", ConvolutionalEmbeddings(model.embeddings, height, width))
        for parameter in self.parameters():
            # a copy: `contiguous()` keeps the strides of axes of length 1, by which ExecuTorch tells the order
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (1, 3, height, width) to (1, D)."""
        descriptor: torch.Tensor = self.network(pixel_values)
        return descriptor


class ConvolutionalEmbeddings(nn.Module):
    """Embeddings of one size by the convolution of the model: cutting patches takes six axes, and Core ML has five."""

    first: torch.Tensor
    others: torch.Tensor

    def __init__(self, embeddings: PreparedEmbeddings, height: int, width: int) -> None:
        super().__init__()
        self.convolution = copy.deepcopy(embeddings.plain.patch_embeddings)
        positions = embeddings.positions((height // embeddings.patch_size, width // embeddings.patch_size))
        self.register_buffer("first", positions[:, :1].detach().clone())
        self.register_buffer("others", positions[:, 1:].detach().clone())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed `pixel_values` (1, 3, height, width) as tokens (1, T, C)."""
        patches = self.convolution(pixel_values).flatten(2).transpose(1, 2)  # (1, C, H, W) -> (1, N, C)
        return torch.cat((self.first, patches + self.others), dim=1)


def trace(network: DescriptorNetwork, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Return the program of a network for one image of the size of an example (B, 3, height, width)."""
    mobile = MobileNetwork(network, *example.shape[2:]).eval()
    with torch.no_grad():
        return torch.export.export(mobile, (example[:1],), strict=False)
