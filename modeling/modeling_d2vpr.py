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
"""The D2-VPR student (arXiv 2511.12528): adapted ViT, recovery module, deformable aggregator, descriptor."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .aggregators import AGGREGATORS
from .configuration_d2vpr import D2VPRConfig
from .modeling_vpr import VPRPreTrainedModel
from .weight_initialization import drawn_by, norm_weight


@dataclass
class D2VPRModelOutput(ModelOutput):
    """Output of [`D2VPRModel`]: B images, N patches, D = `config.recovery_size`, R regions, P samples.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape (B, 1 + N, D)): The recovered tokens, the global feature first.
        pooler_output (`torch.FloatTensor` of shape (B, `config.descriptor_dim`)): The descriptor: L2-normalised unless
            the model projects it. Compare descriptors by L2 distance.
        region_features (`torch.FloatTensor` of shape (B, 1 + R, D)): The global feature and the regions' features. Flattened
            and normalised, they are the unprojected descriptor.
        sampling_positions (`torch.FloatTensor` of shape (B, P, 2), *optional*): Where features were read, x to the right and
            y down in [0, 1], region by region; `None` if the aggregator does not sample.
        region_boxes (`torch.FloatTensor` of shape (B, 1 + R, 4), *optional*): Mean x, mean y, width and height of each
            region's positions, the whole image first; `None` if the aggregator does not sample.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): The residual stream (B, 1 + N, C) before the first block
            and after each, without a final norm.
        attentions (`tuple[torch.FloatTensor]`, *optional*): The blocks' attention weights (B, heads, 1 + N, 1 + N).
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    region_features: torch.Tensor | None = None
    sampling_positions: torch.Tensor | None = None
    region_boxes: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class RecoveryModule(nn.Module):
    """Bring the student's tokens into the teacher's feature space (Distillation Recovery Module, DRM)."""

    def __init__(self, config: D2VPRConfig) -> None:
        super().__init__()
        self.layers = config.recovery_layers
        self.projection = nn.Linear(len(self.layers) * config.hidden_size, config.recovery_size)
        norm = nn.LayerNorm(config.recovery_size, eps=config.layer_norm_eps)
        self.norm = drawn_by(partial(norm_weight, value=config.recovery_norm_value), norm)

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        """Map the 1 + L residual streams (B, T, C) to recovered tokens (B, T, D)."""
        taps = torch.cat([hidden_states[layer] for layer in self.layers], dim=-1)
        return self.norm(self.projection(taps))


class D2VPRModel(VPRPreTrainedModel):
    """The D2-VPR student: photos in, one global descriptor each out.

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

    config: D2VPRConfig
    config_class = D2VPRConfig
    base_model_prefix = "d2vpr"
    _no_split_modules = [
        *("Embeddings", "AdapterBlock", "RecoveryModule", "CrossImageLayer"),
        *(aggregator.__name__ for aggregator in AGGREGATORS.values()),
    ]

    def __init__(self, config: D2VPRConfig) -> None:
        super().__init__(config)
        self.recovery = RecoveryModule(config)
        self.aggregator = AGGREGATORS[config.aggregator](config)
        self._add_descriptor_parts()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> D2VPRModelOutput:
        """Compute the descriptors of images.

        Args:
            pixel_values: Normalised images (B, 3, height, width) as the image processor gives them. Height and width are
                multiples of `config.patch_size`, independent of each other.
            output_hidden_states: Whether to return the residual streams; `None` takes the configuration's value.
            output_attentions: Whether to return the attention weights. Only the eager implementation returns them; the others
                return an empty tuple and warn.

        Returns:
            [`D2VPRModelOutput`]

        Raises:
            ValueError: If `pixel_values` is not of that shape.
        """
        encoded = self._encode(pixel_values, output_hidden_states, output_attentions)
        tokens = self.recovery(encoded.hidden_states)
        features, positions, boxes = self.aggregator(tokens, encoded.grid_size)
        features, descriptors = self._describe(features)
        return D2VPRModelOutput(
            last_hidden_state=tokens,
            pooler_output=descriptors,
            region_features=features,
            sampling_positions=positions,
            region_boxes=boxes,
            **encoded.requested,
        )


__all__ = ["D2VPRModel", "D2VPRModelOutput"]
