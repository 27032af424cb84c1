# Copyright 2026 The D2-VPR for Hugging Face authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Rules that draw fresh weights, layer by layer.

transformers draws missing weights layer by layer, without the layer's name or place in the model, and for code outside its tree
it never visits a module that only holds other modules. So a layer that needs a rule of its own is marked where it is created:
`self.up = drawn_by(zeros, nn.Linear(...))`. A model's `_init_weights` calls the rule.

The rules write through `transformers.initialization`, which does not change weights that came from a checkpoint.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import nn
from transformers import initialization as init

Layer = TypeVar("Layer", bound=nn.Module)
Rule = Callable[[Any], None]  # any layer with a weight and a bias


def drawn_by(rule: Rule, layer: Layer) -> Layer:
    """Mark a layer with the rule that draws it, and return the layer."""
    layer.draw_weights = rule  # type: ignore[assignment]
    return layer


def constant(layer: Any, value: float) -> None:
    """Fill weight and bias with one value."""
    init.constant_(layer.weight, value)
    init.constant_(layer.bias, value)


def norm_weight(layer: Any, value: float) -> None:
    """Fill a norm's weight with a value, and its bias with zeros."""
    init.constant_(layer.weight, value)
    init.zeros_(layer.bias)


def torch_default(layer: Any, fan_in: int | None = None) -> None:
    """Draw as torch draws a linear layer: uniform within 1 / sqrt(inputs)."""
    bound = 1 / math.sqrt(fan_in or layer.in_features)
    init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        init.uniform_(layer.bias, -bound, bound)


def torch_attention_input(layer: Any) -> None:
    """Draw the joint query, key and value projection as torch's MultiheadAttention does."""
    init.xavier_uniform_(layer.weight)
    init.zeros_(layer.bias)


def torch_attention_output(layer: Any) -> None:
    """Draw the output projection as torch's MultiheadAttention does."""
    torch_default(layer)
    init.zeros_(layer.bias)


zeros = partial(constant, value=0.0)

__all__ = [
    "constant",
    "drawn_by",
    "norm_weight",
    "torch_attention_input",
    "torch_attention_output",
    "torch_default",
    "zeros",
]
