"""Models as an export sees them: a network, its preprocessing, and the descriptors that a graph must give."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from d2vpr_hf.backends.formats.export_format import InputKind
from d2vpr_hf.backends.torch_backend import PlainTorchBackend
from d2vpr_hf.model_info.encoder_entry import EncoderEntry
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.pretrained.own_facts import describe_encoder, facts_of

_NO_STEPS = Preprocessing(rescale_factor=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_INPUT_SIZE = (224, 224)  # height and width in pixels of the example for a model that leaves the size open


class GraphSource(ABC):
    """A model that is exported.

    Attributes:
        network: Maps normalised images (B, 3, height, width) to descriptors; in eval mode, in float32, on the CPU.
        entry: The values by which the model runs as an encoder, with all its steps of preprocessing.
        patch_size: Side of a patch in pixels, whose multiples are the sizes of images; `None` for one size only.
        config: The configuration of the model, a file of the export; `None` without one.
    """

    network: nn.Module
    entry: EncoderEntry
    patch_size: int | None
    config: Any

    @abstractmethod
    def prepare(self, image: torch.Tensor, kind: InputKind) -> torch.Tensor:
        """Return the input (3, height, width) of a graph for an upright RGB image (3, height, width) in 0..255."""

    @abstractmethod
    def describe(self, pixel_values: torch.Tensor) -> NDArray[np.float32]:
        """Map normalised images (B, 3, height, width) to the model's descriptors (B, D)."""

    @abstractmethod
    def processor(self, kind: InputKind) -> D2VPRImageProcessor | None:
        """Return the image processor to save, for the steps that a graph does not contain; `None` for another kind of model."""

    @property
    def steps(self) -> Preprocessing:
        """All steps of the model's preprocessing."""
        return self.entry.preprocessing

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of an example in pixels."""
        return self.steps.input_size or _INPUT_SIZE

    def entry_for(self, kind: InputKind) -> EncoderEntry:
        """Return the values by which a graph with this input runs as an encoder."""
        return replace(self.entry, preprocessing=_NO_STEPS) if kind == "photos" else self.entry

    def describe_inputs(self, inputs: torch.Tensor, kind: InputKind) -> NDArray[np.float32]:
        """Return the model's descriptors (B, D) for inputs (B, 3, height, width) of a graph."""
        if kind != "photos":
            return self.describe(inputs)
        return self.describe(torch.stack([self.prepare(image, "fixed") for image in inputs]))


class OwnSource(GraphSource):
    """A model of this package, with its image processor; `steps` are those of preprocessing, by default the processor's."""

    def __init__(self, model: VPRPreTrainedModel, processor: D2VPRImageProcessor, steps: Preprocessing | None = None) -> None:
        config = model.config
        self.network, self.config = model, config
        self.patch_size = config.patch_size
        self._processor, self._backend = processor, PlainTorchBackend(model)
        entry = describe_encoder(config, processor, facts_of(model, model.name_or_path))
        self.entry = entry if steps is None else replace(entry, preprocessing=steps)

    def prepare(self, image: torch.Tensor, kind: InputKind) -> torch.Tensor:
        """Return the input of a graph for an image, by the image processor."""
        changes: dict[str, Any] = {}
        if kind != "photos" and self.steps.shortest_edge is not None:
            height, width = self.steps.resized_size(*image.shape[1:])
            changes["size"] = {"height": height, "width": width}
        prepared: torch.Tensor = self.processor(kind)([image], return_tensors="pt", **changes)["pixel_values"][0]
        return prepared

    def describe(self, pixel_values: torch.Tensor) -> NDArray[np.float32]:
        """Map normalised images to descriptors, by the unchanged model."""
        return self._backend.encode(pixel_values)

    def processor(self, kind: InputKind) -> D2VPRImageProcessor:
        """Return the image processor, without steps if the graph contains all of them."""
        if kind != "photos":
            return self._processor
        without_steps = dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False)
        return type(self._processor)(**self._processor.to_dict() | without_steps)


class NetworkSource(GraphSource):
    """Another network, such as a vision transformer of transformers with its pooling.

    Args:
        network: Maps normalised images (B, 3, height, width) to descriptors (B, D), in eval mode, in float32, on the CPU.
        entry: The values by which the model runs as an encoder.
        patch_size: Side of a patch in pixels; `None` if images must have one size.
        config: The configuration of the model; `None` without one.
    """

    def __init__(
        self,
        network: nn.Module,
        entry: EncoderEntry,
        patch_size: int | None = None,
        config: Any = None,
    ) -> None:
        self.network, self.patch_size = network, patch_size
        self.entry, self.config = entry, config

    def prepare(self, image: torch.Tensor, kind: InputKind) -> torch.Tensor:
        """Return the input of a graph for an image, by the steps of the preprocessing."""
        if kind == "photos":
            return image.float()
        pixels = image.clamp(0, 255).byte().permute(1, 2, 0).numpy()  # (3, height, width) -> (height, width, 3)
        return torch.from_numpy(self.steps(Image.fromarray(pixels)))

    @torch.inference_mode()
    def describe(self, pixel_values: torch.Tensor) -> NDArray[np.float32]:
        """Map normalised images to descriptors, by the network itself."""
        descriptors: NDArray[np.float32] = self.network(pixel_values).numpy()
        return descriptors

    def processor(self, kind: InputKind) -> D2VPRImageProcessor | None:
        """Return `None`: `export.json` has the steps."""
        return None
