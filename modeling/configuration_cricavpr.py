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
"""Configuration of CricaVPR (arXiv 2402.19231), the published teacher of D2-VPR: every number that shapes its computation."""

from typing import Any, ClassVar

from .configuration_vpr import VPR_RULES, Rules, VPRConfig, are_all, is_number


def _are_cuts(values: Any) -> bool:
    """Return whether a list holds increasing fractions inside (0, 1)."""
    return are_all(is_number)(values) and all(a < b for a, b in zip((0, *values), (*values, 1), strict=True))


class CricaVPRConfig(VPRConfig):
    """Configuration of [`CricaVPRModel`]. `CricaVPRConfig()` is the published model.

    Args:
        hidden_size (`int`, defaults to 768): Width of the ViT, of its tokens and of each feature: C = D.
        num_attention_heads (`int`, defaults to 12): Attention heads of a block.
        region_cuts (`list[list[float]]`, defaults to `[[1/2], [5/16, 11/16]]`): For each level of the pyramid, the positions at
            which both axes of the image are cut; one cut gives 2 x 2 regions, two give 3 x 3. On the patch grid a cut is at the
            nearest edge of a patch (halfway, at the even one).
        use_cross_image_encoder (`bool`, defaults to `True`): Let the images of a batch attend to each other, as published. A
            descriptor then depends on the other images of its batch.
        kwargs: The other fields of [`VPRConfig`]: ViT, adapters, generalised mean, cross-image encoder, projection.

    Raises:
        ValueError: If a value cannot describe a model; the message names the field, the value and what is allowed.
    """

    model_type = "cricavpr"
    rules: ClassVar[Rules] = (
        *VPR_RULES,
        (("region_cuts",), "a list of levels, each a list of rising fractions inside (0, 1)", are_all(_are_cuts)),
    )
    list_fields: ClassVar[tuple[str, ...]] = (*VPRConfig.list_fields, "region_cuts")

    hidden_size: int = 768
    num_attention_heads: int = 12
    region_cuts: list[list[float]] | tuple[tuple[float, ...], ...] = ((1 / 2,), (5 / 16, 11 / 16))
    use_cross_image_encoder: bool = True

    @property
    def num_regions(self) -> int:
        """Count of features in a descriptor: the global one and one for each region."""
        return 1 + sum((len(cuts) + 1) ** 2 for cuts in self.region_cuts)


__all__ = ["CricaVPRConfig"]
