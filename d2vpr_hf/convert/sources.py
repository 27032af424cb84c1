"""The table of sources that weights are converted from. A new source is a new row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from torch import Tensor

from d2vpr_hf.cards import CardFacts
from d2vpr_hf.convert.names import AGGREGATOR, BACKBONE, CROSS_IMAGE_ENCODER, RECOVERY, NamePairs, rename
from d2vpr_hf.modeling import D2VPRConfig

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """One kind of file.

    Attributes:
        name: What it is, for messages.
        config: Makes the configuration its weights are for.
        reshape: Brings tensors to this package's shapes, under names that `names` knows.
        names: Pairs of their names and ours.
        card: What the model card says of it.
    """

    name: str
    config: Callable[[], D2VPRConfig]
    reshape: Callable[[Weights], Weights]
    names: NamePairs
    card: CardFacts

    def count_known(self, weights: Weights) -> int:
        """Count the weights whose names belong to this kind; a file is of the kind that knows most of it."""
        return len(rename(self.reshape(weights), self.names))


def reshape_offset_head(weights: Weights) -> Weights:
    """Turn the offset head's 1x1 convolutions into linear layers, the first one cut into its patch and its global half.

    What has another shape is left as it is, and so found not to fit.
    """
    weights = dict(weights)
    first, second = (weights.get(f"offset_generator.{layer}.weight") for layer in (0, 2))
    if _is_pointwise(second):
        weights["offset_generator.2.weight"] = second.flatten(1)
    if _is_pointwise(first) and "offset_generator.0.bias" in weights:
        patch, whole = weights.pop("offset_generator.0.weight").flatten(1).tensor_split(2, dim=1)
        weights["offset_generator.0.patch.weight"] = patch.contiguous()
        weights["offset_generator.0.global.weight"] = whole.contiguous()
        weights["offset_generator.0.global.bias"] = weights.pop("offset_generator.0.bias")
    return weights


def _is_pointwise(weight: Tensor | None) -> TypeGuard[Tensor]:
    """Tell whether a weight is that of a 1x1 convolution."""
    return weight is not None and weight.ndim == 4 and weight.shape[2:] == (1, 1)


_PUBLISHED_CARD = CardFacts(
    summary="The published D²-VPR student, converted for transformers.",
    base_model="facebook/dinov2-small",
    license="other",
    license_name="not-stated",
    license_note=(
        "The authors of the D²-VPR weights state no licence; ask them before you redistribute. The code in this "
        "repository is Apache-2.0."
    ),
    training_data="GSV-Cities (CC BY-NC-ND 4.0)",
)
SOURCES = (
    Source(
        name="published D²-VPR",
        config=D2VPRConfig,
        reshape=reshape_offset_head,
        names=BACKBONE + RECOVERY + AGGREGATOR,
        card=_PUBLISHED_CARD,
    ),
    Source(
        name="published D²-VPR with cross-image encoder",
        config=lambda: D2VPRConfig(use_cross_image_encoder=True),
        reshape=reshape_offset_head,
        names=BACKBONE + RECOVERY + AGGREGATOR + CROSS_IMAGE_ENCODER,
        card=_PUBLISHED_CARD,
    ),
)

__all__ = ["SOURCES", "Source", "Weights", "reshape_offset_head"]
