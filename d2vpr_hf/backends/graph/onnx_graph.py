"""Write a model as an ONNX graph: pixels in, descriptors out, any number of images at once."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2vpr_hf.backends.graph.resampling import antialiasing_matrix
from d2vpr_hf.backends.optimized.optimize import prepare
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.modeling.image_processing_d2vpr import INTERPOLATION
from d2vpr_hf.utils.optional_imports import import_extra

INPUT, OUTPUT = "pixel_values", "descriptors"
_OPSET = 20  # the first opset whose GridSample equals torch's grid_sample


class DescriptorNetwork(nn.Module):
    """An optimized model that maps pixels to descriptors.

    Args:
        model: A model in eval mode, on the CPU.
        processor: The image processor whose steps become part of the network, which then takes upright RGB images of any size
            in 0..255; `None` for a network that takes normalised images, of any size in whole patches.
    """

    def __init__(self, model: VPRPreTrainedModel, processor: D2VPRImageProcessor | None) -> None:
        super().__init__()
        self.network, self.preprocessing = prepare(model), None if processor is None else Preprocessing(processor)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, height, width) to (B, D)."""
        pixel_values = pixel_values if self.preprocessing is None else self.preprocessing(pixel_values)
        descriptors: torch.Tensor = self.network(pixel_values).pooler_output
        return descriptors


class Preprocessing(nn.Module):
    """The steps of the image processor: resize, then rescale and normalise by one product and one sum."""

    def __init__(self, processor: D2VPRImageProcessor) -> None:
        super().__init__()
        self.target = (processor.size["height"], processor.size["width"])
        self.mode = INTERPOLATION[processor.resample]
        mean, spread = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
        self.factor = (processor.rescale_factor / spread).view(-1, 1, 1)
        self.summand = (-mean / spread).view(-1, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, any height, any width) in 0..255 to normalised ones (B, 3, height, width)."""
        rows = antialiasing_matrix(torch.ones_like(images[0, 0, :, 0]), self.target[0], self.mode)
        columns = antialiasing_matrix(torch.ones_like(images[0, 0, 0]), self.target[1], self.mode)
        return rows @ (images @ columns.T) * self.factor + self.summand


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
