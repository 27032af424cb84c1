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

from dataclasses import field
from typing import Any, ClassVar

from .aggregators import AGGREGATORS
from .configuration_vpr import VPR_RULES, Rules, VPRConfig, are_all, is_fraction, is_number, is_positive, is_switch, is_whole

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


class D2VPRConfig(VPRConfig):
    """Configuration of [`D2VPRModel`]. `D2VPRConfig()` is the published student without cross-image encoder.

    Args:
        tap_layers (`list[int]`, *optional*): Blocks, counted from 1, whose outputs the recovery module reads. `None`
            selects those at 1/6, 1/3, 2/3 and the end of the depth: 2, 4, 8 and 12 of the published 12.
        use_tap_layers (`bool`, defaults to `True`): `False` feeds the recovery module the last block alone, repeated, at
            the same parameter count (ablation).
        recovery_size (`int`, defaults to 768): Width D of the recovered tokens: the teacher's width.
        recovery_norm_value (`float`, defaults to 1.0): Initial weight of the recovery module's LayerNorm, of a model that
            starts without weights. With 1, as published, the global token has the length sqrt(D) and counts far more in a
            descriptor than the regions, whose vectors are at most 1 long. With 1 / sqrt(D) its length is 1 too.
        aggregator (`str`, defaults to `"deformable"`): Name in the table `AGGREGATORS` of the class that pools the tokens.
            `"deformable"` is TDDA.
        regions (`list[dict]`): The pooled regions, in the descriptor's order; by default the published 4 medium and 9 small
            ones. Each has a `level` (`"medium"` or `"small"`), a `box` `[x_min, y_min, x_max, y_max]` in [0, 1] with x to the
            right and y down, and `rows` and `columns` of samples (at least 2).
        offset_hidden_size (`int`, defaults to 512): Hidden width of the offset head.
        offset_limit (`float`, defaults to 0.25): Largest offset, as a fraction of a region's width and height.
        scale_range (`list[float]`, defaults to `[0.5, 2.0]`): Smallest and largest scale of a region's sample grid.
        published_offset_sampling (`bool`, defaults to `True`): Read the offset map as the published code does, with [0, 1]
            coordinates in place of [-1, 1] ones, so that only its lower right quarter is read. `False` reads it
            at the position of the sample.
        use_offsets, use_scales, use_top_down_fusion, use_position_encoding (`bool`, default to `True`): Switches for
            ablation. A part that is off has no parameters, except that offsets and scales share one head.
        fusion_hidden_size (`int`, defaults to 256): Hidden width of the top-down fusion's MLPs.
        fusion_layer_norm_eps (`float`, defaults to 1e-5): Epsilon of their LayerNorm.
        fusion_dropout (`float`, defaults to 0.1): Their dropout.
        position_encoding_hidden_size (`int`, defaults to 128): Hidden width of the region position encoding.
        kwargs: The fields of [`VPRConfig`]: ViT, adapters, generalised mean, cross-image encoder, projection.

    Raises:
        ValueError: If a value cannot describe a model; the message names the field, the value and what is allowed.
    """

    model_type = "d2vpr"
    rules: ClassVar[Rules] = (
        *VPR_RULES,
        (
            ("recovery_size", "offset_hidden_size", "fusion_hidden_size", "position_encoding_hidden_size"),
            "a whole number of at least 1",
            is_whole,
        ),
        (
            (
                *("use_tap_layers", "use_offsets", "use_scales", "use_top_down_fusion", "use_position_encoding"),
                "published_offset_sampling",
            ),
            "True or False",
            is_switch,
        ),
        (
            ("aggregator",),
            f"one of {', '.join(AGGREGATORS)}",
            lambda word: isinstance(word, str) and word in AGGREGATORS,
        ),
        (("fusion_layer_norm_eps", "recovery_norm_value"), "a number above 0", is_positive),
        (("offset_limit",), "a number of at least 0", lambda value: is_number(value) and value >= 0),
        (("fusion_dropout",), "a number in [0, 1)", is_fraction),
        (("scale_range",), "two numbers above 0", lambda values: are_all(is_positive)(values) and len(values) == 2),
        (("tap_layers",), "None or whole numbers of at least 1", lambda layers: layers is None or are_all(is_whole)(layers)),
        (("regions",), "a list of regions, at least one", are_all(lambda region: isinstance(region, dict))),
    )
    list_fields: ClassVar[tuple[str, ...]] = (*VPRConfig.list_fields, "tap_layers", "scale_range", "regions")
    feature_size_field: ClassVar[str] = "recovery_size"
    later_fields: ClassVar[tuple[str, ...]] = (*VPRConfig.later_fields, "aggregator", "recovery_norm_value")

    tap_layers: list[int] | tuple[int, ...] | None = None
    use_tap_layers: bool = True
    recovery_size: int = 768
    recovery_norm_value: float = 1.0

    aggregator: str = "deformable"
    regions: list[dict[str, Any]] = field(default_factory=default_regions)
    offset_hidden_size: int = 512
    offset_limit: float = 0.25
    scale_range: list[float] | tuple[float, float] = (0.5, 2.0)
    published_offset_sampling: bool = True
    use_offsets: bool = True
    use_scales: bool = True
    use_top_down_fusion: bool = True
    fusion_hidden_size: int = 256
    fusion_layer_norm_eps: float = 1e-5
    fusion_dropout: float = 0.1
    use_position_encoding: bool = True
    position_encoding_hidden_size: int = 128

    @property
    def recovery_layers(self) -> list[int]:
        """The blocks whose outputs the recovery module reads, counted from 1."""
        taps = list(self.tap_layers or ())
        return taps if self.use_tap_layers else [self.num_hidden_layers] * len(taps)

    @property
    def sample_counts(self) -> list[int]:
        """Sample counts of the regions, in the order of `regions`."""
        return [region["rows"] * region["columns"] for region in self.regions]

    @property
    def num_regions(self) -> int:
        """Count of features in a descriptor, as the aggregator makes them: the global one and the regions' ones."""
        return AGGREGATORS[self.aggregator].num_features(self)

    def region_indices(self, level: str) -> list[int]:
        """Return the positions in `regions` of all regions of a level, `"medium"` or `"small"`."""
        return [i for i, region in enumerate(self.regions) if region["level"] == level]

    def overlapping_small_regions(self, index: int) -> list[int]:
        """Return the positions in `regions` of the small regions that share area with region `index`."""
        regions = self.regions
        return [i for i in self.region_indices("small") if _overlap(regions[index]["box"], regions[i]["box"])]

    def _derive(self) -> None:
        if self.tap_layers is None:
            self.tap_layers = [max(1, round(self.num_hidden_layers * part)) for part in (1 / 6, 1 / 3, 2 / 3, 1)]

    def _check_own_fields(self) -> None:
        if self.scale_range[0] >= self.scale_range[1]:
            raise ValueError(f"`scale_range` must be [smallest, largest], got {self.scale_range}.")
        self._check_taps()
        self._check_regions()

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


def _overlap(first: list[float], second: list[float]) -> bool:
    """Return whether two boxes `[x_min, y_min, x_max, y_max]` share area; a common edge is not an area."""
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _check_region(region: dict[str, Any]) -> None:
    """Raise ValueError if a row of the regions table is not a region."""
    expected = {"level", "box", "rows", "columns"}
    if set(region) != expected:
        raise ValueError(f"A region has the keys {sorted(expected)}, got {sorted(region)}.")
    if region["level"] not in ("medium", "small"):
        raise ValueError(f'A region\'s level is "medium" or "small", got {region["level"]!r}.')
    box = region["box"]
    if not are_all(is_number)(box) or len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"A region's box is [x_min, y_min, x_max, y_max] inside [0, 1], got {box}.")
    if not all(is_whole(region[side]) and region[side] >= 2 for side in ("rows", "columns")):
        raise ValueError(f"A region has at least 2 rows and 2 columns of samples, got {region['rows']} x {region['columns']}.")


__all__ = ["D2VPRConfig", "default_regions"]
