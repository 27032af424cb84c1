"""Similarity of the patches of two photos, for vision transformers whose descriptors are not made of regions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.readers import PhotoSource
from d2vpr_hf.readers.photos import open_named_photo

PATCHES_NOTE = (
    "A bright patch has a similar patch somewhere in the other photo. Pooling mixes all patches, so that the similarity of the "
    "photos is not a sum over them."
)


@dataclass(frozen=True)
class PatchMap:
    """The patches of one photo.

    Attributes:
        similarity: (rows, columns) float32 in [-1, 1], the largest cosine of each patch with a patch of the other photo.
        size: Height and width of the photo in pixels.
        box: Left, top, right and bottom in pixels of the part of the photo that the patches cover. It is the whole photo unless
            the preprocessing crops or pads.
    """

    similarity: NDArray[np.float32]
    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the patches as JSON values."""
        return {
            "height": self.size[0],
            "width": self.size[1],
            "box": [round(side, 2) for side in self.box],
            "similarity": self.similarity.astype(float).round(4).tolist(),
        }


@dataclass(frozen=True)
class PatchSimilarity:
    """The patches of two photos, compared with each other.

    Attributes:
        query: Patches of the query, compared with those of the match.
        match: Patches of the match, compared with those of the query.
        cosine: Cosine of the descriptors of both photos.
        note: A note for readers.
    """

    query: PatchMap
    match: PatchMap
    cosine: float
    note: str = PATCHES_NOTE

    def to_dict(self) -> dict[str, Any]:
        """Return the maps as JSON values, for the Space's `/explain`."""
        maps = {"query": self.query.to_dict(), "match": self.match.to_dict()}
        return {"cosine": self.cosine, "patches": maps, "note": self.note}


def has_patches(encoder: PlaceEncoder) -> bool:
    """Return whether the model of an encoder gives the tokens of patches."""
    return callable(getattr(encoder.descriptor_model, "tokens", None))


def compare_patches(encoder: PlaceEncoder, query: PhotoSource, match: PhotoSource) -> PatchSimilarity:
    """Compare the patches of two photos.

    Args:
        encoder: Encoder whose model gives tokens of patches.
        query: The photo that was searched for.
        match: The photo to compare with the query.

    Raises:
        ValueError: If the tokens of the model have no grid.
        UnreadablePhotoError: If a photo cannot be decoded; the message names it.
    """
    model: Any = encoder.descriptor_model
    images = [open_named_photo(photo) for photo in (query, match)]
    pixels = [model.prepare(image)[np.newaxis] for image in images]  # (1, 3, height, width) each
    tokens = [model.tokens(values) for values in pixels]
    if any(grid is None for grid in tokens):
        raise ValueError(f"The tokens of {model.facts.title} have no grid, so that patches cannot be compared.")
    descriptors = [model.describe(values)[0].astype(np.float64) for values in pixels]
    lengths = np.linalg.norm(descriptors, axis=1).prod()
    query_map, match_map = patch_similarities(tokens[0][0], tokens[1][0])
    maps = [
        PatchMap(
            similarity, (image.height, image.width), covered_box(model.preprocessing, image.height, image.width, values.shape)
        )
        for similarity, image, values in zip((query_map, match_map), images, pixels, strict=True)
    ]
    return PatchSimilarity(maps[0], maps[1], float(descriptors[0] @ descriptors[1] / max(lengths, 1e-12)))


def patch_similarities(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return, for each patch of two photos, its largest cosine with a patch of the other photo.

    Args:
        first: Tokens (rows, columns, C) of one photo.
        second: Tokens of the other photo, with any numbers of rows and columns.
    """
    units = [_unit_rows(tokens.reshape(-1, tokens.shape[-1])) for tokens in (first, second)]  # (rows * columns, C)
    cosines = np.clip(units[0] @ units[1].T, -1, 1)
    return cosines.max(axis=1).reshape(first.shape[:2]), cosines.max(axis=0).reshape(second.shape[:2])


def covered_box(steps: Preprocessing, height: int, width: int, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return the part of a photo that the input of a network covers: left, top, right and bottom in pixels.

    Args:
        steps: The preprocessing.
        height: Height of the photo.
        width: Width of the photo.
        shape: Shape of the input (..., height, width).
    """
    resized_height, resized_width = steps.resized_size(height, width)
    top = left = 0.0
    if steps.crop_size is not None:
        top, left = (resized_height - steps.crop_size[0]) / 2, (resized_width - steps.crop_size[1]) / 2
    x_scale, y_scale = width / resized_width, height / resized_height
    return left * x_scale, top * y_scale, (left + shape[-1]) * x_scale, (top + shape[-2]) * y_scale


def _unit_rows(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    return np.asarray(tokens / np.maximum(lengths, 1e-12), np.float32)
