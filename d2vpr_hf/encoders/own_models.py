"""Models of this package, with their weights, as a [`PlaceEncoder`] runs them."""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import PreTrainedModel

from d2vpr_hf.backends.protocol import Backend, Finish, start_describing
from d2vpr_hf.backends.registry import open_backend, settle_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.torch_backend import precision_of
from d2vpr_hf.encoders.gpu_resizing import GpuResizing
from d2vpr_hf.encoders.model_objects import (
    check_four_bits,
    check_processor,
    is_changed_in_memory,
    is_immovable,
    merge_adapters,
    unwrap_model,
)
from d2vpr_hf.encoders.query_crops import crop_side, five_crops
from d2vpr_hf.encoders.rgb_images import to_rgb
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_options import MAX_SIDE, ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing, UnfitImageError
from d2vpr_hf.model_info.region_boxes import Box, own_region_boxes
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.fitted_photos import warn_of_other_aspect
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model
from d2vpr_hf.pretrained.model_preprocessing import check_whole_patches
from d2vpr_hf.pretrained.own_facts import facts_of, size_of, steps_of
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
        options: Sizes of photos; a model of this package has no other options.
        open_backend: Opens another backend than those with a name, for weights that change.

    Attributes:
        processor: The image processor; with `image_size` a copy that resizes to it.
        steps: The steps from photos to pixels.

    Raises:
        ValueError: If the network cannot run on the device, or cannot be moved to it, or a size is not in whole patches.
    """

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
        options: ModelOptions = ModelOptions(),  # noqa: B008 - the default is immutable
        open_backend: Callable[[VPRPreTrainedModel], Backend] | None = None,
    ) -> None:
        self.model, self.model_options = model, options.to_dict()
        self.processor = _resized_processor(processor, options, model.config.patch_size)
        self.steps = steps_of(self.processor)
        if options.keep_aspect:
            side = min(size_of(self.processor) or (0,))
            self.steps = self.steps.for_shorter_side(side, model.config.patch_size)
        self.model_name, self.model_revision = name, revision
        self._backend_choice = (backend, precision if open_backend is None else precision_of(model))
        self._open_backend = open_backend
        self.device = move_model(model, device)
        if self.device.type == "cuda" and open_backend is None:
            # settled once: a process of ZeroGPU without a GPU must name the runtime of the one that has it
            self._backend_choice = (backend, self.runtime.precision)

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
    def region_boxes(self) -> list[Box] | None:
        """Boxes of the R regions whose features a descriptor consists of; `None` if they are not known."""
        return own_region_boxes(self.config)

    @property
    def region_dim(self) -> int:
        """Width of the features of a region."""
        return self.config.feature_size

    @property
    def holds_regions(self) -> bool:
        """Whether a descriptor is the features of its regions in a row."""
        return self.projection_dim is None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that photos are resized to; `None` if they depend on the photo."""
        return self.steps.input_size

    @property
    def shorter_side(self) -> int | None:
        """Length of the shorter side of photos that keep their aspect; `None` if they do not."""
        return self.steps.shortest_edge

    @property
    def decoding_size(self) -> tuple[int, int] | None:
        """Height and width that decoded photos must cover; `None` to decode every pixel."""
        return size_of(self.processor)

    @property
    def crop_side(self) -> int | None:
        """Side in pixels of the crops of queries; `None` if photos are not resized."""
        return crop_side(self.steps)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of weights, configuration and preprocessing. Computed once; see `reopen_backend`."""
        digest = fingerprint(merge_adapters(self.model), self.processor)
        if self.shorter_side is None:
            return digest
        return hashlib.sha256(json.dumps([digest, "keep_aspect"]).encode()).hexdigest()

    @property
    def compatible_with(self) -> tuple[str, ...]:
        """Fingerprints of models whose descriptors can be compared with this one's; none if it was changed since."""
        config = self.config
        return tuple(config.compatible_with) if config.own_fingerprint == self.fingerprint else ()

    @property
    def trained_prefixes(self) -> tuple[int, ...] | None:
        """Numbers of first numbers for which training kept a head; `None` without such a head, as with PCA."""
        config = self.config
        is_trained = config.projection_dim is not None and (config.matryoshka_dims or config.compatible_with)
        return tuple(config.matryoshka_dims) if is_trained else None

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, without opening the backend."""
        return settle_backend(self.model, *self._backend_choice)

    def keep_runtime(self, runtime: Runtime | None) -> None:
        """Run in the type of the weights if an index was made so, where another precision is the default of the device."""
        if runtime == Runtime(self.runtime.backend, precision_of(self.model)):
            self._backend_choice = (runtime.backend, runtime.precision)

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
        model = merge_adapters(self.model)
        return open_backend(model, self.processor, runtime.backend, runtime.precision, steps=self.steps)

    def reopen_backend(self) -> None:
        """Close the backend, so that the next photos are encoded with the weights that the model has then.

        The fingerprint is then computed again.
        """
        self.__dict__.pop("backend", None)
        self.__dict__.pop("fingerprint", None)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image."""
        return prepare_by(self.processor, image) if self.shorter_side is None else self._prepare_resized(image, self.steps)

    def prepare_crops(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (5, 3, side, side) of the crops of an image."""
        side = self.crop_side
        assert side is not None  # an encoder refuses crops without a size
        return five_crops(self._prepare_resized(image, self.steps.for_shorter_side(side)), side)

    def _prepare_resized(self, image: Any, steps: Preprocessing) -> NDArray[np.float32]:
        """Return the pixel values of an image in the size that some steps give it."""
        upright = to_rgb(image)
        is_photo = isinstance(upright, Image.Image)
        height, width = steps.resized_size(*np.asarray(upright).shape[:2])
        if height * width > MAX_SIDE**2:
            raise UnfitImageError(f"the photo would be resized to {width}x{height} pixels, which is too large")
        return prepare_by(self.processor, upright if is_photo else image, size={"height": height, "width": width})

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D)."""
        return self.backend.encode(pixel_values)

    def start_describing(self, pixel_values: NDArray[np.float32]) -> Finish:
        """Start to describe pixel values on a GPU; return a function that waits for the descriptors (B, D)."""
        return start_describing(self.backend, pixel_values)

    @torch.inference_mode()
    def describe_regions(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to the features of regions (B, R, D), by torch."""
        output = self.model(torch.as_tensor(pixel_values).to(self.device, self.model.dtype))
        return np.asarray(output.region_features.float().numpy(force=True))

    @property
    def can_resize_on_gpu(self) -> bool:
        """Whether the network runs on a GPU by torch, and all photos are resized to one size."""
        steps = (self.processor.do_resize, self.processor.do_rescale, self.processor.do_normalize)
        is_torch = self._open_backend is None and self.runtime.backend.startswith("torch")
        return self.device.type == "cuda" and is_torch and all(steps) and self.shorter_side is None

    def start_describing_bytes(self, photos: list[NDArray[Any]]) -> Finish:
        """Start to resize and describe photos that `gpu_resizing` has read; return a function that waits for descriptors."""
        backend: Any = self.backend
        finish: Finish = backend.start_photos(lambda: self.gpu_resizing.load(photos), photos)
        return finish

    @functools.cached_property
    def gpu_resizing(self) -> GpuResizing:
        """Resizing on the GPU, if `can_resize_on_gpu` is true."""
        backend: Any = self.backend
        return GpuResizing(self.processor, backend.streams)


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


def prepare_by(processor: D2VPRImageProcessor, image: Any, **changes: Any) -> NDArray[np.float32]:
    """Return the pixel values (3, height, width) of an image that an image processor gives, with changes of its settings."""
    pixel_values: NDArray[np.float32] = processor(image, return_tensors="pt", **changes)["pixel_values"][0].numpy(force=True)
    return pixel_values


def _resized_processor(processor: D2VPRImageProcessor, options: ModelOptions, patch_size: int) -> D2VPRImageProcessor:
    """Return an image processor for the size of the options: the same one if they leave its size.

    Raises:
        ValueError: If the size is not in whole patches, or there is no size.
    """
    size = options.image_size
    if size is not None:
        check_whole_patches(size, patch_size)
    if options.keep_aspect:
        size = size or size_of(processor)
        if size is None:
            raise ValueError("The image processor of this model does not resize, so `keep_aspect=True` needs `image_size`.")
        size = (min(size), min(size))
    if size is None or size == size_of(processor):
        return processor
    changes = {"size": {"height": size[0], "width": size[1]}, "do_resize": True}
    return type(processor)(**processor.to_dict() | changes)


def load_own_model(
    name: str,
    processor: D2VPRImageProcessor | None,
    device: str | torch.device | None,
    backend: str,
    precision: str | None,
    *,
    revision: str | None,
    options: ModelOptions = ModelOptions(),  # noqa: B008 - the default is immutable
) -> OwnModel:
    """Load a model of this package from a folder or the Hub; arguments as for [`OwnModel`].

    Raises:
        FileNotFoundError, ValueError: As [`load_model`] raises them.
    """
    pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
    model, processor = load_model(name, **pinned), processor or load_image_processor(name, **pinned)
    warn_of_other_aspect(name, options.keep_aspect)
    return OwnModel(model, processor, device, backend, precision, name=name, revision=revision, options=options)


def wrap_own_model(
    model: Any,
    processor: Any,
    device: str | torch.device | None,
    backend: str,
    precision: str | None,
    options: ModelOptions = ModelOptions(),  # noqa: B008 - the default is immutable
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
    own_model = OwnModel(model, processor, device, backend, precision, options=options)
    return own_model, None if is_changed_in_memory(model) else model.name_or_path
