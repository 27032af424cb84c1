"""The first numbers of a model's descriptors as descriptors of their own, as Matryoshka training (arXiv 2205.13147) allows.

This module loads no torch.
"""

import hashlib
import json
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.protocol import Finish
from d2vpr_hf.encoders.protocol import DescriptorModel, start_model

logger = logging.getLogger(__name__)


class PrefixModel:
    """A model whose descriptors are cut after some numbers and divided by their length.

    All other attributes are those of the model.

    Args:
        model: The model.
        dim: Number of the first numbers to take.

    Raises:
        ValueError: If the descriptors have fewer numbers.
    """

    holds_regions = False  # the first numbers are a part of them

    def __init__(self, model: DescriptorModel, dim: int) -> None:
        self._model = model
        self.descriptor_dim = dim
        if dim > model.descriptor_dim:
            raise ValueError(
                f"The descriptors of {model.model_name or 'this model'} have {model.descriptor_dim} numbers, got `dim={dim}`."
            )
        if model.projection_dim is None:
            logger.warning(
                "%s has no projection whose first numbers count most, as PCA or a Matryoshka head has it: the first %d of %d "
                "numbers may describe a part of the photo only.",
                model.model_name or "This model",
                dim,
                model.descriptor_dim,
            )

        trained = getattr(model, "trained_prefixes", None)  # models of other programs do not state them
        if trained is not None and dim not in (*trained, model.descriptor_dim):
            logger.warning(
                "The head of %s was trained for the whole descriptors%s: the first %d of %d numbers may describe a part of the "
                "photo only.",
                model.model_name or "this model",
                f" and `dim` {', '.join(map(str, trained))}" if trained else "",
                dim,
                model.descriptor_dim,
            )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "network":  # the network gives the whole descriptors: it must not be exported
            raise AttributeError(name)
        return getattr(self._model, name)

    @property
    def model_options(self) -> dict[str, Any]:
        """The options of the model, and the number of numbers."""
        return {**self._model.model_options, "dim": self.descriptor_dim}

    @property
    def projection_dim(self) -> int | None:
        """Width of the descriptors, if the model has a projection."""
        return None if self._model.projection_dim is None else self.descriptor_dim

    @property
    def fingerprint(self) -> str:
        """Hash of the model's fingerprint and the number of numbers."""
        return prefix_fingerprint(self._model.fingerprint, self.descriptor_dim)

    @property
    def compatible_with(self) -> tuple[str, ...]:
        """Fingerprints of as many numbers of the models that the model is compatible with."""
        whole = getattr(self._model, "compatible_with", ())
        return tuple(prefix_fingerprint(fingerprint, self.descriptor_dim) for fingerprint in whole)

    def describe(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map pixel values (B, 3, height, width) to descriptors (B, D) of unit length."""
        return prefix(self._model.describe(pixel_values), self.descriptor_dim)

    def start_describing(self, pixel_values: NDArray[np.float32]) -> Finish:
        """Start to describe pixel values on a GPU, if the model can; return a function that waits for descriptors (B, D)."""
        finish = start_model(self._model, pixel_values)
        return lambda: prefix(finish(), self.descriptor_dim)


def prefix_fingerprint(fingerprint: str, dim: int) -> str:
    """Return the fingerprint of a model that takes the first numbers of the descriptors of another one."""
    return hashlib.sha256(json.dumps([fingerprint, "dim", dim]).encode()).hexdigest()


def prefix(descriptors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Return the first numbers of descriptors (B, D), divided by their length; a length of 0 stays."""
    first = descriptors[:, :dim]
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    return np.ascontiguousarray(first / np.where(lengths > 0, lengths, 1)).astype(np.float32)


__all__ = ["PrefixModel", "prefix", "prefix_fingerprint"]
