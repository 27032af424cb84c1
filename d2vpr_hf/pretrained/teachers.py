"""Teachers for distillation: frozen models that compute tokens and descriptors.

A student learns from both. CricaVPR and every other model of this package has tokens and descriptors; a DINOv2 has tokens, and
its descriptor is CricaVPR's pyramid of 14 regions, pooled from them without training (p = 3).
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from d2vpr_hf.modeling import MODELS, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.modeling.modeling_vpr import check_pixel_values, flatten_and_normalize
from d2vpr_hf.pretrained.loading import DINOV2_TYPES, load_config, load_dinov2, load_model
from d2vpr_hf.pretrained.pooling import RegionPooling
from d2vpr_hf.pretrained.untrained_parts import warn_of_untrained_parts


class TeacherTargets(NamedTuple):
    """A teacher's targets for B images with N patches.

    Attributes:
        tokens (`torch.Tensor` of shape (B, 1 + N, width)): The global token first, then the patches row by row.
        descriptors (`torch.Tensor` of shape (B, descriptor_dim)): L2-normalised, before any projection.
    """

    tokens: torch.Tensor
    descriptors: torch.Tensor


class Teacher(nn.Module):
    """A frozen model in eval mode that records no gradients. Subclasses compute the targets.

    Attributes:
        model: The model.
        width: Channels of a token, and of each of the descriptor's features. A student's `recovery_size` must be the same.
        descriptor_dim: Width of the descriptors: 14 times `width` with the published regions.
        depends_on_batch: Whether an image's descriptor depends on the other images of its batch.
    """

    width: int
    descriptor_dim: int
    depends_on_batch: bool

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        flags = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
        model.config.update(flags)  # a saved configuration may have other values

    def freeze(self) -> "Teacher":
        """Switch gradients off and eval mode on."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode, whatever the mode of the module that contains the teacher."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> TeacherTargets:
        """Compute the targets of images (B, 3, height, width), normalised like the student's; sides in whole patches.

        Raises:
            ValueError: If `pixel_values` is not of that shape.
        """
        return self._targets(pixel_values)

    def _targets(self, pixel_values: torch.Tensor) -> TeacherTargets:
        raise NotImplementedError


class PlaceTeacher(Teacher):
    """A model of this package as a teacher: CricaVPR, as published, or a D²-VPR."""

    model: VPRPreTrainedModel

    def __init__(self, model: VPRPreTrainedModel) -> None:
        super().__init__(model)
        self.width = model.config.feature_size
        self.descriptor_dim = model.config.unprojected_dim
        self.depends_on_batch = model.config.use_cross_image_encoder
        self.freeze()

    def remove_cross_image_encoder(self) -> None:
        """Treat images one by one from now on, whatever their batch; targets change."""
        self.model.remove_cross_image_encoder()
        self.depends_on_batch = False

    def _targets(self, pixel_values: torch.Tensor) -> TeacherTargets:
        output = self.model(pixel_values)
        return TeacherTargets(output.last_hidden_state, flatten_and_normalize(output.region_features))


class Dinov2Teacher(Teacher):
    """A transformers DINOv2, with or without registers, as a teacher that was never trained for places."""

    depends_on_batch = False

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.regions = RegionPooling()
        self.width = model.config.hidden_size
        self.descriptor_dim = self.regions.num_regions * self.width
        self.num_channels: int = model.config.num_channels
        self.num_registers: int = getattr(model.config, "num_register_tokens", 0)
        patch_size = model.config.patch_size
        self.patch_size: int = patch_size if isinstance(patch_size, int) else patch_size[0]
        self.freeze()

    def _targets(self, pixel_values: torch.Tensor) -> TeacherTargets:
        check_pixel_values(pixel_values, self.num_channels, self.patch_size)
        states = self.model(pixel_values).last_hidden_state  # cls, registers, patches
        tokens = torch.cat((states[:, :1], states[:, 1 + self.num_registers :]), dim=1)
        grid_size = (pixel_values.shape[2] // self.patch_size, pixel_values.shape[3] // self.patch_size)
        return TeacherTargets(tokens, self.regions(tokens, grid_size))


def load_teacher(name: str | Path, *, dtype: torch.dtype = torch.float32, **kwargs: Any) -> Teacher:
    """Load a teacher in eval mode, with its gradients off.

    Args:
        name: Folder or Hub id of a model of this package, such as a converted CricaVPR, or of a transformers DINOv2, such as
            `"facebook/dinov2-base"` or `"facebook/dinov2-with-registers-large"`.
        dtype: Type of the weights, and of the targets.
        kwargs: Passed to `from_pretrained`.

    Raises:
        FileNotFoundError, ValueError: For the reasons of [`load_model`] and [`load_dinov2`].
    """
    config = load_config(name, **kwargs)
    if config.model_type in DINOV2_TYPES:
        return Dinov2Teacher(load_dinov2(name, dtype=dtype, **kwargs))
    if isinstance(config, VPRConfig):
        model = load_model(name, dtype=dtype, **kwargs)
        warn_of_untrained_parts(name, model.config.untrained_parts)
        return PlaceTeacher(model)
    types = [*(config_class.model_type for config_class in MODELS), *DINOV2_TYPES]
    raise ValueError(f"{name} is a model of type {config.model_type!r}; a teacher must be one of {', '.join(types)}.")
