"""Explanation of a match: the network processes both photos again, and their cosine is divided among the regions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2vpr_hf.encoders.own_models import OwnModel
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation.patches import PatchSimilarity, compare_patches, has_patches
from d2vpr_hf.explanation.regions import PhotoRegions, locate_regions, region_names
from d2vpr_hf.explanation.similarity import cosine_of, region_shares
from d2vpr_hf.modeling import D2VPRModel
from d2vpr_hf.modeling.deformable_aggregation import DeformableAggregator
from d2vpr_hf.readers import PhotoSource
from d2vpr_hf.readers.photos import open_named_photo

BEFORE_PROJECTION = (
    "This model projects descriptors before they are searched, which mixes all regions. The similarity shown here is that of "
    "the descriptors before the projection, so it differs from the similarity in the list of matches."
)


@dataclass(frozen=True)
class Explanation:
    """The explanation of the similarity of two photos.

    Attributes:
        names: (1 + R) names of the regions, the whole photo first.
        shares: (1 + R,) float64 contribution of each region to the cosine, from [`region_shares`].
        cosine: Cosine of the two descriptors before a projection: the sum of the shares.
        query: Regions of the query.
        match: Regions of the match.
        note: A note for readers, or `None`.
    """

    names: list[str]
    shares: NDArray[np.float64]
    cosine: float
    query: PhotoRegions
    match: PhotoRegions
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON values, for the Space's `/explain`."""
        regions = [{"region": name, "share": share} for name, share in zip(self.names, self.shares.tolist(), strict=True)]
        result: dict[str, Any] = {"cosine": self.cosine, "regions": regions}
        for side, photo in (("query", self.query), ("match", self.match)):
            result[side] = {
                "height": photo.size[0],
                "width": photo.size[1],
                "points": photo.points.round(2).tolist(),
                "region_of_point": photo.region.tolist(),
                "boxes": photo.boxes.round(2).tolist(),
            }
        return result if self.note is None else result | {"note": self.note}


def explain_match(encoder: PlaceEncoder, query: PhotoSource, match: PhotoSource) -> Explanation | PatchSimilarity:
    """Explain the similarity of two photos, by the regions of a D²-VPR or the patches of another vision transformer.

    For a D²-VPR, it is the share of each region in the similarity, and the sampling points of both photos.

    Args:
        encoder: Encoder with the model that found the match.
        query: The photo that was searched for.
        match: The photo to compare with the query.

    Raises:
        ValueError: If the model has neither sampling points nor tokens of patches, as a graph, or has a cross-image encoder,
            because its descriptors depend on the whole batch.
        UnreadablePhotoError: If a photo cannot be decoded; the message names it.
    """
    if has_patches(encoder):
        return compare_patches(encoder, query, match)
    config = explainable_model(encoder).config
    images = [open_named_photo(photo) for photo in (query, match)]
    pixels = [torch.from_numpy(encoder.descriptor_model.prepare(image)).unsqueeze(0) for image in images]
    batches = [torch.cat(pixels)] if pixels[0].shape == pixels[1].shape else pixels  # photos may keep their aspect
    samples = [_sample(encoder, batch) for batch in batches]
    features = [feature for of_batch, _ in samples for feature in of_batch]
    positions = [position for _, of_batch in samples for position in of_batch]
    sides = [
        locate_regions(config, position, (side.shape[2], side.shape[3]), (image.height, image.width))
        for position, side, image in zip(positions, pixels, images, strict=True)
    ]
    note = BEFORE_PROJECTION if config.projection_dim else None
    shares, cosine = region_shares(*features), cosine_of(*features)
    return Explanation(region_names(config), shares, cosine, sides[0], sides[1], note)


def explainable_model(encoder: PlaceEncoder) -> D2VPRModel:
    """Return the D²-VPR of an encoder, or raise ValueError if its matches cannot be explained by regions."""
    if not isinstance(encoder.descriptor_model, OwnModel):
        raise ValueError(
            f"Matches of {encoder.facts.title} cannot be explained: they come from a graph or another program, which gives "
            "descriptors only, without sampling points or tokens of patches."
        )
    model = encoder.model
    if not isinstance(model, D2VPRModel):
        raise ValueError(
            f"Matches can be explained for D²-VPR, which has sampling points; this model is {model.config.model_type!r}."
        )
    if not isinstance(model.aggregator, DeformableAggregator):
        raise ValueError(
            "Matches can be explained for the aggregator 'deformable', which has sampling points; this model's is "
            f"{model.config.aggregator!r}."
        )
    if model.config.use_cross_image_encoder:
        raise ValueError(
            "This model has a cross-image encoder: a descriptor depends on all photos of its batch, so the similarity of two "
            "photos is not a sum over their regions. Use a D²-VPR without cross-image encoder."
        )
    return model


def reason_against(encoder: PlaceEncoder) -> str | None:
    """Return the reason why matches of an encoder cannot be explained; `None` if they can be."""
    if has_patches(encoder):
        return None
    try:
        explainable_model(encoder)
    except ValueError as error:
        return str(error)
    return None


@torch.inference_mode()
def _sample(encoder: PlaceEncoder, pixels: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return region features (B, 1 + R, D) and sampling positions (B, P, 2) of pixels (B, 3, height, width)."""
    output = encoder.model(pixels.to(encoder.device, encoder.model.dtype))
    return output.region_features.float().cpu().numpy(), output.sampling_positions.float().cpu().numpy()
