"""Vision models of transformers, with the pooling that makes a descriptor of their tokens, as a [`PlaceEncoder`] runs them."""

import functools
import hashlib
import inspect
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from transformers import PreTrainedModel

from d2vpr_hf.backends.protocol import Backend, check_backend
from d2vpr_hf.backends.registry import convert
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.torch_backend import FeatureBackend, precision_of
from d2vpr_hf.encoders.graph_sources import find_graph_source
from d2vpr_hf.encoders.model_objects import (
    check_loaded,
    is_changed_in_memory,
    is_immovable,
    is_quantised,
    merge_adapters,
    without_adapters,
)
from d2vpr_hf.encoders.own_models import move_model
from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_families import OTHER, VIT_SIZES, ModelFamily, family_of
from d2vpr_hf.model_info.model_options import ModelOptions, Pool
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.model_info.preprocessor_files import (
    PROCESSOR_FILES,
    read_preprocessing,
    read_processor_file,
    read_timm_preprocessing,
)
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.modeling.image_processing_d2vpr import to_rgb_image
from d2vpr_hf.pretrained.loading import IDLE_TENSORS, adapter_settings, hash_weights, own_fields, plain_value
from d2vpr_hf.pretrained.model_files import fetch_file
from d2vpr_hf.pretrained.pooling import Features, RegionPooling, available_pools, pool_features, split_output
from d2vpr_hf.pretrained.stated_facts import find_card, stated_facts
from d2vpr_hf.pretrained.vision_towers import load_vision_tower, tower_of

logger = logging.getLogger(__name__)

_STAGE_STRIDES = (1, 2, 4, 8, 16, 32)  # of a patch's side; models with stages merge patches
_NOT_COMPUTING = ("initializer_range", "dropout", "drop_rate", "drop_path", "layerscale_value", "vocab", "loss", "use_cache")


class FeatureNetwork(nn.Module):
    """A vision model and the pooling of its tokens: images (B, 3, height, width) to descriptors (B, D), L2-normalised.

    Args:
        model: The vision model.
        family: Its family.
        pool: The pooling.
        layer: The layer whose tokens are pooled; `None` for the model's output.
    """

    def __init__(self, model: PreTrainedModel, family: ModelFamily, pool: Pool | None, layer: int | None) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.family = family
        self.pool: Pool = pool or ("gem" if layer is not None and family.pool == "pooler" else family.pool)
        self.regions = RegionPooling() if self.pool == "regions" else None
        parameters = inspect.signature(model.forward).parameters
        self._can_interpolate = "interpolate_pos_encoding" in parameters
        self._takes_patches = "spatial_shapes" in parameters  # NaFlex models
        self._patch_size = _patch_size(model.config)
        self._native_size = _image_size(model.config)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the descriptors (B, D) of images, in float32."""
        return pool_features(self.features(pixel_values), self.pool, self.regions)

    def features(self, pixel_values: torch.Tensor) -> Features:
        """Return class token, patches and the output of the model's own pooling."""
        image_size = (pixel_values.shape[2], pixel_values.shape[3])
        arguments: dict[str, Any] = {"return_dict": True}
        if self.layer is not None:
            arguments["output_hidden_states"] = True
        if self._can_interpolate and self._native_size is not None and image_size != self._native_size:
            arguments["interpolate_pos_encoding"] = True
        if self._takes_patches:
            output = self.model(**_to_patches(pixel_values, self._patch_size or 1), **arguments)
        else:
            output = self.model(pixel_values, **arguments)
        state = output.last_hidden_state if self.layer is None else self._layer_state(output)
        if state.ndim == 4 and _has_channels_last(self.model):
            state = state.permute(0, 3, 1, 2)  # (B, H, W, D) -> (B, D, H, W)
        factors = _STAGE_STRIDES if hasattr(self.model.config, "depths") else _STAGE_STRIDES[:1]
        strides = [self._patch_size * factor for factor in factors] if self._patch_size else []
        return split_output(
            output,
            state,
            image_size,
            num_prefix=self._num_prefix(),
            has_cls=self.family.has_cls is not False,
            strides=strides or list(_STAGE_STRIDES),
        )

    def _layer_state(self, output: Any) -> torch.Tensor:
        """Return the tokens of the layer, after the model's last norm where the model has one of this width."""
        states = output.hidden_states
        count = len(states) - 1
        layer = cast(int, self.layer)
        if not -count - 1 <= layer <= count:
            raise ValueError(f"`layer` must be in {-count}..{count} for this model, got {layer}.")
        if layer % (count + 1) == count:
            return cast(torch.Tensor, output.last_hidden_state)
        state: torch.Tensor = states[layer]
        norm = getattr(self.model, self.family.norm, None) if self.family.norm else None
        return norm(state) if norm is not None and list(norm.normalized_shape) == [state.shape[-1]] else state

    def _num_prefix(self) -> int | None:
        """Return the number of tokens before the patches; `None` if it must be found by their grid."""
        timm_model = getattr(self.model, "timm_model", None)
        if timm_model is not None:
            return int(getattr(timm_model, "num_prefix_tokens", 0))
        if self.family.has_cls is None:
            return None
        registers = getattr(self.model.config, "num_register_tokens", 0) or 0
        return int(self.family.has_cls) + int(registers)


class TransformersModel:
    """A vision model of transformers with its preprocessing and pooling, which is moved to a device and set to eval mode.

    Args:
        model: The vision tower.
        preprocessing: The steps from photos to pixels, as published.
        options: Pooling, layer and size.
        device: The device; `None` for a GPU if there is one, otherwise the CPU.
        backend: `"torch"`, `"torch-compiled"` or `"auto"`, which is torch.
        precision: Number type of weights and products; `None` for that of the weights.
        name: Folder or Hub id that the model can be loaded from again; `None` for one in memory only.
        revision: Commit of a model from the Hub.
        missing: Names of weights that the checkpoint lacks.
        facts: Title and origin.

    Raises:
        ValueError: If the model does not have the pooling or the layer, cannot process images of the size, or the backend does
            not run it.
    """

    depends_on_batch = False
    projection_dim: int | None = None

    def __init__(
        self,
        model: PreTrainedModel,
        preprocessing: Preprocessing,
        options: ModelOptions,
        *,
        device: str | torch.device | None = None,
        backend: str = "torch",
        precision: str | None = None,
        name: str | None = None,
        revision: str | None = None,
        missing: frozenset[str] = frozenset(),
        facts: ModelFacts | None = None,
    ) -> None:
        self.model = model.eval()
        self.model_name, self.model_revision = name, revision
        self._missing, self._facts = missing, facts
        family = family_of(model.config.model_type)
        self.preprocessing = _apply_size(preprocessing, options, model, family)
        self.network = FeatureNetwork(self.model, family, options.pool, options.layer).eval()
        self.model_options = replace(options, pool=self.network.pool).to_dict()
        self._backend_choice = _settle_backend(model, backend, precision)
        self.device = move_model(model, device)
        if not is_immovable(model):
            self.network.to(self.device)
        self.descriptor_dim = self._measure_descriptor()

    def _measure_descriptor(self) -> int:
        """Return the width of the descriptor of a black image, after checking that the model can process it."""
        height, width = self.preprocessing.input_size or self.preprocessing.resized_size(480, 640)
        pixel_values = torch.zeros(1, 3, height, width, device=self.device, dtype=self.model.dtype)
        try:
            with torch.inference_mode():
                features = self.network.features(pixel_values)
                repeated = self.network.features(pixel_values) if self.network.family is OTHER else features
        except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f"{self._title()} cannot process images of {height}x{width} pixels: {error}") from error
        if not torch.equal(features.patches, repeated.patches):
            raise ValueError(
                f"{self._title()} gives other features for the same image each time, as a masked autoencoder does."
            )
        pool = self.network.pool
        has_pooler = not any(key.removeprefix("vision_model.").startswith(("pooler.", "head.")) for key in self._missing)
        if self.network.layer is not None or not has_pooler:
            features = features._replace(pooler=None)
        allowed = available_pools(features)
        if pool not in allowed:
            layer = "" if self.network.layer is None else f" at layer {self.network.layer}"
            raise ValueError(f"{self._title()}{layer} has no pooling {pool!r}; `pool` can be {', '.join(allowed)}.")
        with torch.inference_mode():
            return int(pool_features(features, pool, self.network.regions).shape[1])

    def _title(self) -> str:
        return self.model_name or f"A model of type {self.model.config.model_type}"

    @property
    def config(self) -> Any:
        """The configuration of the vision tower."""
        return self.model.config

    @property
    def patch_size(self) -> int | None:
        """Pixels that the sides of images must be multiples of; `None` for a network without such a rule."""
        family = family_of(self.model.config.model_type)
        return _patch_size(self.model.config) if family.needs_whole_patches else None

    def tokens(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return the tokens (B, rows, columns, D) of the patches that are pooled; `None` if they have no grid."""
        with torch.inference_mode():
            features = self.network.features(torch.as_tensor(pixel_values).to(self.device, self.model.dtype))
        if features.grid_size is None:
            return None
        return features.patches.unflatten(1, features.grid_size).float().numpy(force=True)

    @property
    def facts(self) -> ModelFacts:
        """Title and origin of the model, with the licence and the data sets that its card states."""
        facts = self._facts or ModelFacts(title_of(self.model))
        return replace(facts, num_parameters=sum(weight.numel() for weight in self.model.parameters()))

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that photos are resized to; `None` if these depend on the photo."""
        return self.preprocessing.input_size

    @property
    def decoding_size(self) -> tuple[int, int] | None:
        """Height and width that decoded photos must cover; `None` to decode every pixel."""
        return self.preprocessing.enlarged_decoding_size

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of weights, configuration, pooling and preprocessing.

        Names of weights are not part of it, because they change with the version of transformers; their order is.
        """
        config = self.model.config
        changed = {
            name: plain_value(getattr(config, name))
            for name, default in ((name, getattr(type(config), name, None)) for name in own_fields(config))
            if getattr(config, name) != default and not any(part in name for part in _NOT_COMPUTING)
        }
        network = self.network
        default = Preprocessing().to_dict()  # a value that a later version adds has its default here
        steps = {name: value for name, value in self.preprocessing.to_dict().items() if value != default[name]}
        settings = [config.model_type, changed, plain_value(steps), network.pool, network.layer]
        if adapters := adapter_settings(self.model):
            settings.append(adapters)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, value in self.model.state_dict().items():
            if name not in self._missing and not name.endswith(IDLE_TENSORS):
                hash_weights(digest, "", value)
        return digest.hexdigest()

    @property
    def runtime(self) -> Runtime:
        """Backend and precision, without opening the backend."""
        return self._backend_choice

    @property
    def device_type(self) -> str:
        """Type of the model's device."""
        return self.device.type

    @functools.cached_property
    def backend(self) -> Backend:
        """The backend that runs the network."""
        runtime = self.runtime
        if not runtime.backend.startswith("torch"):
            return convert(find_graph_source(self), runtime, self.device)
        compiled = runtime.backend == "torch-compiled"
        precision = None if is_quantised(self.model) else runtime.precision
        return FeatureBackend(self.network, self.device, self.model.dtype, precision, compiled=compiled)

    def reopen_backend(self) -> None:
        """Close the backend, so that the next photos are encoded with the weights that the model has then."""
        self.__dict__.pop("backend", None)

    def prepare(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (3, height, width) of an image."""
        return self.preprocessing(to_rgb(image))

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D)."""
        return self.backend.encode(pixel_values)


@functools.cache
def _array_reader() -> D2VPRImageProcessor:
    return D2VPRImageProcessor()


def to_rgb(image: Any) -> Image.Image | NDArray[Any]:
    """Return an upright RGB image: a PIL image, or the array (height, width, 3) in 0..255 of an array or tensor.

    Images are read as [`D2VPRImageProcessor`] reads them.
    """
    if isinstance(image, Image.Image):
        return cast(Image.Image, to_rgb_image(image))
    reader = _array_reader()
    (single,) = reader._prepare_images_structure(image)
    pixels = reader.process_image(single, do_rescale=True)  # (3, H, W)
    return pixels.permute(1, 2, 0).numpy(force=True)


def load_transformers_model(
    name: str | Path,
    stored: dict[str, Any],
    processor: Any,
    options: ModelOptions,
    *,
    device: str | torch.device | None,
    backend: str,
    precision: str | None,
    saved_name: str,
    revision: str | None,
    facts: ModelFacts | None = None,
) -> TransformersModel:
    """Load a vision model of transformers from a folder or the Hub.

    Args:
        name: Folder or Hub id.
        stored: The contents of its `config.json`.
        processor: As for [`choose_preprocessing`].
        options: Pooling, layer and size.
        device: As for [`TransformersModel`].
        backend: As for [`TransformersModel`].
        precision: As for [`TransformersModel`].
        saved_name: Name that the model can be loaded by from any folder.
        revision: Commit of a model from the Hub.
        facts: Title and origin; `None` for those of the model's family and card.

    Raises:
        FileNotFoundError, ValueError: As [`load_vision_tower`] and [`TransformersModel`] raise them.
        ImportError: If the model needs timm, which is not installed.
    """
    tower = load_vision_tower(name, stored, revision)
    preprocessing = choose_preprocessing(tower.model, processor, name, stored, revision)
    facts = facts or _find_facts(tower.model, name, saved_name, revision)
    return TransformersModel(
        tower.model,
        preprocessing,
        options,
        device=device,
        backend=backend,
        precision=precision,
        name=saved_name,
        revision=revision,
        missing=tower.missing,
        facts=facts,
    )


def _find_facts(model: PreTrainedModel, name: str | Path, saved_name: str, revision: str | None) -> ModelFacts:
    """Return title and origin of a model: those of the table of known encoders, or those that its card states."""
    if (known := find_known(saved_name)) is not None:
        return replace(known.facts, num_parameters=None)  # the network's own number is added
    stated = stated_facts(find_card(name, revision) or "")
    arxiv = family_of(model.config.model_type).arxiv
    return ModelFacts(title_of(model), stated.license, stated.training_data, arxiv)


def wrap_transformers_model(
    model: Any,
    processor: Any,
    options: ModelOptions,
    *,
    device: str | torch.device | None,
    backend: str,
    precision: str | None,
    name: str | None,
) -> TransformersModel:
    """Return a model object of transformers as a [`PlaceEncoder`] runs it; arguments as for [`load_transformers_model`]."""
    check_loaded(without_adapters(model))
    tower = tower_of(without_adapters(merge_adapters(model)))
    preprocessing = choose_preprocessing(tower, processor, name, {}, None)
    facts = ModelFacts(title_of(tower), arxiv=family_of(tower.config.model_type).arxiv)
    choices: dict[str, Any] = {"device": device, "backend": backend, "precision": precision}
    return TransformersModel(
        tower, preprocessing, options, **choices, name=None if is_changed_in_memory(model) else name, facts=facts
    )


def choose_preprocessing(
    model: PreTrainedModel, processor: Any, name: str | Path | None, stored: dict[str, Any], revision: str | None
) -> Preprocessing:
    """Return the steps from photos to pixels for a model.

    Args:
        model: The vision tower.
        processor: A [`Preprocessing`], an image processor of transformers or a processor that contains one; `None` for the file
            of the model's folder, or the steps of its family if there is none.
        name: Folder or Hub id of the model; `None` for one in memory only.
        stored: The contents of its `config.json`.
        revision: Commit of a model on the Hub.

    Raises:
        TypeError: If `processor` is of another type.
        ValueError: If the settings have a step that this package does not have.
    """
    if isinstance(processor, Preprocessing):
        return processor
    if processor is not None:
        processor = getattr(processor, "image_processor", processor)
        if not hasattr(processor, "to_dict"):
            raise TypeError(f"Expected an image processor of transformers, or a Preprocessing; got {type(processor).__name__}.")
        values = dict(processor.to_dict())
        return read_preprocessing({"image_processor_type": type(processor).__name__} | values)
    if model.config.model_type == "timm_wrapper":
        return read_timm_preprocessing(stored or model.config.to_dict())
    files = [] if name is None else [fetch_file(name, file, revision) for file in PROCESSOR_FILES]
    folder = next((path.parent for path in files if path is not None), None)
    stored_steps = None if folder is None else read_processor_file(folder)
    if stored_steps:
        return read_preprocessing(
            stored_steps, default_type=family_of(model.config.model_type).processor.get("image_processor_type")
        )
    return _default_preprocessing(model, name)


def _default_preprocessing(model: PreTrainedModel, name: str | Path | None) -> Preprocessing:
    """Return the preprocessing of the published models of a family, with a warning."""
    family = family_of(model.config.model_type)
    if not family.processor:
        raise ValueError(
            f"{name or 'This model'} has no preprocessor_config.json, and the preprocessing of models of type "
            f"{model.config.model_type!r} is not known. Give an image processor or a Preprocessing."
        )
    preprocessing = read_preprocessing(family.processor)
    side = _image_size(model.config)
    if side is not None and model.config.model_type not in ("dinov2", "dinov2_with_registers"):
        preprocessing = preprocessing.for_size(side, crop=True)
    logger.warning(
        "%s has no preprocessor_config.json: photos are prepared as for published models of its family (%s, mean %s, std %s).",
        name or "This model",
        preprocessing.resample,
        preprocessing.mean,
        preprocessing.std,
    )
    return preprocessing


def _apply_size(published: Preprocessing, options: ModelOptions, model: PreTrainedModel, family: ModelFamily) -> Preprocessing:
    """Return the steps for the size and the crop of the options.

    Raises:
        ValueError: If the model cannot process images of the size.
    """
    if options.image_size is not None:
        preprocessing = published.for_size(options.image_size, crop=options.center_crop)
        patch_size = _patch_size(model.config) if family.needs_whole_patches else None
        is_published = options.image_size == (published.input_size or _image_size(model.config))
        if patch_size is not None and not is_published and any(side % patch_size for side in options.image_size):
            raise ValueError(
                f"`image_size` must be a multiple of the patch size of this model, {patch_size} pixels, got "
                f"{options.image_size[0]}x{options.image_size[1]}; the nearest is {_nearest(options.image_size, patch_size)}."
            )
        return preprocessing
    if options.center_crop:
        if published.crop_size is None:
            raise ValueError("The preprocessing of this model has no crop. Leave `center_crop` out.")
        return published
    if published.crop_size is not None:
        logger.warning(
            "Whole photos are resized to %dx%d pixels, though this model's preprocessing crops them at the centre; "
            "`center_crop=True` crops.",
            *published.crop_size,
        )
    return published.for_whole_images()


def _nearest(size: tuple[int, int], patch_size: int) -> str:
    height, width = (max(patch_size, round(side / patch_size) * patch_size) for side in size)
    return f"{height}x{width}"


def _settle_backend(model: PreTrainedModel, backend: str, precision: str | None) -> Runtime:
    """Return the runtime; `"auto"` and `None` are replaced by a backend and a precision.

    Raises:
        ValueError: If the backend does not run models of transformers, or does not have the precision.
    """
    check_backend(backend, precision)
    name = "torch" if backend == "auto" else backend
    check_backend(name, precision)
    if is_quantised(model) and (precision is not None or not name.startswith("torch")):
        raise ValueError(
            "This model has quantised weights and runs by torch, in their type. Leave `precision` and `backend` out."
        )
    if not name.startswith("torch"):
        return Runtime(name, precision or "fp32")
    return Runtime(name, precision or precision_of(cast(Any, model)))


def title_of(model: PreTrainedModel) -> str:
    """Return a title such as "DINOv2 ViT-S/14", or with the number of parameters for other networks."""
    config = model.config
    family = family_of(config.model_type)
    title = family.title or config.model_type
    architecture = getattr(config, "architecture", None)  # of a timm model
    letter = VIT_SIZES.get(getattr(config, "hidden_size", None) or 0)
    patch_size = _patch_size(config)
    if architecture:
        return f"{title} {architecture}"
    if family.needs_whole_patches and letter and patch_size:
        return f"{title} {letter}/{patch_size}" if title == "ViT" else f"{title} ViT-{letter}/{patch_size}"
    return f"{title}, {sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters"


def _patch_size(config: Any) -> int | None:
    """Return the side of a patch in pixels; `None` for a network without patches."""
    size = getattr(config, "patch_size", None)
    size = size[0] if isinstance(size, list | tuple) else size
    return size if isinstance(size, int) else None


def _image_size(config: Any) -> tuple[int, int] | None:
    """Return the height and width that a model's position embeddings are made for; `None` if it has none."""
    size = getattr(config, "image_size", None)
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    return (size, size) if isinstance(size, int) else None


def _has_channels_last(model: Any) -> bool:
    """Return whether feature maps are (B, H, W, D), as those of timm's Swin."""
    return getattr(getattr(model, "timm_model", None), "output_fmt", "NCHW") == "NHWC"


def _to_patches(pixel_values: torch.Tensor, patch_size: int) -> dict[str, torch.Tensor]:
    """Return the inputs of a NaFlex model: flat patches (B, N, patch_size² * 3), their mask and the shapes of the grids."""
    batch, _, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values[:, :, : rows * patch_size, : columns * patch_size]
    patches = patches.unflatten(3, (columns, patch_size)).unflatten(2, (rows, patch_size))  # (B, 3, rows, P, columns, P)
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, rows * columns, P * P * 3)
    shapes = torch.tensor([[rows, columns]] * batch, device=pixel_values.device)
    mask = torch.ones(batch, rows * columns, dtype=torch.int32, device=pixel_values.device)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
