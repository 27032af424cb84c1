"""Models of this package, with their weights, as a [`PlaceEncoder`] runs them."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.registry import open_backend, settle_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.model_objects import (
    check_four_bits,
    check_processor,
    is_changed_in_memory,
    is_immovable,
    merge_adapters,
    unwrap_model,
)
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model
from d2vpr_hf.pretrained.own_facts import facts_of, size_of
from d2vpr_hf.pretrained.stated_facts import StatedFacts, find_card, stated_facts


class OwnModel:
    """A model of this package with its weights, which is moved to a device and set to eval mode.

    Quantised models, and models that are spread over devices, stay where they are.

    Args:
        model: The model.
        processor: Its image processor.
        device: The device; `None` for a GPU if there is one, otherwise the CPU.
        backend: Name of the backend; see [`d2vpr_hf.backends.registry.open_backend`].
        precision: Number type of the products; `None` for the type of the model's weights.
        name: Folder or Hub id that the model can be loaded from again; `None` for one in memory only.
        revision: Commit of a model from the Hub.
        open_backend: Opens another backend than those with a name, for weights that change.

    Raises:
        ValueError: If the network cannot run on the device, or cannot be moved to it.
    """

    model_options: dict[str, Any] = {}

    def __init__(
        self,
        model: VPRPreTrainedModel,
        processor: D2VPRImageProcessor,
        device: str | torch.device | None = None,
        backend: str = "torch",
        precision: str | None = None,
        *,
        name: str | None = None,
        revision: str | None = None,
        open_backend: Callable[[VPRPreTrainedModel], Backend] | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.model_name, self.model_revision = name, revision
        self._backend_choice = (backend, precision)
        self._open_backend = open_backend
        self.device = move_model(model, device)

    @property
    def config(self) -> VPRConfig:
        """The model's configuration, with later changes."""
        return self.model.config

    @property
    def facts(self) -> ModelFacts:
        """Title, origin and rights of the model, as far as its card states them."""
        return facts_of(self.model, self.model_name, self._stated)

    @functools.cached_property
    def _stated(self) -> StatedFacts:
        return stated_facts(find_card(self.model_name, self.model_revision) or "")

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
        """Height and width that photos are resized to; `None` if they are not."""
        return size_of(self.processor)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of weights, configuration and preprocessing. Computed once."""
        return fingerprint(merge_adapters(self.model), self.processor)

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, without opening the backend."""
        return settle_backend(self.model, *self._backend_choice)

    @property
    def device_type(self) -> str:
        """Type of the model's device."""
        return self.device.type

    @functools.cached_property
    def backend(self) -> Backend:
        """The backend that runs the network, with the weights that the model has at the first use; see `reopen_backend`."""
        if self._open_backend is not None:
            return self._open_backend(self.model)
        runtime = self.runtime
        return open_backend(merge_adapters(self.model), self.processor, runtime.backend, runtime.precision)

    def reopen_backend(self) -> None:
        """Close the backend, so that the next photos are encoded with the weights that the model has then."""
        self.__dict__.pop("backend", None)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image."""
        return prepare_by(self.processor, image)

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D)."""
        return self.backend.encode(pixel_values)


def move_model(model: PreTrainedModel, device: str | torch.device | None) -> torch.device:
    """Move a model to a device, set it to eval mode, and return the device."""
    if is_immovable(model):
        if device is not None and torch.device(device).type != model.device.type:
            raise ValueError(f"This model is quantised or spread over devices, on {model.device}; it cannot move to {device}.")
        check_four_bits(model)
        model.eval()
        return model.device
    target = choose_device(device)
    model.to(target).eval()  # type: ignore[arg-type] # transformers' wrapper loses the signature
    return target


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return a device that networks can run on; `None` selects a GPU if there is one, otherwise the CPU.

    Raises:
        ValueError: If networks cannot run on the device here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"The network cannot run on {str(device)!r} here: {error}") from error
    return torch.device(device)


def prepare_by(processor: D2VPRImageProcessor, image: Any) -> NDArray[np.float32]:
    """Return the pixel values (3, height, width) of an image that an image processor gives."""
    pixel_values: NDArray[np.float32] = processor(image, return_tensors="pt")["pixel_values"][0].numpy(force=True)
    return pixel_values


def load_own_model(
    name: str,
    processor: D2VPRImageProcessor | None,
    device: str | torch.device | None,
    backend: str,
    precision: str | None,
    *,
    revision: str | None,
) -> OwnModel:
    """Load a model of this package from a folder or the Hub; arguments as for [`OwnModel`].

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] raises them.
    """
    pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
    model, processor = load_model(name, **pinned), processor or load_image_processor(name, **pinned)
    return OwnModel(model, processor, device, backend, precision, name=name, revision=revision)


def wrap_own_model(
    model: Any, processor: Any, device: str | torch.device | None, backend: str, precision: str | None
) -> tuple[OwnModel, str | None]:
    """Return a model object of this package as a [`PlaceEncoder`] runs it, and the name that it was loaded by.

    Raises:
        TypeError: If the object is not a model of this package, or the other object not its image processor.
        ValueError: If the image processor is missing.
    """
    if processor is not None:
        check_processor(processor)
    model = unwrap_model(model)
    if processor is None:
        raise ValueError("A model object needs its image processor too; load_image_processor() gives it.")
    return OwnModel(model, processor, device, backend, precision), None if is_changed_in_memory(model) else model.name_or_path
