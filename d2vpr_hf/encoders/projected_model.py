"""A model of another library with a projection of its descriptors, which `d2vpr fit-projection` stored next to it."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from d2vpr_hf.encoders.protocol import DescriptorModel
from d2vpr_hf.model_info.encoder_card import EncoderCard, hash_files, locate_file
from d2vpr_hf.model_info.model_options import ModelOptions


class ProjectedModel:
    """A model whose descriptors are projected: `(descriptor - mean) @ components.T`.

    All other attributes are those of the model.

    Args:
        model: The model.
        mean: (D_model,) float32.
        components: (D, D_model) float32.
        normalize: Whether projected descriptors are divided by their norms.
    """

    def __init__(
        self, model: DescriptorModel, mean: NDArray[np.float32], components: NDArray[np.float32], normalize: bool
    ) -> None:
        if mean.shape != (model.descriptor_dim,) or components.ndim != 2 or components.shape[1] != model.descriptor_dim:
            raise ValueError(
                f"The projection does not fit the model: expected a mean of {model.descriptor_dim} numbers and components as "
                f"wide, got the shapes {mean.shape} and {components.shape}."
            )
        self._model, self._normalize = model, normalize
        self._mean, self._components = mean, components

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._model, name)

    @property
    def descriptor_dim(self) -> int:
        """Width of the projected descriptors."""
        return len(self._components)

    @property
    def projection_dim(self) -> int:
        """Width of the projected descriptors."""
        return len(self._components)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the model's fingerprint and the projection."""
        digest = hashlib.sha256(json.dumps([self._model.fingerprint, self._normalize]).encode())
        for values in (self._mean, self._components):
            digest.update(f"{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network of the model, and the projection."""
        network = cast(nn.Module, self._model.network)  # type: ignore[attr-defined] # models that can be exported have it
        return nn.Sequential(network, ProjectionLayer(self._mean, self._components, self._normalize)).eval()

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to projected descriptors (B, D)."""
        return project(self._model.describe(pixel_values), self._mean, self._components, self._normalize)


class ProjectionLayer(nn.Module):
    """The projection as a layer; arguments as for [`ProjectedModel`]."""

    mean: torch.Tensor
    components: torch.Tensor

    def __init__(self, mean: NDArray[np.float32], components: NDArray[np.float32], normalize: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("components", torch.from_numpy(components))
        self.normalize = normalize

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Map descriptors (B, D_model) to projected ones (B, D)."""
        projected = (descriptors - self.mean) @ self.components.T
        return nn.functional.normalize(projected, dim=1) if self.normalize else projected


def project(
    descriptors: NDArray[np.float32], mean: NDArray[np.float32], components: NDArray[np.float32], normalize: bool
) -> NDArray[np.float32]:
    """Return projected descriptors (B, D) of descriptors (B, D_model)."""
    projected = (descriptors - mean) @ components.T
    if normalize:
        projected = projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12)
    return np.asarray(projected, np.float32)


def add_projection(model: DescriptorModel, folder: Path, card: EncoderCard) -> DescriptorModel:
    """Return a model with the projection that its card names; the model itself if the card names none.

    Raises:
        FileNotFoundError: If the file of the projection is missing.
        ValueError: If it is damaged, is not the one that the card belongs to, or does not fit the model.
    """
    if card.projection is None:
        return model
    hash_files(folder, [card.projection], card)
    path = locate_file(folder, card.projection)
    try:
        tensors = load_file(path)
        mean, components = (tensors[key].astype(np.float32) for key in ("mean", "components"))
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a projection with `mean` and `components`, or is damaged ({error}).") from error
    return ProjectedModel(model, mean, components, card.normalize_projection)


def options_of(card: EncoderCard, options: ModelOptions, name: object) -> ModelOptions:
    """Return the options that a card states, after comparing them with options that were given.

    Raises:
        ValueError: If an option was given that differs from the card's.
    """
    stated = ModelOptions.from_dict(card.model_options)
    differing = [key for key, value in options.to_dict().items() if stated.to_dict().get(key) != value]
    if differing and card.projection is not None:
        raise ValueError(
            f"The card of {name} states how its descriptors are computed, and the projection fits only these. Leave "
            f"{', '.join(f'`{key}`' for key in differing)} out."
        )
    return ModelOptions.from_dict(stated.to_dict() | options.to_dict())
