"""Layouts of files that cut or shape tensors differently from this package.

A layout has two inverse directions: `take_apart` turns our tensors into the file's, `put_together` the file's into ours. Both
use our names (see `names.py`); a piece that only the file has is named like the tensor of ours that contains it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Stacks = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Layout:
    """Two directions: ours to the file's pieces, and back."""

    take_apart: Callable[[Weights], Weights]
    put_together: Callable[[Weights], Weights]


SAME = Layout(dict, dict)

_OFFSETS = "aggregator.sampler.offset_generator."


def offset_head_to_convolutions(weights: Weights) -> Weights:
    """Join the offset head's patch and global halves to one layer, and make its layers 1x1 convolutions."""
    weights = dict(weights)
    if f"{_OFFSETS}output.weight" not in weights:  # switched off by the configuration
        return weights
    halves = [weights.pop(f"{_OFFSETS}{half}_projection.weight") for half in ("patch", "global")]
    weights[f"{_OFFSETS}hidden.weight"] = torch.cat(halves, dim=1)[..., None, None]
    weights[f"{_OFFSETS}hidden.bias"] = weights.pop(f"{_OFFSETS}global_projection.bias")
    weights[f"{_OFFSETS}output.weight"] = weights[f"{_OFFSETS}output.weight"][..., None, None]
    return weights


def offset_head_to_halves(weights: Weights) -> Weights:
    """Turn the offset head's convolutions into linear layers, the first one cut into its patch and its global half."""
    weights = dict(weights)
    if f"{_OFFSETS}hidden.weight" not in weights:
        return weights
    halves = weights.pop(f"{_OFFSETS}hidden.weight").flatten(1).tensor_split(2, dim=1)
    for half, weight in zip(("patch", "global"), halves, strict=True):
        weights[f"{_OFFSETS}{half}_projection.weight"] = weight.contiguous()
    weights[f"{_OFFSETS}global_projection.bias"] = weights.pop(f"{_OFFSETS}hidden.bias")
    weights[f"{_OFFSETS}output.weight"] = weights[f"{_OFFSETS}output.weight"].flatten(1)
    return weights


def stacked_layers(stacks: Stacks) -> Layout:
    """Return the layout of files with separate layers for one layer of ours, which concatenates their outputs.

    Args:
        stacks: Our layer and the file's layers, as parts of names, in the order of our outputs.
    """
    return Layout(partial(_cut_stacks, stacks=stacks), partial(_stack, stacks=stacks))


def _cut_stacks(weights: Weights, stacks: Stacks) -> Weights:
    cut = {}
    for name, weight in weights.items():
        whole = next((whole for whole in stacks if f".{whole}." in name), None)
        if whole is None:
            cut[name] = weight
            continue
        for part, piece in zip(stacks[whole], weight.chunk(len(stacks[whole])), strict=True):
            cut[name.replace(f".{whole}.", f".{part}.")] = piece
    return cut


def _stack(weights: Weights, stacks: Stacks) -> Weights:
    stacked = dict(weights)
    for whole, parts in stacks.items():
        for first in [name for name in weights if f".{parts[0]}." in name]:
            names = [first.replace(f".{parts[0]}.", f".{part}.") for part in parts]
            stacked[first.replace(f".{parts[0]}.", f".{whole}.")] = torch.cat([stacked.pop(name) for name in names])
    return stacked


_QUERY_KEY_VALUE: dict[str, tuple[str, ...]] = {"attention.qkv": ("attention.query", "attention.key", "attention.value")}
OFFSET_HEAD = Layout(offset_head_to_convolutions, offset_head_to_halves)
SEPARATE_ATTENTION = stacked_layers(_QUERY_KEY_VALUE)
SEPARATE_ATTENTION_AND_GATE = stacked_layers(_QUERY_KEY_VALUE | {"mlp.gate_up": ("mlp.gate", "mlp.up")})
