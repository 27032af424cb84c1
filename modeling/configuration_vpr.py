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
"""Fields that all configurations share: the ViT, its adapters, pooling, cross-image encoder, projection."""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .refused_settings import refuse_code, with_attention
from .saved_files import set_new_file_mode

Rules = tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...]


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: Any) -> bool:
    """Return whether a value is a number above 0."""
    return is_number(value) and value > 0


def is_fraction(value: Any) -> bool:
    """Return whether a value is a number in [0, 1)."""
    return is_number(value) and 0 <= value < 1


def is_switch(value: Any) -> bool:
    """Return whether a value is True or False."""
    return isinstance(value, bool)


def are_all(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a function that checks all items of a list, which must not be empty."""
    return lambda values: isinstance(values, list | tuple) and len(values) > 0 and all(map(is_right, values))


def _copy_as_lists(value: Any) -> Any:
    """Copy a value and everything in it, tuples as lists."""
    if isinstance(value, list | tuple):
        return [_copy_as_lists(item) for item in value]
    return copy.deepcopy(value)


# field names, the requirement in words, and its check
VPR_RULES: Rules = (
    (
        (
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "num_channels"),
            *("cross_image_num_layers", "cross_image_num_heads", "cross_image_intermediate_size"),
        ),
        "a whole number of at least 1",
        is_whole,
    ),
    (("projection_dim",), "None or a whole number of at least 1", lambda value: value is None or is_whole(value)),
    (("use_cross_image_encoder", "use_swiglu_ffn", "qkv_bias", "normalize_projection"), "True or False", is_switch),
    (
        (
            *("mlp_ratio", "adapter_ratio", "adapter_reduction_ratio", "gem_p", "gem_eps", "initializer_range"),
            *("layer_norm_eps", "cross_image_layer_norm_eps", "adapter_batch_norm_eps"),
        ),
        "a number above 0",
        is_positive,
    ),
    (("layerscale_value", "adapter_scale", "adapter_conv_init"), "a number", is_number),
    (
        ("position_embedding_offset", "cross_image_dropout", "adapter_batch_norm_momentum"),
        "a number in [0, 1)",
        is_fraction,
    ),
    (("hidden_act",), "an activation of transformers", lambda value: isinstance(value, str) and value in ACT2FN),
    (("adapter_branch_ratios",), "numbers", are_all(is_number)),
    (("matryoshka_dims",), "whole numbers of at least 1", lambda dims: len(dims) == 0 or are_all(is_whole)(dims)),
    (("own_fingerprint",), "None or a text", lambda value: value is None or isinstance(value, str)),
    (
        ("untrained_parts", "compatible_with"),
        "a list of texts",
        lambda names: len(names) == 0 or are_all(lambda name: isinstance(name, str))(names),
    ),
    (
        ("adapter_kernel_sizes",),
        "odd whole numbers, which keep the patch grid",
        are_all(lambda n: is_whole(n) and n % 2 == 1),
    ),
)


class VPRConfig(PreTrainedConfig):
    """Base of the configurations: [`D2VPRConfig`] and [`CricaVPRConfig`] add fields to these.

    Args:
        hidden_size (`int`, defaults to 384): Width C of the ViT.
        num_hidden_layers (`int`, defaults to 12): Number of ViT blocks.
        num_attention_heads (`int`, defaults to 6): Attention heads of a block.
        mlp_ratio (`float`, defaults to 4): Hidden width of a block's MLP, as a multiple of `hidden_size`.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the ViT's MLPs.
        use_swiglu_ffn (`bool`, defaults to `False`): Whether the ViT's MLPs are gated by SiLU, as in DINOv2's ViT-g; two
            thirds as wide, rounded up to a multiple of 8, and `hidden_act` is not used.
        qkv_bias (`bool`, defaults to `True`): Whether the query, key and value projections have a bias.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the ViT's LayerNorms and of the LayerNorm after it.
        layerscale_value (`float`, defaults to 1.0): Initial LayerScale of a model that starts without weights.
        initializer_range (`float`, defaults to 0.02): Standard deviation of fresh weights in the ViT and in the layer that
            maps it to D channels; other weights are drawn with torch's defaults.
        image_size (`int`, defaults to 518): Side, in pixels, of the square images the position embeddings are stored
            for. It is not the input size: any height and width that are multiples of `patch_size` work.
        patch_size (`int`, defaults to 14): Side of a patch in pixels.
        num_channels (`int`, defaults to 3): Image channels.
        position_embedding_offset (`float`, defaults to 0.1): Added to the patch grid's height and width where position
            embeddings are resampled, as the published weights need it; 0 gives transformers' Dinov2 rule.
        adapter_ratio (`float`, defaults to 0.5): Width of an adapter, as a fraction of `hidden_size`.
        adapter_branch_ratios (`list[float]`, defaults to `[0.5, 0.25, 0.25]`): Output widths of the adapter's
            convolution branches, as fractions of the adapter's width. They sum to 1.
        adapter_kernel_sizes (`list[int]`, defaults to `[1, 3, 5]`): Kernel size of each branch; a branch with a kernel
            larger than 1 first reduces its channels with a 1x1 convolution.
        adapter_reduction_ratio (`float`, defaults to 1/16): Width of that reduction, as a fraction of the adapter's width.
        adapter_scale (`float`, defaults to 0.2): Weight of the adapter next to the MLP.
        adapter_conv_init (`float`, defaults to 1e-5): Constant that fresh adapter convolutions are filled with.
        adapter_batch_norm_eps (`float`, defaults to 1e-3): Epsilon of the adapters' BatchNorms.
        adapter_batch_norm_momentum (`float`, defaults to 0.1): Momentum of the adapters' BatchNorms.
        gem_p (`float`, defaults to 3.0): Initial exponent of the generalised mean.
        gem_eps (`float`, defaults to 1e-6): Smaller values are replaced by it before the generalised mean.
        use_cross_image_encoder (`bool`, defaults to `False`): Let the images of a batch attend to each other before the
            descriptor. A descriptor then depends on the other images of its batch.
        cross_image_num_layers (`int`, defaults to 2), cross_image_num_heads (`int`, defaults to 16),
        cross_image_intermediate_size (`int`, defaults to 2048), cross_image_dropout (`float`, defaults to 0.1),
        cross_image_layer_norm_eps (`float`, defaults to 1e-5): Shape of that encoder.
        projection_dim (`int`, *optional*): Width of a linear projection of the descriptor, PCA or a map that distillation
            trained; `None` for none. It is at most the descriptor's width, unless `normalize_projection` is set.
        normalize_projection (`bool`, defaults to `False`): Whether projected descriptors are scaled to unit length, as
            whitened ones should be; published projections are not.
        untrained_parts (`list[str]`, defaults to `[]`): Parts of the model with weights that were drawn at random and not
            trained since. The model keeps this list; see [`VPRPreTrainedModel.initialize_weights`].
        compatible_with (`list[str]`, defaults to `[]`): Fingerprints of models, with their preprocessing, whose descriptors
            this model's descriptors can be compared with: those of teachers whose space it was distilled into.
        matryoshka_dims (`list[int]`, defaults to `[]`): Numbers of first numbers of the projected descriptor that were trained
            as descriptors of their own.
        own_fingerprint (`str`, *optional*): Fingerprint of this model for which `compatible_with` holds. A model that was
            changed since has another one, and is compatible with none.

    Raises:
        ValueError: If a value cannot describe a model; the message names the field, the value and what is allowed.
    """

    rules: ClassVar[Rules] = VPR_RULES
    list_fields: ClassVar[tuple[str, ...]] = (
        *("adapter_branch_ratios", "adapter_kernel_sizes", "untrained_parts"),
        *("compatible_with", "matryoshka_dims"),
    )
    feature_size_field: ClassVar[str] = "hidden_size"
    # fields added after the first models were saved: config.json and fingerprints lack them while they have their default
    later_fields: ClassVar[tuple[str, ...]] = (
        *("untrained_parts", "compatible_with", "own_fingerprint"),
        "matryoshka_dims",
    )

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    mlp_ratio: int | float = 4
    hidden_act: str = "gelu"
    use_swiglu_ffn: bool = False
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    layerscale_value: float = 1.0
    initializer_range: float = 0.02
    image_size: int = 518
    patch_size: int = 14
    num_channels: int = 3
    position_embedding_offset: float = 0.1

    adapter_ratio: float = 0.5
    adapter_branch_ratios: list[float] | tuple[float, ...] = (0.5, 0.25, 0.25)
    adapter_kernel_sizes: list[int] | tuple[int, ...] = (1, 3, 5)
    adapter_reduction_ratio: float = 1 / 16
    adapter_scale: float = 0.2
    adapter_conv_init: float = 1e-5
    adapter_batch_norm_eps: float = 1e-3
    adapter_batch_norm_momentum: float = 0.1

    gem_p: float = 3.0
    gem_eps: float = 1e-6

    use_cross_image_encoder: bool = False
    cross_image_num_layers: int = 2
    cross_image_num_heads: int = 16
    cross_image_intermediate_size: int = 2048
    cross_image_dropout: float = 0.1
    cross_image_layer_norm_eps: float = 1e-5

    projection_dim: int | None = None
    normalize_projection: bool = False

    untrained_parts: list[str] | tuple[str, ...] = ()
    compatible_with: list[str] | tuple[str, ...] = ()
    own_fingerprint: str | None = None
    matryoshka_dims: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive and check the fields, and pass other arguments to transformers."""
        self.derive_and_check()
        super().__post_init__(**kwargs)

    def derive_and_check(self) -> None:
        """Fill in the fields that derive from others, and raise ValueError if the fields cannot describe a model.

        The model calls this too: transformers sets overrides such as `from_pretrained(..., hidden_size=48)` after creation.
        """
        for names, expected, is_right in self.rules:
            for name in names:
                if not is_right(getattr(self, name)):
                    raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)!r}.")
        self._derive()
        for name in self.list_fields:  # JSON has lists only; a copy, because the caller may change its list later
            setattr(self, name, _copy_as_lists(getattr(self, name)))
        self._check_multiples()
        self._check_adapter()
        self._check_own_fields()
        self._check_projection()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration of the contents of a config.json, which must not load code.

        Raises:
            ValueError: If they name code, a compiled kernel or another repository; arguments may.
        """
        config_dict = with_attention(config_dict, kwargs.get("attn_implementation"))
        refuse_code(config_dict, config_dict.get("_name_or_path") or "the model")
        return super().from_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the configuration as transformers does, and give its code the mode that the umask gives new files."""
        super().save_pretrained(save_directory, *args, **kwargs)
        set_new_file_mode(save_directory)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for config.json, without those of `later_fields` that have their default."""
        values = super().to_dict()
        return {
            name: value
            for name, value in values.items()
            if name not in self.later_fields or value != _copy_as_lists(getattr(type(self), name))
        }

    @property
    def position_grid_size(self) -> int:
        """Side, in patches, of the square grid that position embeddings are stored for."""
        return self.image_size // self.patch_size

    @property
    def mlp_size(self) -> int:
        """Hidden width of a block's MLP."""
        size = int(self.hidden_size * self.mlp_ratio)
        return (int(size * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else size

    @property
    def adapter_size(self) -> int:
        """Width of an adapter."""
        return round(self.hidden_size * self.adapter_ratio)

    @property
    def feature_size(self) -> int:
        """Width D of the aggregator's input tokens and of each feature in the descriptor."""
        return getattr(self, self.feature_size_field)

    @property
    def num_regions(self) -> int:
        """Count of features in a descriptor: the global one and one for each region."""
        raise NotImplementedError

    @property
    def unprojected_dim(self) -> int:
        """Width of the descriptor before a projection."""
        return self.num_regions * self.feature_size

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptor."""
        return self.projection_dim or self.unprojected_dim

    def _derive(self) -> None:
        """Fill in the fields that derive from others."""

    def _check_own_fields(self) -> None:
        """Check the fields of a subclass."""

    def _check_multiples(self) -> None:
        pairs = [("hidden_size", "num_attention_heads"), ("image_size", "patch_size")]
        if self.use_cross_image_encoder:
            pairs.append((self.feature_size_field, "cross_image_num_heads"))
        for whole, part in pairs:
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"`{whole}` must be a multiple of `{part}`, got {getattr(self, whole)} and {getattr(self, part)}."
                )

    def _check_adapter(self) -> None:
        if len(self.adapter_branch_ratios) != len(self.adapter_kernel_sizes):
            raise ValueError(
                "`adapter_branch_ratios` and `adapter_kernel_sizes` must be of one length, got "
                f"{self.adapter_branch_ratios} and {self.adapter_kernel_sizes}."
            )
        widths = [self.adapter_size * ratio for ratio in self.adapter_branch_ratios]
        if sum(widths) != self.adapter_size or any(width != int(width) or width < 1 for width in widths):
            raise ValueError(
                f"`adapter_branch_ratios` must cut the adapter's {self.adapter_size} channels (`hidden_size` x "
                f"`adapter_ratio`) into whole numbers that sum to it, got {widths}."
            )

    def _check_projection(self) -> None:
        if self.projection_dim is None or self.normalize_projection:  # a trained map to a wider teacher's space is normalised
            return
        if self.projection_dim > self.unprojected_dim:
            raise ValueError(
                f"`projection_dim` must be None or at most the {self.unprojected_dim} numbers of the unprojected "
                f"descriptor, got {self.projection_dim}."
            )


__all__ = ["Rules", "VPRConfig", "are_all", "is_fraction", "is_number", "is_positive", "is_switch", "is_whole"]
