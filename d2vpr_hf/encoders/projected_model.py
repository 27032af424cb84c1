"""A model of another library with a projection of its descriptors, which `d2vpr fit-projection` stored next to it."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from d2vpr_hf.backends.protocol import Finish
from d2vpr_hf.encoders.protocol import DescriptorModel, start_model
from d2vpr_hf.model_info.encoder_card import EncoderCard, hash_files
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.stored_projection import StoredProjection, read_projection


class ProjectedModel:
    """A model whose descriptors are projected: `(descriptor - mean) @ components.T`.

    All other attributes are those of the model.

    Args:
        model: The model.
        projection: The projection.
    """

    compatible_with: tuple[str, ...] = ()  # that of the model without the projection does not hold
    holds_regions = False  # the projection mixes them

    def __init__(self, model: DescriptorModel, projection: StoredProjection) -> None:
        self._model, self._projection = model, projection

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._model, name)

    @property
    def descriptor_dim(self) -> int:
        """Width of the projected descriptors."""
        return len(self._projection.components)

    @property
    def projection_dim(self) -> int:
        """Width of the projected descriptors."""
        return len(self._projection.components)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the model's fingerprint and the projection."""
        digest = hashlib.sha256(json.dumps([self._model.fingerprint, self._projection.normalize]).encode())
        for values in (self._projection.mean, self._projection.components):
            digest.update(f"{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network of the model, and the projection."""
        network = cast(nn.Module, self._model.network)  # type: ignore[attr-defined] # models that can be exported have it
        return nn.Sequential(network, ProjectionLayer(self._projection)).eval()

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to projected descriptors (B, D)."""
        return self._projection(self._model.describe(pixel_values))

    def start_describing(self, pixel_values: NDArray[np.float32]) -> Finish:
        """Start to describe pixel values on a GPU, if the model can; return a function that waits for descriptors (B, D)."""
        finish = start_model(self._model, pixel_values)
        return lambda: self._projection(finish())


class ProjectionLayer(nn.Module):
    """A projection as a layer."""

    mean: torch.Tensor
    components: torch.Tensor

    def __init__(self, projection: StoredProjection) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(projection.mean))
        self.register_buffer("components", torch.from_numpy(projection.components))
        self.normalize = projection.normalize

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Map descriptors (B, D_model) to projected ones (B, D)."""
        projected = (descriptors - self.mean) @ self.components.T
        return nn.functional.normalize(projected, dim=1) if self.normalize else projected


def add_projection(model: DescriptorModel, folder: Path, card: EncoderCard) -> DescriptorModel:
    """Return a model with the projection that its card names; the model itself if the card names none.

    Raises:
        FileNotFoundError: If the file of the projection is missing.
        ValueError: If it is damaged, is not the one that the card belongs to, or does not fit the model.
    """
    if card.projection is not None:
        hash_files(folder, [card.projection], card)
    projection = read_projection(folder, card, model.descriptor_dim)
    return model if projection is None else ProjectedModel(model, projection)


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
