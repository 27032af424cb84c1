"""Models of this package, with their weights, as a [`PlaceEncoder`] runs them."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.image_utils import PILImageResampling

from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.registry import open_backend, settle_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.encoder_entry import EncoderEntry
from d2vpr_hf.encoders.known_models import EMBEDDED
from d2vpr_hf.encoders.model_facts import ModelFacts
from d2vpr_hf.encoders.model_objects import (
    check_four_bits,
    check_processor,
    is_changed_in_memory,
    is_immovable,
    merge_adapters,
    unwrap_model,
)
from d2vpr_hf.encoders.preprocessing import Preprocessing
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig, D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model
from d2vpr_hf.pretrained.stated_facts import StatedFacts, find_card, stated_facts

TITLES = {D2VPRConfig.model_type: ("D²-VPR", "2511.12528"), CricaVPRConfig.model_type: ("CricaVPR", "2402.19231")}


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
        self.device = _move(model, device)

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


def _move(model: VPRPreTrainedModel, device: str | torch.device | None) -> torch.device:
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


def facts_of(model: VPRPreTrainedModel, name: str | None = None, stated: StatedFacts | None = None) -> ModelFacts:
    """Return title, origin and rights of a model of this package, as far as its card states them.

    Args:
        model: The model.
        name: Folder or Hub id that has its card; `None` for a model that was never saved.
        stated: Facts of the card; `None` to read it.
    """
    num_parameters = sum(weight.numel() for weight in model.parameters())
    untrained_parts = tuple(model.config.untrained_parts)
    if name in (EMBEDDED_NAME, str(EMBEDDED_MODEL)):
        return replace(EMBEDDED.facts, num_parameters=num_parameters, untrained_parts=untrained_parts)
    title, arxiv = TITLES[model.config.model_type]
    stated = stated_facts(find_card(name) or "") if stated is None else stated
    return ModelFacts(title, stated.license, stated.training_data, arxiv, num_parameters, untrained_parts)


def describe_encoder(config: VPRConfig, processor: D2VPRImageProcessor, facts: ModelFacts | None = None) -> EncoderEntry:
    """Return the values by which a graph of a model is run as an encoder.

    Args:
        config: The model's configuration.
        processor: The image processor for the steps that the graph does not contain.
        facts: The facts about the model; `None` for those in its configuration.
    """
    title, arxiv = TITLES[config.model_type]
    return EncoderEntry(
        config.descriptor_dim,
        config.projection_dim,
        config.use_cross_image_encoder,
        steps_of(processor),
        facts or ModelFacts(title, arxiv=arxiv, untrained_parts=tuple(config.untrained_parts)),
    )


def steps_of(processor: D2VPRImageProcessor) -> Preprocessing:
    """Return the steps of an image processor of this package, which resizes in floating point."""
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return Preprocessing(
        size=size_of(processor),
        resample=PILImageResampling(processor.resample).name.lower(),  # type: ignore[arg-type] # bilinear or bicubic
        resized_as="float32",
        rescale_factor=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(mean),  # type: ignore[arg-type] # three channels
        std=tuple(std),  # type: ignore[arg-type]
    )


def size_of(processor: D2VPRImageProcessor) -> tuple[int, int] | None:
    """Return the height and width that an image processor resizes to; `None` if it does not."""
    return (processor.size["height"], processor.size["width"]) if processor.do_resize else None


def prepare_by(processor: D2VPRImageProcessor, image: Any) -> NDArray[np.float32]:
    """Return the pixel values (3, height, width) of an image that an image processor gives."""
    pixel_values: NDArray[np.float32] = processor(image, return_tensors="pt")["pixel_values"][0].numpy(force=True)
    return pixel_values


def load_own_model(
    name: str | Path | None,
    processor: D2VPRImageProcessor | None,
    *,
    device: str | torch.device | None,
    backend: str,
    precision: str | None,
    saved_name: str | None,
    revision: str | None,
) -> OwnModel:
    """Load a model of this package from a folder or the Hub; arguments as for [`OwnModel`].

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] raises them.
    """
    pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
    model, processor = load_model(name, **pinned), processor or load_image_processor(name, **pinned)
    return OwnModel(model, processor, device, backend, precision, name=saved_name, revision=revision)


def wrap_own_model(
    model: Any, processor: Any, *, device: str | torch.device | None, backend: str, precision: str | None
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
