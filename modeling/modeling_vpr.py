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
"""The base of all models: from pixels to tokens, from features to the descriptor, and the settings for transformers."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging
from transformers.utils.hub import hf_api

from .configuration_vpr import VPRConfig
from .cross_image_encoder import CrossImageEncoder
from .generalized_mean import GeneralizedMean, at_least_float32
from .image_processing_d2vpr import D2VPRImageProcessor
from .saved_files import set_new_file_mode
from .sentence_files import write_sentence_files
from .vision_transformer import Embeddings, Encoder, GridSize, LayerScale

logger = logging.get_logger(__name__)


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


class EncodedPixels(NamedTuple):
    """Output of the ViT.

    Attributes:
        hidden_states (`list[torch.Tensor]`): The 1 + L residual streams (B, 1 + N, C), the blocks' input first.
        grid_size (`tuple[int, int]`): Height and width of the patch grid.
        requested (`dict`): `hidden_states` and `attentions` in the form of the model's output; `None` if the caller did not
            request them.
    """

    hidden_states: list[torch.Tensor]
    grid_size: GridSize
    requested: dict[str, tuple[torch.Tensor, ...] | None]


class VPRPreTrainedModel(PreTrainedModel):
    """Base of the models: [`D2VPRModel`] and [`CricaVPRModel`]."""

    config: VPRConfig
    config_class = VPRConfig
    cross_image_encoder: CrossImageEncoder | None
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment] # as in transformers' own models
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _processor_to_save: D2VPRImageProcessor | None = None  # while the model is uploaded

    def __init__(self, config: Any) -> None:
        config.derive_and_check()
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def push_to_hub(  # type: ignore[override] # transformers' wrapper hides its signature
        self, repo_id: str, *, token: Any = None, revision: str | None = None, **kwargs: Any
    ) -> Any:
        """Upload the model as transformers does, with the image processor of the folder or Hub id that it was loaded from.

        An image processor in the repository is not replaced. If there is none at all, a warning says how to add it.
        """
        self._processor_to_save = self._find_processor(repo_id, token, revision)
        try:
            return super().push_to_hub(repo_id, token=token, revision=revision, **kwargs)  # type: ignore[arg-type]
        finally:
            self._processor_to_save = None

    def save_pretrained(
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: Any = None,
        push_to_hub: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Save the model as transformers does, with files for sentence-transformers.

        Weights and code get the mode that the umask gives new files.

        The image processor is not saved: call its `save_pretrained` too. `push_to_hub=True` uploads it as [`push_to_hub`] does.
        """
        super().save_pretrained(save_directory, is_main_process, state_dict, push_to_hub, *args, **kwargs)
        if push_to_hub and is_main_process:
            repo_id = kwargs.get("repo_id") or Path(save_directory).name
            token, revision = kwargs.get("token"), kwargs.get("revision")
            processor = self._find_processor(repo_id, token, revision)
            if processor is not None:
                processor.push_to_hub(repo_id, token=token, revision=revision)
        if self._processor_to_save is not None:
            self._processor_to_save.save_pretrained(save_directory)
        if is_main_process:
            write_sentence_files(save_directory, self.config)
            set_new_file_mode(save_directory)

    def _find_processor(self, repo_id: str, token: Any, revision: str | None) -> D2VPRImageProcessor | None:
        """Return the image processor to upload; `None` if the repository has one, or none is found, with a warning."""
        source = self.config._name_or_path
        processor = _load_processor(source, revision=getattr(self.config, "_commit_hash", None)) if source else None
        uploaded = _download_processor(repo_id, token, revision)
        if uploaded is None and processor is None:
            logger.warning(
                f"{repo_id} gets no image processor, which others need to use the model: there is none in "
                f"{source or 'the folder of the model, which was not loaded from one'}. Upload it with the size that the model "
                f'was trained with: D2VPRImageProcessor(size={{"height": 224, "width": 224}}).push_to_hub("{repo_id}").'
            )
        elif uploaded is not None and processor is not None and _settings(uploaded) != _settings(processor):
            logger.warning(
                f"The image processor in {repo_id} differs from that in {source}, and is not replaced. If the model needs the "
                f'latter: AutoImageProcessor.from_pretrained("{source}").push_to_hub("{repo_id}").'
            )
        return processor if uploaded is None else None

    def initialize_weights(self) -> None:
        """Draw the weights that were not loaded, and add their parts to `config.untrained_parts`."""
        drawn = [
            name
            for name, weight in self.named_parameters()  # quantised weights have another type, and are never drawn
            if type(weight) is nn.Parameter and not getattr(weight, "_is_hf_initialized", False)
        ]
        super().initialize_weights()
        self.config.untrained_parts = sorted({*self.config.untrained_parts, *map(part_name, drawn)})

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does; parts that are loaded whole count as trained."""
        result = super().load_state_dict(state_dict, strict, assign)
        missing = {part_name(name) for name, _ in self.named_parameters() if name not in state_dict}
        self.config.untrained_parts = [part for part in self.config.untrained_parts if part in missing]
        return result

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that turns pixels into patch tokens."""
        return self.embeddings.patch_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the layer that turns pixels into patch tokens."""
        self.embeddings.patch_embeddings = value

    def descriptor_tokens(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Compute the descriptors as one token for each image (B, 1, `descriptor_dim`), as sentence-transformers needs them."""
        return self(pixel_values).pooler_output.unsqueeze(1)

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

    def remove_cross_image_encoder(self) -> None:
        """Encode images one by one from now on, whatever their batch; descriptors change."""
        self.cross_image_encoder = None
        self.config.use_cross_image_encoder = False
        self.config.untrained_parts = [part for part in self.config.untrained_parts if part != "cross_image_encoder"]

    def _add_descriptor_parts(self) -> None:
        """Add the parts between the region features and the descriptor."""
        config = self.config
        unprojected, projected = config.unprojected_dim, config.projection_dim
        self.cross_image_encoder = CrossImageEncoder(config) if config.use_cross_image_encoder else None
        self.projection = DescriptorProjection(unprojected, projected) if projected else None

    def _encode(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None, output_attentions: bool | None
    ) -> EncodedPixels:
        """Run the ViT on `pixel_values` (B, 3, height, width)."""
        check_pixel_values(pixel_values, self.config.num_channels, self.config.patch_size)
        size = self.config.patch_size
        grid_size = (pixel_values.shape[2] // size, pixel_values.shape[3] // size)
        output_hidden_states, output_attentions = self._resolve_flags(output_hidden_states, output_attentions)
        hidden_states, attentions = self.encoder(self.embeddings(pixel_values), grid_size, output_attentions)
        if output_attentions and not attentions:
            self._warn_of_no_attentions()
        requested = {
            "hidden_states": tuple(hidden_states) if output_hidden_states else None,
            "attentions": tuple(attentions) if output_attentions else None,
        }
        return EncodedPixels(hidden_states, grid_size, requested)

    def _describe(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the aggregator's features (B, 1 + R, D) into the final ones and the descriptors (B, `descriptor_dim`)."""
        if self.cross_image_encoder is not None:
            features = self.cross_image_encoder(features)
        descriptors = flatten_and_normalize(features)
        if self.projection is None:
            return features, descriptors
        projected = self.projection(descriptors)
        return features, flatten_and_normalize(projected) if self.config.normalize_projection else projected

    def _resolve_flags(self, *flags: bool | None) -> list[bool]:
        defaults = (self.config.output_hidden_states, self.config.output_attentions)
        return [bool(default if flag is None else flag) for flag, default in zip(flags, defaults, strict=True)]

    def _warn_of_no_attentions(self) -> None:
        if not torch.compiler.is_compiling():
            logger.warning_once(
                "`output_attentions=True` gives nothing with the attention implementation "
                f"{self.config._attn_implementation!r}; use `model.set_attn_implementation('eager')`."
            )


def _load_processor(name: str, **kwargs: Any) -> D2VPRImageProcessor | None:
    """Return the image processor in a folder or on the Hub; `None` if there is none."""
    try:
        processor = D2VPRImageProcessor.from_pretrained(name, **kwargs)
    except (OSError, ValueError):
        return None
    processor.register_for_auto_class()  # its code is then saved too
    return processor


def _download_processor(repo_id: str, token: Any, revision: str | None) -> D2VPRImageProcessor | None:
    """Return the image processor in a repository on the Hub, also where a folder here has its name; `None` if there is none."""
    api = hf_api()
    try:
        name = repo_id if "/" in repo_id else f"{api.whoami(token=token)['name']}/{repo_id}"  # as the Hub completes names
        file = api.hf_hub_download(name, "preprocessor_config.json", token=token, revision=revision)
    except OSError:
        return None
    return _load_processor(str(Path(file).parent))


def _settings(processor: D2VPRImageProcessor) -> dict[str, Any]:
    return {name: value for name, value in processor.to_dict().items() if name != "auto_map"}


def part_name(weight_name: str) -> str:
    """Return the part of a model that a weight belongs to: `"adapters"`, or the name of its module at the top."""
    return "adapters" if ".adapter." in weight_name else weight_name.partition(".")[0]


def flatten_and_normalize(features: torch.Tensor) -> torch.Tensor:
    """Concatenate an image's features and L2-normalise them: (B, 1 + R, D) -> (B, (1 + R) * D), in their type."""
    return nn.functional.normalize(at_least_float32(features.flatten(1)), dim=1).to(features.dtype)


def check_pixel_values(pixel_values: torch.Tensor, num_channels: int, patch_size: int) -> None:
    """Raise if a ViT cannot process `pixel_values`.

    Raises:
        ValueError: If `pixel_values` is not floating-point (batch, num_channels, height, width) in whole patches.
    """
    shape_is_right = pixel_values.ndim == 4 and pixel_values.shape[0] > 0 and pixel_values.shape[1] == num_channels
    if not (shape_is_right and pixel_values.is_floating_point()):
        raise ValueError(
            f"`pixel_values` must be floating-point (batch, {num_channels}, height, width), got {pixel_values.dtype} "
            f"{tuple(pixel_values.shape)}. The image processor makes them from photos."
        )
    height, width = pixel_values.shape[2:]
    if height % patch_size or width % patch_size or not height or not width:
        raise ValueError(
            f"Height and width of `pixel_values` must be multiples of {patch_size}, got {height}x{width}. "
            "Set the image processor's `size` accordingly."
        )


__all__ = [
    "DescriptorProjection",
    "EncodedPixels",
    "VPRPreTrainedModel",
    "check_pixel_values",
    "flatten_and_normalize",
    "part_name",
]
