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
"""Configuration of the D2-VPR student: every number that shapes its computation.

The defaults are the published model of "D2-VPR" (arXiv 2511.12528): DINOv2 ViT-S/14 with convolutional adapters, the
Distillation Recovery Module (DRM) and the Top-Down-attention-based Deformable Aggregator (TDDA).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

from transformers import PreTrainedConfig

_MEDIUM_EDGES = (0.0, 0.5, 1.0)
_SMALL_EDGES = (0.0, 5 / 16, 11 / 16, 1.0)
_SMALL_SAMPLES = (5, 6, 5)  # samples along the 0-5/16, 5/16-11/16 and 11/16-1 strips


def _grid_regions(level: str, edges: tuple[float, ...], samples: tuple[int, ...]) -> list[dict[str, Any]]:
    """Cut the unit square at `edges` along both axes and list the cells row by row."""
    cells = range(len(edges) - 1)
    return [
        {
            "level": level,
            "box": [edges[j], edges[i], edges[j + 1], edges[i + 1]],
            "rows": samples[i],
            "columns": samples[j],
        }
        for i in cells
        for j in cells
    ]


def default_regions() -> list[dict[str, Any]]:
    """Return the published table: 4 medium regions of 8x8 samples, then 9 small ones of 5 or 6 samples a side."""
    return _grid_regions("medium", _MEDIUM_EDGES, (8, 8)) + _grid_regions("small", _SMALL_EDGES, _SMALL_SAMPLES)


class D2VPRConfig(PreTrainedConfig):
    """Configuration of [`D2VPRModel`]. `D2VPRConfig()` is the published student without cross-image encoder.

    Args:
        hidden_size (`int`, defaults to 384): Width C of the ViT.
        num_hidden_layers (`int`, defaults to 12): Number of ViT blocks.
        num_attention_heads (`int`, defaults to 6): Attention heads of a block.
        mlp_ratio (`float`, defaults to 4): Hidden width of a block's MLP, as a multiple of `hidden_size`.
        hidden_act (`str`, defaults to `"gelu"`): Activation of the ViT's MLPs.
        qkv_bias (`bool`, defaults to `True`): Whether the query, key and value projections have a bias.
        layer_norm_eps (`float`, defaults to 1e-6): Epsilon of the ViT's and the recovery module's LayerNorms.
        layerscale_value (`float`, defaults to 1.0): Initial LayerScale of a model that starts without weights.
        initializer_range (`float`, defaults to 0.02): Standard deviation of fresh weights in the ViT and the recovery module;
            the rest is drawn as torch does.
        image_size (`int`, defaults to 518): Side, in pixels, of the square images the position embeddings are stored
            for. It is not the input size: any height and width that are multiples of `patch_size` work.
        patch_size (`int`, defaults to 14): Side of a patch in pixels.
        num_channels (`int`, defaults to 3): Image channels.
        position_embedding_offset (`float`, defaults to 0.1): Added to the patch grid's height and width where position
            embeddings are resampled, as the published weights need it; 0 gives transformers' Dinov2 rule.
        adapter_ratio (`float`, defaults to 0.5): Width of an adapter, as a part of `hidden_size`.
        adapter_branch_ratios (`list[float]`, defaults to `[0.5, 0.25, 0.25]`): Output widths of the adapter's
            convolution branches, as parts of the adapter's width. They sum to 1.
        adapter_kernel_sizes (`list[int]`, defaults to `[1, 3, 5]`): Kernel size of each branch; a branch with a kernel
            larger than 1 first reduces its channels with a 1x1 convolution.
        adapter_reduction_ratio (`float`, defaults to 1/16): Width of that reduction, as a part of the adapter's width.
        adapter_scale (`float`, defaults to 0.2): Weight of the adapter beside the MLP.
        adapter_conv_init (`float`, defaults to 1e-5): Constant that fresh adapter convolutions are filled with.
        adapter_batch_norm_eps (`float`, defaults to 1e-3): Epsilon of the adapters' BatchNorms.
        adapter_batch_norm_momentum (`float`, defaults to 0.1): Momentum of the adapters' BatchNorms.
        tap_layers (`list[int]`, *optional*): Blocks, counted from 1, whose outputs the recovery module reads. `None`
            takes those at 1/6, 1/3, 2/3 and the end of the depth: 2, 4, 8 and 12 of the published 12.
        use_tap_layers (`bool`, defaults to `True`): `False` feeds the recovery module the last block alone, repeated, at
            the same parameter count (ablation).
        recovery_size (`int`, defaults to 768): Width D of the recovered tokens: the teacher's width.
        regions (`list[dict]`): The pooled regions, in the descriptor's order; by default the published 4 medium and 9 small
            ones. Each has a `level` (`"medium"` or `"small"`), a `box` `[x_min, y_min, x_max, y_max]` in [0, 1] with x to the
            right and y down, and `rows` and `columns` of samples (at least 2).
        offset_hidden_size (`int`, defaults to 512): Hidden width of the offset head.
        offset_limit (`float`, defaults to 0.25): Largest offset, as a part of a region's width and height.
        scale_range (`list[float]`, defaults to `[0.5, 2.0]`): Smallest and largest scale of a region's sample grid.
        published_offset_sampling (`bool`, defaults to `True`): Read the offset map as the published code does, with [0, 1]
            coordinates in the place of [-1, 1] ones, so that only its lower right quarter is read. `False` reads it
            where the sample lies.
        use_offsets, use_scales, use_top_down_fusion, use_position_encoding (`bool`, default to `True`): Switches for
            ablation. What is off has no parameters, except that offsets and scales share one head.
        gem_p (`float`, defaults to 3.0): Initial exponent of the generalised mean.
        gem_eps (`float`, defaults to 1e-6): Values below are raised to it before the generalised mean.
        fusion_hidden_size (`int`, defaults to 256): Hidden width of the top-down fusion's MLPs.
        fusion_layer_norm_eps (`float`, defaults to 1e-5): Epsilon of their LayerNorm.
        fusion_dropout (`float`, defaults to 0.1): Their dropout.
        position_encoding_hidden_size (`int`, defaults to 128): Hidden width of the region position encoding.
        use_cross_image_encoder (`bool`, defaults to `False`): Let the images of a batch attend to each other before the
            descriptor. A descriptor then depends on what else is in its batch.
        cross_image_num_layers (`int`, defaults to 2), cross_image_num_heads (`int`, defaults to 16),
        cross_image_intermediate_size (`int`, defaults to 2048), cross_image_dropout (`float`, defaults to 0.1),
        cross_image_layer_norm_eps (`float`, defaults to 1e-5): Shape of that encoder.
        projection_dim (`int`, *optional*): Width of a linear projection (PCA) of the descriptor; `None` for none.

    Raises:
        ValueError: If a value cannot describe a model; the message names the field, the value and what is allowed.
    """

    model_type = "d2vpr"

    hidden_size: int = 384
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    mlp_ratio: int | float = 4
    hidden_act: str = "gelu"
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

    tap_layers: list[int] | tuple[int, ...] | None = None
    use_tap_layers: bool = True
    recovery_size: int = 768

    regions: list[dict[str, Any]] = field(default_factory=default_regions)
    offset_hidden_size: int = 512
    offset_limit: float = 0.25
    scale_range: list[float] | tuple[float, float] = (0.5, 2.0)
    published_offset_sampling: bool = True
    use_offsets: bool = True
    use_scales: bool = True
    gem_p: float = 3.0
    gem_eps: float = 1e-6
    use_top_down_fusion: bool = True
    fusion_hidden_size: int = 256
    fusion_layer_norm_eps: float = 1e-5
    fusion_dropout: float = 0.1
    use_position_encoding: bool = True
    position_encoding_hidden_size: int = 128

    use_cross_image_encoder: bool = False
    cross_image_num_layers: int = 2
    cross_image_num_heads: int = 16
    cross_image_intermediate_size: int = 2048
    cross_image_dropout: float = 0.1
    cross_image_layer_norm_eps: float = 1e-5

    projection_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive, check, and hand the rest to transformers."""
        self.derive_and_check()
        super().__post_init__(**kwargs)

    def derive_and_check(self) -> None:
        """Fill in what derives from other fields, and refuse what cannot describe a model.

        The model calls it too: transformers sets overrides such as `from_pretrained(..., hidden_size=48)` afterwards.
        """
        for names, expected, is_right in _RULES:
            for name in names:
                if not is_right(getattr(self, name)):
                    raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)!r}.")
        if self.tap_layers is None:
            self.tap_layers = [max(1, round(self.num_hidden_layers * part)) for part in (1 / 6, 1 / 3, 2 / 3, 1)]
        for name in _LISTS:  # JSON knows lists only, and nobody else's list may change a model
            setattr(self, name, copy.deepcopy(list(getattr(self, name))))
        self._check_sizes()
        self._check_adapter()
        self._check_taps()
        self._check_regions()

    @property
    def position_grid_size(self) -> int:
        """Side, in patches, of the square grid that position embeddings are stored for."""
        return self.image_size // self.patch_size

    @property
    def adapter_size(self) -> int:
        """Width of an adapter."""
        return round(self.hidden_size * self.adapter_ratio)

    @property
    def recovery_layers(self) -> list[int]:
        """The blocks whose outputs the recovery module reads, counted from 1."""
        taps = list(self.tap_layers or ())
        return taps if self.use_tap_layers else [self.num_hidden_layers] * len(taps)

    @property
    def sample_counts(self) -> list[int]:
        """Number of samples of each region, in the order of `regions`."""
        return [region["rows"] * region["columns"] for region in self.regions]

    @property
    def num_regions(self) -> int:
        """Number of features in a descriptor: the global one and one for each region."""
        return 1 + len(self.regions)

    @property
    def descriptor_dim(self) -> int:
        """Width of the descriptor."""
        return self.projection_dim or self.num_regions * self.recovery_size

    def region_indices(self, level: str) -> list[int]:
        """Return the positions in `regions` of all regions of a level, `"medium"` or `"small"`."""
        return [i for i, region in enumerate(self.regions) if region["level"] == level]

    def overlapping_small_regions(self, index: int) -> list[int]:
        """Return the positions in `regions` of the small regions that share area with region `index`."""
        regions = self.regions
        return [i for i in self.region_indices("small") if _overlap(regions[index]["box"], regions[i]["box"])]

    def _check_sizes(self) -> None:
        pairs = [("hidden_size", "num_attention_heads"), ("image_size", "patch_size")]
        if self.use_cross_image_encoder:
            pairs.append(("recovery_size", "cross_image_num_heads"))
        for whole, part in pairs:
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"`{whole}` must be a multiple of `{part}`, got {getattr(self, whole)} and {getattr(self, part)}."
                )
        if self.scale_range[0] >= self.scale_range[1]:
            raise ValueError(f"`scale_range` must be [smallest, largest], got {self.scale_range}.")
        if self.projection_dim is not None and self.projection_dim > self.num_regions * self.recovery_size:
            raise ValueError(
                f"`projection_dim` must be None or at most the {self.num_regions * self.recovery_size} numbers of the "
                f"unprojected descriptor, got {self.projection_dim}."
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

    def _check_taps(self) -> None:
        if not all(layer <= self.num_hidden_layers for layer in self.tap_layers or ()):
            raise ValueError(
                f"`tap_layers` must be blocks from 1 to `num_hidden_layers` ({self.num_hidden_layers}), got "
                f"{self.tap_layers}; set it to None to have it derived from the depth."
            )

    def _check_regions(self) -> None:
        for region in self.regions:
            _check_region(region)
        if not self.use_top_down_fusion:
            return
        medium = self.region_indices("medium")
        if not medium or not all(self.overlapping_small_regions(index) for index in medium):
            raise ValueError(
                "Top-down fusion needs at least one medium region, and under every medium region a small one that "
                "overlaps it. Complete `regions` or set `use_top_down_fusion=False`."
            )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_all(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Make the check of a list that is not empty."""
    return lambda values: isinstance(values, list | tuple) and len(values) > 0 and all(map(is_right, values))


_LISTS = ("adapter_branch_ratios", "adapter_kernel_sizes", "tap_layers", "scale_range", "regions")

# fields, what they must be, and the test of it
_RULES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (
        (
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "num_channels"),
            *("recovery_size", "offset_hidden_size", "fusion_hidden_size", "position_encoding_hidden_size"),
            *("cross_image_num_layers", "cross_image_num_heads", "cross_image_intermediate_size"),
        ),
        "a whole number of at least 1",
        _is_whole,
    ),
    (("projection_dim",), "None or a whole number of at least 1", lambda value: value is None or _is_whole(value)),
    (
        (
            *("use_tap_layers", "use_offsets", "use_scales", "use_top_down_fusion", "use_position_encoding"),
            *("use_cross_image_encoder", "published_offset_sampling", "qkv_bias"),
        ),
        "True or False",
        lambda value: isinstance(value, bool),
    ),
    (
        (
            *("mlp_ratio", "adapter_ratio", "adapter_reduction_ratio", "gem_p", "gem_eps", "initializer_range"),
            *("layer_norm_eps", "fusion_layer_norm_eps", "cross_image_layer_norm_eps", "adapter_batch_norm_eps"),
        ),
        "a number above 0",
        lambda value: _is_number(value) and value > 0,
    ),
    (("offset_limit",), "a number of at least 0", lambda value: _is_number(value) and value >= 0),
    (("layerscale_value", "adapter_scale", "adapter_conv_init"), "a number", _is_number),
    (
        ("position_embedding_offset", "fusion_dropout", "cross_image_dropout", "adapter_batch_norm_momentum"),
        "a number in [0, 1)",
        lambda value: _is_number(value) and 0 <= value < 1,
    ),
    (
        ("scale_range",),
        "two numbers above 0",
        lambda values: _are_all(lambda value: _is_number(value) and value > 0)(values) and len(values) == 2,
    ),
    (("adapter_branch_ratios",), "numbers", _are_all(_is_number)),
    (
        ("adapter_kernel_sizes",),
        "odd whole numbers, which keep the patch grid",
        _are_all(lambda n: _is_whole(n) and n % 2 == 1),
    ),
    (("tap_layers",), "None or whole numbers of at least 1", lambda layers: layers is None or _are_all(_is_whole)(layers)),
    (("regions",), "a list of regions, at least one", _are_all(lambda region: isinstance(region, dict))),
)


def _overlap(first: list[float], second: list[float]) -> bool:
    """Tell whether two boxes `[x_min, y_min, x_max, y_max]` share area, a common edge not counted."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _check_region(region: dict[str, Any]) -> None:
    """Raise if one row of the regions table is not a region."""
    expected = {"level", "box", "rows", "columns"}
    if set(region) != expected:
        raise ValueError(f"A region has the keys {sorted(expected)}, got {sorted(region)}.")
    if region["level"] not in ("medium", "small"):
        raise ValueError(f'A region\'s level is "medium" or "small", got {region["level"]!r}.')
    box = region["box"]
    if not _are_all(_is_number)(box) or len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"A region's box is [x_min, y_min, x_max, y_max] inside [0, 1], got {box}.")
    if not all(_is_whole(region[side]) and region[side] >= 2 for side in ("rows", "columns")):
        raise ValueError(f"A region has at least 2 rows and 2 columns of samples, got {region['rows']} x {region['columns']}.")


__all__ = ["D2VPRConfig", "default_regions"]
