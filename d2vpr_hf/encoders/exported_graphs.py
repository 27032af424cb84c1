"""Graphs that `d2vpr export` wrote, as a [`PlaceEncoder`] runs them, on the CPU."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.model_facts import ModelFacts
from d2vpr_hf.encoders.own_models import TITLES, prepare_by, size_of
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig


class ExportedGraph:
    """A graph in a folder that `d2vpr export` wrote; arguments as for [`OwnModel`]."""

    model_options: dict[str, Any] = {}
    device_type = "cpu"

    def __init__(
        self,
        exported: ExportedModel,
        processor: D2VPRImageProcessor | None = None,
        backend: str = "torch",
        precision: str | None = None,
        *,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        self._exported, self._backend_choice = exported, (backend, precision)
        self.model_name, self.model_revision = name, revision
        self.config: VPRConfig = exported.config()
        self.processor = processor or exported.processor()

    @property
    def device(self) -> Any:
        """The CPU, as a device of torch."""
        import torch

        return torch.device("cpu")

    @property
    def model(self) -> Any:
        """Raise ValueError: a graph has no weights to work with."""
        folder = self._exported.folder.resolve()
        raise ValueError(f"{folder} is an exported graph; this needs the model that it was made of.")

    @property
    def facts(self) -> ModelFacts:
        """Title and origin of the model that was exported."""
        title, arxiv = TITLES[self.config.model_type]
        return ModelFacts(title, arxiv=arxiv, untrained_parts=tuple(self.config.untrained_parts))

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptors."""
        return self.config.descriptor_dim

    @property
    def projection_dim(self) -> int | None:
        """Width that the model's projection reduces descriptors to; `None` without a projection."""
        return self.config.projection_dim

    @property
    def depends_on_batch(self) -> bool:
        """Whether the model has a cross-image encoder."""
        return self.config.use_cross_image_encoder

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that photos are resized to; `None` if the graph resizes them."""
        return size_of(self.processor)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that was exported."""
        return str(self._exported.info["fingerprint"])

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, without opening the backend."""
        return self._exported.settle_backend(*self._backend_choice)

    @functools.cached_property
    def backend(self) -> Backend:
        """The backend that runs the graph."""
        return self._exported.open_backend(*self._backend_choice)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image, by the steps that the graph does not contain."""
        return prepare_by(self.processor, image)

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D)."""
        return self.backend.encode(pixel_values)
