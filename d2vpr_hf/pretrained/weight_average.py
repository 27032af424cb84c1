"""An average of the weights of models that were trained from each other.

An average of a model and of one that was trained from it keeps more of the earlier abilities than the trained one, and may be
better than both on other photos (Robust fine-tuning of zero-shot models, arXiv 2109.01903).
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.pretrained.loading import load_model


def average_weights(shares: Mapping[str | Path, float]) -> VPRPreTrainedModel:
    """Average models, number by number.

    Args:
        shares: The share of each model, by its folder or Hub id; they add up to 1. The configuration of the last model, and its
            integers such as counters, are kept.

    Raises:
        ValueError: If the shares do not add up to 1, one is negative, or weights have other names or shapes than the last
            model's.
    """
    if not shares or min(shares.values()) < 0 or not math.isclose(sum(shares.values()), 1):
        raise ValueError(f"The `shares` of models must be at least 0 and add up to 1, got {list(shares.values())}.")
    *earlier_models, last = shares
    model = load_model(last)
    weights = model.state_dict()
    average = {name: shares[last] * number if number.is_floating_point() else number for name, number in weights.items()}
    for earlier in earlier_models:
        added = load_model(earlier).state_dict()
        _check_same(weights, added, f"{last} and {earlier}")
        for name, number in added.items():
            if number.is_floating_point():
                average[name] = average[name] + shares[earlier] * number
    model.load_state_dict(average)
    return model


def _check_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], models: str) -> None:
    """Raise ValueError unless the weights of two models have the same names and shapes."""
    shapes = [{(name, tuple(number.shape)) for name, number in weights.items()} for weights in (first, second)]
    different = sorted(name for name, _ in shapes[0] ^ shapes[1])
    if different:
        raise ValueError(
            f"Weights of {models} have other names or shapes, {different[0]} first. Average a model with one that was trained "
            "from it."
        )
