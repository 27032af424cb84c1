"""Linear heads of a student: from its descriptors to those of a teacher of another width."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.modeling.modeling_vpr import DescriptorProjection, flatten_and_normalize
from d2vpr_hf.training.model_setup import TrainingWrapper
from d2vpr_hf.training.objectives.metric_loss import MetricLoss


class TrainedProjection(DescriptorProjection):
    """A projection whose numbers are trained. Its state dict is that of a [`DescriptorProjection`].

    Args:
        in_features: Width of the student's descriptors.
        out_features: Width of the teacher's.
        seed: Seed of the initial numbers, which are the identity for equal widths.
    """

    def __init__(self, in_features: int, out_features: int, seed: int) -> None:
        super().__init__(in_features, out_features)
        mean, components = self.mean, self.components
        if in_features != out_features:
            generator = torch.Generator().manual_seed(seed)
            components = torch.randn(out_features, in_features, generator=generator) / math.sqrt(in_features)
        del self.mean, self.components  # the buffers
        self.mean = nn.Parameter(mean)
        self.components = nn.Parameter(components)


def prefixes(descriptors: torch.Tensor, widths: Sequence[int]) -> list[torch.Tensor]:
    """Return descriptors (B, D), and the first numbers of each for each width, L2-normalised."""
    return [descriptors, *(nn.functional.normalize(descriptors[:, :width], dim=1) for width in widths)]


def metric_of_prefixes(
    loss_of: MetricLoss, descriptors: torch.Tensor, place_ids: torch.Tensor, widths: Sequence[int]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the metric loss, averaged over descriptors (B, D) and their first numbers, and the numbers of the whole ones."""
    metric, numbers = loss_of(descriptors, place_ids)
    if not widths:
        return metric, numbers
    shorter = [loss_of(part, place_ids)[0] for part in prefixes(descriptors, widths)[1:]]
    return torch.stack([metric, *shorter]).mean(), numbers


def train_projection(model: VPRPreTrainedModel) -> None:
    """Let the numbers of a model's projection be trained, if it has one, such as a head that distillation kept."""
    fixed = model.projection
    if fixed is None:
        return
    trained = TrainedProjection(model.config.unprojected_dim, model.config.descriptor_dim, seed=0).to(model.dtype)
    trained.load_state_dict(fixed.state_dict())
    model.projection = trained


def keep_head(student: VPRPreTrainedModel, width: int, seed: int, *, normalize: bool) -> None:
    """Add a trained projection to a teacher's width to a student, which is saved with it.

    Args:
        student: A student without projection.
        width: Width of the teacher's descriptors.
        seed: Seed of its initial numbers.
        normalize: Whether the teacher's descriptors have unit length.

    Raises:
        ValueError: If the teacher's descriptors are wider than the student's, and do not have unit length.
    """
    config = student.config
    config.projection_dim, config.normalize_projection = width, normalize
    config.derive_and_check()
    student.projection = TrainedProjection(config.unprojected_dim, width, seed).to(student.dtype)


class StudentWithHeads(TrainingWrapper):
    """A student with a head for each teacher, which are not part of the model.

    Args:
        model: The student.
        widths: Width of the descriptors of each teacher.
        has_unit_length: Whether the descriptors of each teacher have unit length.
        seed: Seed of the heads' initial numbers.
    """

    def __init__(self, model: VPRPreTrainedModel, widths: Sequence[int], has_unit_length: Sequence[bool], seed: int) -> None:
        super().__init__(model)
        self.has_unit_length = tuple(has_unit_length)
        self.heads = nn.ModuleList(
            TrainedProjection(model.config.descriptor_dim, width, seed + number).to(model.dtype)
            for number, width in enumerate(widths)
        )

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """Return the model's output, and its descriptors as each head maps them."""
        output = self.model(pixel_values)
        mapped = [head(output.pooler_output) for head in self.heads]
        return output, [
            flatten_and_normalize(descriptors) if normalize else descriptors
            for descriptors, normalize in zip(mapped, self.has_unit_length, strict=True)
        ]
