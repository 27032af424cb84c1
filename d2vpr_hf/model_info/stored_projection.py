"""A projection of descriptors in a file next to a model, which its card names. Importing this module loads no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.model_info.encoder_card import EncoderCard, locate_file
from d2vpr_hf.utils.unit_length import divide_by_norms


@dataclass(frozen=True)
class StoredProjection:
    """A projection: `(descriptor - mean) @ components.T`.

    Attributes:
        mean: (D_model,) float32.
        components: (D, D_model) float32.
        normalize: Whether projected descriptors are divided by their norms.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    normalize: bool

    def __call__(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return projected descriptors (B, D) of descriptors (B, D_model)."""
        projected = np.asarray((descriptors - self.mean) @ self.components.T, np.float32)
        return divide_by_norms(projected) if self.normalize else projected


def read_projection(folder: Path, card: EncoderCard, width: int | None) -> StoredProjection | None:
    """Read the projection that a card names; `None` if it names none.

    Args:
        folder: Folder of the card.
        card: The card.
        width: Width D_model of the model's descriptors; `None` if it is not known.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged, or does not fit the model.
    """
    if card.projection is None:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = locate_file(folder, card.projection)
    try:
        tensors = load_file(path)
        mean, components = (tensors[key].astype(np.float32) for key in ("mean", "components"))
    except (SafetensorError, KeyError, AttributeError) as error:  # numpy lacks types of 8 bits
        raise ValueError(f"{path} is not a projection with `mean` and `components`, or is damaged ({error}).") from error
    width = width or mean.size
    if mean.shape != (width,) or components.shape != (card.descriptor_dim, width):
        raise ValueError(
            f"Expected a projection of {width} numbers to {card.descriptor_dim} in {path}, got a mean of the shape "
            f"{mean.shape} and components of the shape {components.shape}."
        )
    return StoredProjection(mean, components, card.normalize_projection)
