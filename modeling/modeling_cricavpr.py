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
"""CricaVPR (arXiv 2402.19231), the published teacher of D2-VPR: adapted ViT, pyramid of regions, cross-image encoder."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_cricavpr import CricaVPRConfig
from .grid_aggregation import GridAggregator
from .modeling_vpr import VPRPreTrainedModel


@dataclass
class CricaVPRModelOutput(ModelOutput):
    """Output of [`CricaVPRModel`]: B images, N patches, D = `config.hidden_size`, R regions.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape (B, 1 + N, D)): The tokens after the final LayerNorm, the global
            feature first.
        pooler_output (`torch.FloatTensor` of shape (B, `config.descriptor_dim`)): The descriptor: L2-normalised unless
            the model projects it. Compare descriptors by L2 distance.
        region_features (`torch.FloatTensor` of shape (B, 1 + R, D)): The global feature and the regions' features. Flattened
            and normalised, they are the unprojected descriptor.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): The residual stream (B, 1 + N, D) before the first block
            and after each, without the final norm.
        attentions (`tuple[torch.FloatTensor]`, *optional*): The blocks' attention weights (B, heads, 1 + N, 1 + N).
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    region_features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class CricaVPRModel(VPRPreTrainedModel):
    """CricaVPR: photos in, one global descriptor each out.

    With its cross-image encoder, as published, a descriptor depends on the other images of the batch.

    Example:
    ```python
    >>> from PIL import Image
    >>> from transformers import AutoImageProcessor, AutoModel

    >>> processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    >>> model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    >>> inputs = processor(Image.open("photo.jpg"), return_tensors="pt")
    >>> descriptor = model(**inputs).pooler_output
    ```
    """

    config: CricaVPRConfig
    config_class = CricaVPRConfig
    base_model_prefix = "cricavpr"
    _no_split_modules = ["Embeddings", "AdapterBlock", "GridAggregator", "CrossImageLayer"]

    def __init__(self, config: CricaVPRConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.aggregator = GridAggregator(config)
        self._add_descriptor_parts()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> CricaVPRModelOutput:
        """Compute the descriptors of images.

        Args:
            pixel_values: Normalised images (B, 3, height, width) as the image processor gives them. Height and width are
                multiples of `config.patch_size`, independent of each other, and large enough that every region has a patch:
                3 patches each with the published regions.
            output_hidden_states: Whether to return the residual streams; `None` takes the configuration's value.
            output_attentions: Whether to return the attention weights. Only the eager implementation returns them; the others
                return an empty tuple and warn.

        Returns:
            [`CricaVPRModelOutput`]

        Raises:
            ValueError: If `pixel_values` is not of that shape.
        """
        encoded = self._encode(pixel_values, output_hidden_states, output_attentions)
        tokens = self.norm(encoded.hidden_states[-1])
        features, descriptors = self._describe(self.aggregator(tokens, encoded.grid_size))
        return CricaVPRModelOutput(
            last_hidden_state=tokens, pooler_output=descriptors, region_features=features, **encoded.requested
        )


__all__ = ["CricaVPRModel", "CricaVPRModelOutput"]
