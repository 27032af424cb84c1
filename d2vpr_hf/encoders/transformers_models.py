"""Vision models of transformers, with the pooling that makes a descriptor of their tokens, as a [`PlaceEncoder`] runs them."""

import functools
import hashlib
import json
import logging
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from d2vpr_hf.backends.protocol import Backend, Finish, check_backend, start_describing
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
from d2vpr_hf.encoders.query_crops import crop_side, prepare_crops
from d2vpr_hf.encoders.rgb_images import to_rgb
from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_families import OTHER, VIT_SIZES, family_of
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing, square_decoding_size
from d2vpr_hf.model_info.region_boxes import Box, pyramid_boxes
from d2vpr_hf.pretrained.feature_network import FeatureNetwork, patch_size_of
from d2vpr_hf.pretrained.loading import IDLE_TENSORS, adapter_settings, hash_weights, own_fields, plain_value
from d2vpr_hf.pretrained.model_preprocessing import apply_size, choose_preprocessing
from d2vpr_hf.pretrained.pooling import RegionPooling, available_pools, pool_features
from d2vpr_hf.pretrained.stated_facts import find_card, stated_facts
from d2vpr_hf.pretrained.vision_towers import load_vision_tower, tower_of

logger = logging.getLogger(__name__)

_NOT_COMPUTING = ("initializer_range", "dropout", "drop_rate", "drop_path", "layerscale_value", "vocab", "loss", "use_cache")


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
        self.preprocessing = apply_size(preprocessing, options, model, family)
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
        return patch_size_of(self.model.config) if family.needs_whole_patches else None

    def tokens(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return the tokens (B, rows, columns, D) of the patches that are pooled; `None` if they have no grid."""
        with torch.inference_mode():
            features = self.network.features(torch.as_tensor(pixel_values).to(self.device, self.model.dtype))
        if features.grid_size is None:
            return None
        return features.patches.unflatten(1, features.grid_size).float().numpy(force=True)

    @property
    def region_boxes(self) -> list[Box]:
        """Boxes of the R cells that tokens of patches are pooled in: CricaVPR's pyramid, the whole photo first."""
        return pyramid_boxes()

    @property
    def holds_regions(self) -> bool:
        """Whether a descriptor is the features of its regions in a row."""
        return self.network.pool == "regions"

    @functools.cached_property
    def region_dim(self) -> int:
        """Width of the features of a region."""
        height, width = self.preprocessing.input_size or self.preprocessing.resized_size(480, 640)
        return self.describe_regions(np.zeros((1, 3, height, width), np.float32)).shape[2]

    @torch.inference_mode()
    def describe_regions(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to the features (B, R, D) of cells, by torch: the GeM of their tokens.

        Raises:
            ValueError: If the tokens have no grid, or too small a one.
        """
        features = self.network.features(torch.as_tensor(pixel_values).to(self.device, self.model.dtype))
        if features.grid_size is None:
            raise ValueError(f"The tokens of {self._title()} have no grid of patches, so that it has no regions.")
        pooled = pool_features(features, "regions", RegionPooling().to(self.device))
        return pooled.unflatten(1, (len(self.region_boxes), -1)).float().numpy(force=True)

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
    def shorter_side(self) -> int | None:
        """Length of the shorter side of photos that keep their aspect by an option; `None` otherwise."""
        return self.preprocessing.shortest_edge if self.model_options.get("keep_aspect") else None

    @property
    def decoding_size(self) -> tuple[int, int] | None:
        """Height and width that decoded photos must cover; `None` to decode every pixel."""
        return self.preprocessing.enlarged_decoding_size or square_decoding_size(self.shorter_side)

    @property
    def crop_side(self) -> int | None:
        """Side in pixels of the crops of queries; `None` if the input size depends on the photo."""
        return crop_side(self.preprocessing)

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

    def prepare_crops(self, image: Any) -> NDArray[np.float32]:
        """Return the pixel values (5, 3, side, side) of the crops of an image."""
        return prepare_crops(self.preprocessing, image)

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D)."""
        return self.backend.encode(pixel_values)

    def start_describing(self, pixel_values: NDArray[np.float32]) -> Finish:
        """Start to describe pixel values on a GPU; return a function that waits for the descriptors (B, D)."""
        return start_describing(self.backend, pixel_values)


def load_transformers_model(
    name: str,
    stored: dict[str, Any],
    processor: Any,
    options: ModelOptions,
    *,
    device: str | torch.device | None,
    backend: str,
    precision: str | None,
    revision: str | None,
    facts: ModelFacts | None = None,
) -> TransformersModel:
    """Load a vision model of transformers from a folder or the Hub.

    Args:
        name: Folder (absolute) or Hub id.
        stored: The contents of its `config.json`.
        processor: As for [`choose_preprocessing`].
        options: Pooling, layer and size.
        device: As for [`TransformersModel`].
        backend: As for [`TransformersModel`].
        precision: As for [`TransformersModel`].
        revision: Commit of a model from the Hub.
        facts: Title and origin; `None` for those of the model's family and card.

    Raises:
        FileNotFoundError, ValueError: As [`load_vision_tower`] and [`TransformersModel`] raise them.
        ImportError: If the model needs timm, which is not installed.
    """
    tower = load_vision_tower(name, stored, revision)
    preprocessing = choose_preprocessing(tower.model, processor, name, stored, revision)
    facts = facts or _find_facts(tower.model, name, revision)
    return TransformersModel(
        tower.model,
        preprocessing,
        options,
        device=device,
        backend=backend,
        precision=precision,
        name=name,
        revision=revision,
        missing=tower.missing,
        facts=facts,
    )


def _find_facts(model: PreTrainedModel, name: str, revision: str | None) -> ModelFacts:
    """Return title and origin of a model: those of the table of known encoders, or those that its card states."""
    if (known := find_known(name)) is not None:
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
    patch_size = patch_size_of(config)
    if architecture:
        return f"{title} {architecture}"
    if family.needs_whole_patches and letter and patch_size:
        return f"{title} {letter}/{patch_size}" if title == "ViT" else f"{title} ViT-{letter}/{patch_size}"
    return f"{title}, {sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters"
