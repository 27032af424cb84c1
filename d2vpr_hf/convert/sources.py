"""The table of the kinds of files that can be converted. A new kind is a new row."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from d2vpr_hf.convert.layouts import OFFSET_HEAD, SAME, SEPARATE_ATTENTION, SEPARATE_ATTENTION_AND_GATE, Layout, Weights
from d2vpr_hf.convert.names import (
    BACKBONE,
    CROSS_IMAGE_ENCODER,
    DEFORMABLE_AGGREGATOR,
    DINOV2,
    FINAL_NORM,
    GENERALIZED_MEAN,
    RECOVERY,
    TRANSFORMERS_FILES,
    TRANSFORMERS_MEMORY,
    NamePairs,
    rename,
    reverse,
)
from d2vpr_hf.hub.model_cards import CardFacts
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig, VPRConfig

_DINOV2_HEAD_SIZE = 64  # channels a head in every published DINOv2; weights alone do not show it


class Target(StrEnum):
    """The model that weights become."""

    STUDENT = "student"
    CRICAVPR = "cricavpr"


CONFIGS: dict[Target, type[VPRConfig]] = {Target.STUDENT: D2VPRConfig, Target.CRICAVPR: CricaVPRConfig}


@dataclass(frozen=True)
class Source:
    """A kind of file.

    Attributes:
        name: The kind's name in messages.
        names: Pairs of its names and ours.
        card: Facts for the model card.
        target: The model that it holds in full; `None` for a ViT alone, which a student or a teacher can start from.
        layout: How it cuts and shapes tensors.
        fields: Reads the fields of the configuration that follow from its weights (under our names) or that differ from the
            defaults.
        prefix: The prefix of every name that the published code expects when it loads this kind.
    """

    name: str
    names: NamePairs
    card: CardFacts
    target: Target | None = None
    layout: Layout = SAME
    fields: Callable[[Weights], dict[str, Any]] = lambda weights: {}
    prefix: str = ""

    def our_names(self, names: Iterable[str]) -> dict[str, str]:
        """Map a file's names to ours, or to those of pieces; names that this kind does not have are skipped."""
        return rename(names, self.names)

    def their_names(self, names: Iterable[str]) -> dict[str, str]:
        """Map our names, or those of pieces, to the file's; names that this kind does not have are skipped."""
        return rename(names, reverse(self.names))

    def to_theirs(self, state: Weights) -> Weights:
        """Turn a state dict of ours into the weights of such a file; weights that it has no name for are skipped."""
        pieces = self.layout.take_apart(state)
        return {theirs: pieces[ours] for ours, theirs in self.their_names(pieces).items()}


def dinov2_fields(weights: Weights) -> dict[str, Any]:
    """Return the fields that follow from the shapes of a DINOv2's weights, under our names or those of pieces.

    Returns:
        No fields if the weights needed are missing or of another number of axes: the check of the weights then names them.
    """
    patches, positions = weights.get("embeddings.patch_embeddings.weight"), weights.get("embeddings.position_embeddings")
    if patches is None or positions is None or (patches.ndim, positions.ndim) != (4, 3) or 0 in patches.shape:
        return {}
    hidden_size, channels, patch_size = patches.shape[:3]
    layers = {match[1] for name in weights if (match := re.match(r"encoder\.layers\.(\d{1,4})\.", name))}
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": max(1, len(layers)),
        "num_attention_heads": max(1, hidden_size // _DINOV2_HEAD_SIZE),
        "image_size": patch_size * max(1, round(max(0, positions.shape[1] - 1) ** 0.5)),
        "patch_size": patch_size,
        "num_channels": channels,
        **_mlp_fields(weights, hidden_size),
    }


def _mlp_fields(weights: Weights, hidden_size: int) -> dict[str, Any]:
    """Return the fields of the MLPs: their kind, and their width as a ratio."""
    first = "encoder.layers.0.mlp."
    gated = any(".mlp.gate" in name for name in weights)
    layer = weights.get(f"{first}down.weight" if gated else f"{first}fc1.weight")
    if layer is None or layer.ndim != 2:
        return {"use_swiglu_ffn": gated}
    size = 1.5 * layer.shape[1] if gated else layer.shape[0]
    ratio = size / hidden_size
    return {"use_swiglu_ffn": gated, "mlp_ratio": int(ratio) if ratio.is_integer() else (size + 0.5) / hidden_size}


_PUBLISHED_CARD = CardFacts(
    summary="Weights in the form of the published D²-VPR students, converted for transformers.",
    base_model="facebook/dinov2-small",
    license="unknown",
    license_note=(
        "If these are the authors' weights: no licence is stated with them, so ask the authors before you redistribute. The "
        "code in this repository is Apache-2.0."
    ),
    training_data="GSV-Cities (CC BY-NC-ND 4.0), if these are the authors' weights",
)
_CRICAVPR_CARD = replace(
    _PUBLISHED_CARD,
    summary="Weights in the form of the published CricaVPR, teacher of D²-VPR, converted for transformers.",
    base_model="facebook/dinov2-base",
)
_DINOV2_CARD = CardFacts(
    summary="DINOv2 weights in a model that is not trained yet: all weights that DINOv2 does not have are freshly drawn.",
    license="unknown",
    license_note=(
        "The licence of the DINOv2 that it started from: Apache-2.0 if it is one of Meta's, which the weights do not show. "
        "The code in this repository is Apache-2.0."
    ),
    training_data="the training data of its DINOv2 (Meta's: LVD-142M); the other weights are not trained",
)
# If two kinds know equally many names of a file, the earlier row is chosen: the one with fewer names.
SOURCES = (
    Source(
        name="published D²-VPR",
        target=Target.STUDENT,
        names=BACKBONE + RECOVERY + DEFORMABLE_AGGREGATOR,
        layout=OFFSET_HEAD,
        card=_PUBLISHED_CARD,
    ),
    Source(
        name="published CricaVPR",
        target=Target.CRICAVPR,
        names=BACKBONE + FINAL_NORM + GENERALIZED_MEAN + CROSS_IMAGE_ENCODER,
        card=_CRICAVPR_CARD,
        prefix="module.",
    ),
    Source(
        name="published D²-VPR with cross-image encoder",
        target=Target.STUDENT,
        names=BACKBONE + RECOVERY + DEFORMABLE_AGGREGATOR + CROSS_IMAGE_ENCODER,
        layout=OFFSET_HEAD,
        fields=lambda weights: {"use_cross_image_encoder": True},
        card=_PUBLISHED_CARD,
    ),
    Source(name="DINOv2", names=DINOV2, fields=dinov2_fields, card=_DINOV2_CARD),
    Source(
        name="transformers' DINOv2",
        names=TRANSFORMERS_FILES,
        layout=SEPARATE_ATTENTION,
        fields=dinov2_fields,
        card=_DINOV2_CARD,
    ),
    Source(
        name="transformers' DINOv2",
        names=TRANSFORMERS_MEMORY,
        layout=SEPARATE_ATTENTION_AND_GATE,
        fields=dinov2_fields,
        card=_DINOV2_CARD,
    ),
)
