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
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from .configuration_d2vpr import D2VPRConfig
from .cross_image_encoder import CrossImageEncoder
from .deformable_aggregation import DeformableAggregator, GeneralizedMean, at_least_float32
from .vision_transformer import Embeddings, Encoder, LayerScale

logger = logging.get_logger(__name__)


@dataclass
class D2VPRModelOutput(ModelOutput):
    """Output of [`D2VPRModel`]: B images, N patches, D = `config.recovery_size`, R regions, P samples.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape (B, 1 + N, D)): The recovered tokens, the global feature first.
        pooler_output (`torch.FloatTensor` of shape (B, `config.descriptor_dim`)): The descriptor: L2-normalised unless
            the model projects it. Compare descriptors by L2 distance.
        region_features (`torch.FloatTensor` of shape (B, 1 + R, D)): The global feature and the regions' ones, which
            flattened and normalised are the unprojected descriptor.
        sampling_positions (`torch.FloatTensor` of shape (B, P, 2)): Where features were read, x to the right and y down
            in [0, 1], region by region.
        region_boxes (`torch.FloatTensor` of shape (B, 1 + R, 4)): Mean x, mean y, width and height of each region's
            positions, the whole image first.
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
        self.norm = nn.LayerNorm(config.recovery_size, eps=config.layer_norm_eps)

    def forward(self, hidden_states: list[torch.Tensor]) -> torch.Tensor:
        """Map the 1 + L residual streams (B, T, C) to recovered tokens (B, T, D)."""
        taps = torch.cat([hidden_states[layer] for layer in self.layers], dim=-1)
        return self.norm(self.projection(taps))


class DescriptorProjection(nn.Module):
    """A fixed linear map of descriptors, such as PCA. A fresh one keeps the first components."""

    mean: torch.Tensor
    components: torch.Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("components", torch.eye(out_features, in_features))

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Map (B, in_features) to (B, out_features)."""
        return (descriptors - self.mean) @ self.components.T


class D2VPRPreTrainedModel(PreTrainedModel):
    """What D2-VPR models share: how transformers handles them, and how missing weights are drawn."""

    config: D2VPRConfig
    config_class = D2VPRConfig
    base_model_prefix = "d2vpr"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment] # as transformers' own models have it
    supports_gradient_checkpointing = True
    _no_split_modules = ["Embeddings", "AdapterBlock", "RecoveryModule", "DeformableAggregator", "CrossImageLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if hasattr(module, "draw_weights"):
            module.draw_weights(module)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            init.trunc_normal_(module.weight, std=std)
        elif isinstance(module, Embeddings):
            init.trunc_normal_(module.cls_token, std=std)
            init.trunc_normal_(module.position_embeddings, std=std)
            init.zeros_(module.mask_token)
        elif isinstance(module, LayerScale):
            init.constant_(module.gamma, module.value)
        elif isinstance(module, GeneralizedMean):
            init.constant_(module.p, module.initial_p)
        elif isinstance(module, DescriptorProjection):
            init.zeros_(module.mean)
            init.eye_(module.components)


class D2VPRModel(D2VPRPreTrainedModel):
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

    def __init__(self, config: D2VPRConfig) -> None:
        config.derive_and_check()
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.recovery = RecoveryModule(config)
        self.aggregator = DeformableAggregator(config)
        self.cross_image_encoder = CrossImageEncoder(config) if config.use_cross_image_encoder else None
        unprojected = config.num_regions * config.recovery_size
        self.projection = DescriptorProjection(unprojected, config.projection_dim) if config.projection_dim else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that turns pixels into patch tokens."""
        return self.embeddings.patch_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the layer that turns pixels into patch tokens."""
        self.embeddings.patch_embeddings = value

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> D2VPRModelOutput:
        """Describe images.

        Args:
            pixel_values: Normalised images (B, 3, height, width) as the image processor gives them. Height and width are
                multiples of `config.patch_size`, independent of each other.
            output_hidden_states: Whether to return the residual streams; `None` takes the configuration's word.
            output_attentions: Whether to return the attention weights. Only the eager implementation gives them; the others
                give an empty tuple and a warning.

        Returns:
            [`D2VPRModelOutput`]

        Raises:
            ValueError: If `pixel_values` is not of that shape.
        """
        self._check_pixel_values(pixel_values)
        size = self.config.patch_size
        grid_size = (pixel_values.shape[2] // size, pixel_values.shape[3] // size)
        output_hidden_states, output_attentions = self._resolve_flags(output_hidden_states, output_attentions)
        hidden_states, attentions = self.encoder(self.embeddings(pixel_values), grid_size, output_attentions)
        if output_attentions and not attentions:
            self._warn_of_no_attentions()
        tokens = self.recovery(hidden_states)
        features, positions, boxes = self.aggregator(tokens, grid_size)
        if self.cross_image_encoder is not None:
            features = self.cross_image_encoder(features)
        return D2VPRModelOutput(
            last_hidden_state=tokens,
            pooler_output=self._descriptor(features),
            region_features=features,
            sampling_positions=positions,
            region_boxes=boxes,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _resolve_flags(self, *flags: bool | None) -> list[bool]:
        defaults = (self.config.output_hidden_states, self.config.output_attentions)
        return [bool(default if flag is None else flag) for flag, default in zip(flags, defaults, strict=True)]

    def _warn_of_no_attentions(self) -> None:
        if not torch.compiler.is_compiling():
            logger.warning_once(
                "`output_attentions=True` gives nothing with the attention implementation "
                f"{self.config._attn_implementation!r}; use `model.set_attn_implementation('eager')`."
            )

    def _descriptor(self, features: torch.Tensor) -> torch.Tensor:
        descriptors = nn.functional.normalize(at_least_float32(features.flatten(1)), dim=1).to(features.dtype)
        return descriptors if self.projection is None else self.projection(descriptors)

    def _check_pixel_values(self, pixel_values: torch.Tensor) -> None:
        channels, size = self.config.num_channels, self.config.patch_size
        shape_is_right = pixel_values.ndim == 4 and pixel_values.shape[0] > 0 and pixel_values.shape[1] == channels
        if not (shape_is_right and pixel_values.is_floating_point()):
            raise ValueError(
                f"`pixel_values` must be floating-point (batch, {channels}, height, width), got {pixel_values.dtype} "
                f"{tuple(pixel_values.shape)}. The image processor makes them from photos."
            )
        height, width = pixel_values.shape[2:]
        if height % size or width % size or not height or not width:
            raise ValueError(
                f"Height and width of `pixel_values` must be multiples of {size}, got {height}x{width}. "
                "Set the image processor's `size` accordingly."
            )


__all__ = ["D2VPRModel", "D2VPRModelOutput", "D2VPRPreTrainedModel"]
