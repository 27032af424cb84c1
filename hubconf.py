"""Entries for `torch.hub.load`: models that return descriptors alone, as benchmarks of place recognition wrap them.

torch.hub runs this file from a clone of the repository; the package does not have to be installed.
"""

from __future__ import annotations

import importlib.util
import pathlib
import typing

import torch
from torch import nn

dependencies = ["torch", "transformers", "safetensors", "huggingface_hub", "numpy", "PIL"]


class _Descriptors(nn.Module):
    """A model whose output is the descriptor.

    Args:
        model: A model of this package; its configuration and other outputs are at `.model`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the descriptors (B, D) of pixel values.

        Args:
            images: (B, 3, height, width), normalised by the mean and deviation in the model's `preprocessor_config.json`
                (those of ImageNet, unless they were changed), sides in whole patches of 14 pixels.
        """
        descriptors: torch.Tensor = self.model(images, return_dict=True).pooler_output
        return descriptors


def d2vpr(model: str, **kwargs: typing.Any) -> _Descriptors:
    """Load a model in eval mode.

    Args:
        model: A folder, or an id on the Hub.
        kwargs: Passed to `load_model`: `revision`, `dtype`, `device_map` and others.
    """
    return _load(model, **kwargs)


def d2vpr_tiny(**kwargs: typing.Any) -> _Descriptors:
    """Load the small model that comes with the package; `kwargs` as for [`d2vpr`]. It has seen few real places."""
    return _load("embedded", **kwargs)


def _load(name: str, **kwargs: typing.Any) -> _Descriptors:
    import d2vpr_hf

    if importlib.util.find_spec("d2vpr_hf.modeling") is None:
        d2vpr_hf.__path__.append(str(pathlib.Path(__file__).parent))  # in a clone, `modeling` is next to `d2vpr_hf`
    from d2vpr_hf.pretrained.loading import load_model

    return _Descriptors(load_model(name, **kwargs)).eval()
