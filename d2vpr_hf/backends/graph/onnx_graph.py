"""Write a model as an ONNX graph: pixels in, descriptors out, any number of images at once."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2vpr_hf.backends.graph.graph_names import INPUT, OUTPUT
from d2vpr_hf.backends.graph.resampling import antialiasing_matrix
from d2vpr_hf.backends.optimized.optimize import prepare
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.utils.optional_imports import import_extra

_FILTERS = ("bilinear", "bicubic")  # filters that have a form as matrices
_OPSET = 20  # the first opset whose GridSample equals torch's grid_sample


class DescriptorNetwork(nn.Module):
    """A network that maps pixels to descriptors, to be written as a graph.

    Args:
        model: A model of this package, which is optimized, or another module that maps normalised images to descriptors. It is
            in eval mode, on the CPU.
        steps: The steps of preprocessing that become part of the network, which then takes upright RGB images of any size in
            0..255; `None` for a network that takes normalised images.

    Raises:
        ValueError: If a step cannot be part of a graph.
    """

    def __init__(self, model: nn.Module, steps: Preprocessing | None) -> None:
        super().__init__()
        self.network = prepare(model, for_graph=True) if isinstance(model, VPRPreTrainedModel) else model
        self.preprocessing = None if steps is None else GraphPreprocessing(steps)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, height, width) to (B, D)."""
        pixel_values = pixel_values if self.preprocessing is None else self.preprocessing(pixel_values)
        output = self.network(pixel_values)
        descriptors: torch.Tensor = getattr(output, "pooler_output", output)
        return descriptors


class GraphPreprocessing(nn.Module):
    """The steps of a [`Preprocessing`]: resize, crop, then rescale and normalise by one product and one sum.

    Raises:
        ValueError: If the size after resizing depends on the image, or the filter has no form as matrices.
    """

    def __init__(self, steps: Preprocessing) -> None:
        super().__init__()
        if steps.size is None or steps.resample not in _FILTERS:
            size = "by a rule that keeps their shape" if steps.size is None else f"by the filter {steps.resample!r}"
            raise ValueError(
                f'The graph cannot resize photos {size}, as this model\'s preprocessing does. Export it with `input="fixed"`.'
            )
        self.target, self.mode = steps.resized_size(*steps.size), steps.resample
        self.rounds = steps.resized_as == "uint8"
        self.crop_size, self.pad_size = steps.crop_size, steps.pad_size
        mean, spread = torch.tensor(steps.mean), torch.tensor(steps.std)
        self.factor = (steps.rescale_factor / spread).view(-1, 1, 1)
        self.summand = (-mean / spread).view(-1, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, any height, any width) in 0..255 to normalised ones (B, 3, height, width)."""
        rows = antialiasing_matrix(torch.ones_like(images[0, 0, :, 0]), self.target[0], self.mode)
        columns = antialiasing_matrix(torch.ones_like(images[0, 0, 0]), self.target[1], self.mode)
        resized = self._round(rows @ self._round(images @ columns.T))  # Pillow rounds after both passes
        normalised = self._crop(resized) * self.factor + self.summand
        if self.pad_size is None:
            return normalised
        height, width = normalised.shape[2:]
        return nn.functional.pad(normalised, (0, self.pad_size[1] - width, 0, self.pad_size[0] - height))

    def _round(self, images: torch.Tensor) -> torch.Tensor:
        return (images.clamp(0, 255) + 0.5).floor() if self.rounds else images  # half up, as Pillow

    def _crop(self, images: torch.Tensor) -> torch.Tensor:
        """Crop images at their centre, and pad them with zeros where they are smaller, as [`Preprocessing`] does."""
        if self.crop_size is None:
            return images
        height, width = (max(0, side - given) for side, given in zip(self.crop_size, self.target, strict=True))
        padded = nn.functional.pad(images, ((width + 1) // 2, width // 2, (height + 1) // 2, height // 2))
        top, left = (max(0, given - side) // 2 for side, given in zip(self.crop_size, self.target, strict=True))
        return padded[:, :, top : top + self.crop_size[0], left : left + self.crop_size[1]]


def write_onnx(network: DescriptorNetwork, path: Path, example: torch.Tensor, dynamic_shapes: dict[int, Any]) -> None:
    """Write a network to a file.

    Args:
        network: The network to write.
        path: The file.
        example: An input (B, 3, height, width), of at least two images.
        dynamic_shapes: The axes of the input that may have any length, in the form of `torch.export`.

    Raises:
        ImportError: If onnx or onnxscript is not installed.
    """
    import_extra("onnxscript", "export")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's warnings are about its internals
        network.eval()(example)  # fills the caches for this size, which become constants of the graph
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"pixel_values": dynamic_shapes},
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)
