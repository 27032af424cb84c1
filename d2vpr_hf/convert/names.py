"""Tables of pairs of names: a weight's name in another code's files, and its name here.

A pair maps a prefix of one name to a prefix of the other, up to a whole component; `*` stands for a layer's number. If a kind
of file cuts tensors differently from this package, the names on our side are those of the pieces; see `layouts.py`.
"""

import re
from collections.abc import Iterable

NamePairs = tuple[tuple[str, str], ...]

_BLOCK: NamePairs = (
    ("norm1", "norm1"),
    ("attn.qkv", "attention.qkv"),
    ("attn.proj", "attention.proj"),
    ("ls1.gamma", "layer_scale1.gamma"),
    ("norm2", "norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("mlp.w12", "mlp.gate_up"),
    ("mlp.w3", "mlp.down"),
    ("ls2.gamma", "layer_scale2.gamma"),
)
_ADAPTER: NamePairs = (
    ("adapter.D_fc1", "adapter.down"),
    ("adapter.D_fc2", "adapter.up"),
    ("adapter.branch1.conv", "adapter.branches.0.0.conv"),
    ("adapter.branch1.bn", "adapter.branches.0.0.norm"),
    ("adapter.branch2.*.conv", "adapter.branches.1.*.conv"),
    ("adapter.branch2.*.bn", "adapter.branches.1.*.norm"),
    ("adapter.branch3.*.conv", "adapter.branches.2.*.conv"),
    ("adapter.branch3.*.bn", "adapter.branches.2.*.norm"),
)


def _within(theirs: str, ours: str, pairs: NamePairs) -> NamePairs:
    return tuple((theirs + left, ours + right) for left, right in pairs)


_VIT: NamePairs = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("mask_token", "embeddings.mask_token"),
    ("patch_embed.proj", "embeddings.patch_embeddings"),
    *_within("blocks.*.", "encoder.layers.*.", _BLOCK),
)
# DINOv2's own files
DINOV2: NamePairs = (*_VIT, ("norm", "norm"))

# the published files of CricaVPR and D2-VPR
BACKBONE: NamePairs = _within("backbone.", "", _VIT) + _within("backbone.blocks.*.", "encoder.layers.*.", _ADAPTER)
FINAL_NORM: NamePairs = (("backbone.norm", "norm"),)
GENERALIZED_MEAN: NamePairs = (("aggregation.1.p", "aggregator.gem.p"),)
RECOVERY: NamePairs = (
    ("backbone.lin", "recovery.projection"),
    ("backbone.up_norm", "recovery.norm"),
)
DEFORMABLE_AGGREGATOR: NamePairs = (
    *GENERALIZED_MEAN,
    ("offset_generator.0", "aggregator.sampler.offset_generator.hidden"),
    ("offset_generator.2", "aggregator.sampler.offset_generator.output"),
    ("topdown_fusion.small_to_medium.0", "aggregator.fusion.small_to_medium.down"),
    ("topdown_fusion.small_to_medium.1", "aggregator.fusion.small_to_medium.norm"),
    ("topdown_fusion.small_to_medium.4", "aggregator.fusion.small_to_medium.up"),
    ("topdown_fusion.medium_to_global.0", "aggregator.fusion.medium_to_global.down"),
    ("topdown_fusion.medium_to_global.1", "aggregator.fusion.medium_to_global.norm"),
    ("topdown_fusion.medium_to_global.4", "aggregator.fusion.medium_to_global.up"),
    ("pos_encoder.fc.0", "aggregator.position_encoding.fc1"),
    ("pos_encoder.fc.2", "aggregator.position_encoding.fc2"),
)
CROSS_IMAGE_ENCODER: NamePairs = (
    ("encoder.layers.*.self_attn.in_proj_weight", "cross_image_encoder.layers.*.attention.qkv.weight"),
    ("encoder.layers.*.self_attn.in_proj_bias", "cross_image_encoder.layers.*.attention.qkv.bias"),
    ("encoder.layers.*.self_attn.out_proj", "cross_image_encoder.layers.*.attention.proj"),
    ("encoder.layers.*.linear1", "cross_image_encoder.layers.*.mlp.fc1"),
    ("encoder.layers.*.linear2", "cross_image_encoder.layers.*.mlp.fc2"),
    ("encoder.layers.*.norm1", "cross_image_encoder.layers.*.norm1"),
    ("encoder.layers.*.norm2", "cross_image_encoder.layers.*.norm2"),
)


# transformers' Dinov2Model, with the names it has in files (and had in memory before 5.20), and those it has in memory since
_TRANSFORMERS_VIT: NamePairs = (
    ("embeddings.cls_token", "embeddings.cls_token"),
    ("embeddings.position_embeddings", "embeddings.position_embeddings"),
    ("embeddings.mask_token", "embeddings.mask_token"),
    ("embeddings.patch_embeddings.projection", "embeddings.patch_embeddings"),
    ("layernorm", "norm"),
)
_TRANSFORMERS_BLOCK: NamePairs = (
    ("norm1", "norm1"),
    ("layer_scale1.lambda1", "layer_scale1.gamma"),
    ("norm2", "norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("layer_scale2.lambda1", "layer_scale2.gamma"),
)
_IN_FILES: NamePairs = (
    ("attention.attention.query", "attention.query"),
    ("attention.attention.key", "attention.key"),
    ("attention.attention.value", "attention.value"),
    ("attention.output.dense", "attention.proj"),
    ("mlp.weights_in", "mlp.gate_up"),
    ("mlp.weights_out", "mlp.down"),
)
_IN_MEMORY: NamePairs = (
    ("attention.q_proj", "attention.query"),
    ("attention.k_proj", "attention.key"),
    ("attention.v_proj", "attention.value"),
    ("attention.o_proj", "attention.proj"),
    ("mlp.gate_proj", "mlp.gate"),
    ("mlp.up_proj", "mlp.up"),
    ("mlp.down_proj", "mlp.down"),
)
TRANSFORMERS_FILES: NamePairs = (
    *_TRANSFORMERS_VIT,
    *_within("encoder.layer.*.", "encoder.layers.*.", _TRANSFORMERS_BLOCK + _IN_FILES),
)
TRANSFORMERS_MEMORY: NamePairs = (
    *_TRANSFORMERS_VIT,
    *_within("encoder.layer.*.", "encoder.layers.*.", _TRANSFORMERS_BLOCK + _IN_MEMORY),
)


def reverse(pairs: NamePairs) -> NamePairs:
    """Return the table with the sides exchanged: ours to theirs."""
    return tuple((right, left) for left, right in pairs)


def rename(names: Iterable[str], pairs: NamePairs) -> dict[str, str]:
    """Map names by the pairs; names that no pair fits are skipped."""
    patterns = [(re.compile(_pattern(left) + r"(?=\.|$)"), _replacement(right)) for left, right in pairs]
    renamed = {}
    for name in names:
        for pattern, replacement in patterns:
            if pattern.match(name):
                renamed[name] = pattern.sub(replacement, name, count=1)
                break
    return renamed


def _pattern(prefix: str) -> str:
    return re.escape(prefix).replace(r"\*", r"(\d+)")


def _replacement(prefix: str) -> str:
    parts = prefix.split("*")
    return parts[0] + "".join(rf"\g<{number}>{part}" for number, part in enumerate(parts[1:], 1))
