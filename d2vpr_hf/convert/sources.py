"""The table of sources that weights are converted from. A new source is a new row."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from d2vpr_hf.cards import CardFacts
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
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig, VPRConfig

_DINOV2_HEAD_SIZE = 64  # of every published DINOv2; the weights do not tell


class Target(StrEnum):
    """What weights become."""

    STUDENT = "student"
    CRICAVPR = "cricavpr"


CONFIGS: dict[Target, type[VPRConfig]] = {Target.STUDENT: D2VPRConfig, Target.CRICAVPR: CricaVPRConfig}


@dataclass(frozen=True)
class Source:
    """One kind of file.

    Attributes:
        name: What it is, for messages.
        names: Pairs of its names and ours.
        card: What the model card says of it.
        target: What it holds, whole; `None` for a ViT alone, which a student or a teacher can start from.
        layout: How it cuts and shapes tensors.
        fields: Fields of the configuration that its weights, under our names, tell, or that differ from the defaults.
        prefix: What the published code expects before every name when it loads this kind.
    """

    name: str
    names: NamePairs
    card: CardFacts
    target: Target | None = None
    layout: Layout = SAME
    fields: Callable[[Weights], dict[str, Any]] = lambda weights: {}
    prefix: str = ""

    def rename(self, weights: Weights) -> Weights:
        """Give weights our names, pieces the names of pieces; what this kind does not know is left out."""
        names = rename(weights, self.names)
        return {ours: weights[theirs] for theirs, ours in names.items()}

    def count_known(self, names: Collection[str]) -> int:
        """Count the names that belong to this kind; a file is of the kind that knows most of it."""
        return len(rename(names, self.names))

    def to_ours(self, weights: Weights) -> Weights:
        """Turn the weights of such a file into a state dict of ours, or a part of one."""
        return self.layout.put_together(self.rename(weights))

    def to_theirs(self, state: Weights) -> Weights:
        """Turn a state dict of ours into the weights of such a file; what it has no name for is left out."""
        pieces = self.layout.take_apart(state)
        return {theirs: pieces[ours] for ours, theirs in rename(pieces, reverse(self.names)).items()}


def dinov2_fields(weights: Weights) -> dict[str, Any]:
    """Tell the shape of a DINOv2 from its weights, under our names or those of pieces.

    Empty if weights that tell are missing or odd, so that they are found missing or mis-shaped.
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
    """Tell the kind of the MLPs, and their width as the configuration has it."""
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
    license="other",
    license_name="not-stated",
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
    summary="DINOv2 weights in a model that is yet to be trained: everything DINOv2 does not have is freshly drawn.",
    license="other",
    license_name="that-of-the-dinov2",
    license_note=(
        "That of the DINOv2 it started from: Apache-2.0 if it is one of Meta's, which its weights do not tell. The code in "
        "this repository is Apache-2.0."
    ),
    training_data="what its DINOv2 was trained on (Meta's: LVD-142M); the rest on nothing",
)
# Where two kinds know as much of a file, the earlier is taken: the one that asks for less.
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
