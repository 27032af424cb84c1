"""The table of sources that weights are converted from. A new source is a new row."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from d2vpr_hf.cards import CardFacts
from d2vpr_hf.convert.names import AGGREGATOR, BACKBONE, CROSS_IMAGE_ENCODER, RECOVERY, NamePairs
from d2vpr_hf.modeling import D2VPRConfig

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """One kind of file.

    Attributes:
        name: What it is, for messages.
        signature: Names that a file of this kind has and no other kind has.
        without: Names that it must not have.
        config: Makes the configuration its weights are for.
        reshape: Brings tensors to this package's shapes, under names that `names` knows.
        names: Pairs of their names and ours.
        card: What the model card says of it.
    """

    name: str
    signature: tuple[str, ...]
    without: tuple[str, ...]
    config: Callable[[], D2VPRConfig]
    reshape: Callable[[Weights], Weights]
    names: NamePairs
    card: CardFacts

    def recognises(self, weights: Weights) -> bool:
        """Tell by the names whether weights are of this kind."""
        return all(name in weights for name in self.signature) and not any(name in weights for name in self.without)


def reshape_offset_head(weights: Weights) -> Weights:
    """Turn the offset head's 1x1 convolutions into linear layers, the first one cut into its patch and its global half."""
    weights = dict(weights)
    first, bias = weights.pop("offset_generator.0.weight", None), weights.pop("offset_generator.0.bias", None)
    if first is not None:
        patch, whole = first.flatten(1).chunk(2, dim=1)
        weights["offset_generator.0.patch.weight"] = patch.contiguous()
        weights["offset_generator.0.global.weight"] = whole.contiguous()
    if bias is not None:
        weights["offset_generator.0.global.bias"] = bias
    if "offset_generator.2.weight" in weights:
        weights["offset_generator.2.weight"] = weights["offset_generator.2.weight"].flatten(1)
    return weights


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
_STUDENT_SIGNATURE = ("backbone.lin.weight", "offset_generator.0.weight", "pos_encoder.fc.0.weight")
_ENCODER_SIGNATURE = ("encoder.layers.0.self_attn.in_proj_weight",)

SOURCES = (
    Source(
        name="published D²-VPR",
        signature=_STUDENT_SIGNATURE,
        without=_ENCODER_SIGNATURE,
        config=D2VPRConfig,
        reshape=reshape_offset_head,
        names=BACKBONE + RECOVERY + AGGREGATOR,
        card=_PUBLISHED_CARD,
    ),
    Source(
        name="published D²-VPR with cross-image encoder",
        signature=_STUDENT_SIGNATURE + _ENCODER_SIGNATURE,
        without=(),
        config=lambda: D2VPRConfig(use_cross_image_encoder=True),
        reshape=reshape_offset_head,
        names=BACKBONE + RECOVERY + AGGREGATOR + CROSS_IMAGE_ENCODER,
        card=_PUBLISHED_CARD,
    ),
)

__all__ = ["SOURCES", "Source", "Weights", "reshape_offset_head"]
