"""A teacher's targets for a batch, computed in groups of images of a fixed size."""

import functools
from pathlib import Path
from typing import Literal

import torch

from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.modeling.vision_transformer import GridSize
from d2vpr_hf.pretrained.teachers import Teacher, TeacherTargets, TokenTeacher
from d2vpr_hf.training.objectives.target_cache import TargetCache
from d2vpr_hf.training.random_streams import Purpose, make_rng

TeacherGroups = Literal["places", "shuffled", "off"]


class GroupedTeacher:
    """Compute a teacher's targets group by group.

    The targets of a teacher with a cross-image encoder depend on the other images that the teacher sees. These are groups of a
    fixed size, each within one process, so that targets do not depend on the batch size or the number of processes.

    Args:
        teacher: A frozen teacher.
        groups: Images of a group. `"places"`: consecutive images, all of a place together, so that the teacher sees several
            photos of a place at once, and their targets are more alike. `"shuffled"`: images drawn from the process's whole
            share, so that two photos of a place are rarely together. `"off"`: the encoder is removed, and each image's target
            depends only on that image.
        group_size: Number of images in a group.
        seed: Seed of the shuffled groups.
        cache: Folder that stores targets for other runs; `None` stores none.
    """

    def __init__(self, teacher: Teacher, groups: TeacherGroups, group_size: int, seed: int, cache: str | None = None) -> None:
        if groups == "off":
            teacher.remove_cross_image_encoder()
        self.teacher = teacher
        self.groups = groups
        self.group_size = group_size
        self.seed = seed
        self._cache = None if cache is None else TargetCache(Path(cache), teacher)

    @property
    def depends_on_batch(self) -> bool:
        """Whether targets depend on the other images of a group."""
        return self.teacher.depends_on_batch

    def check_fit(
        self,
        student: VPRPreTrainedModel,
        share: int,
        width: int | None = None,
        *,
        same_descriptors: bool = True,
        same_tokens: bool = False,
    ) -> None:
        """Check that a student and a batch fit the teacher.

        Args:
            student: Student of the teacher.
            share: Number of images for which a process computes targets at once.
            width: Width of the teacher's tokens once they are projected; `None` for its width.
            same_descriptors: Whether descriptors are compared number by number, and not by a head or by similarities.
            same_tokens: Whether tokens are compared.

        Raises:
            ValueError: If what is compared has another width, or the share is not a whole number of groups.
        """
        teacher = self.teacher
        width = width or teacher.width
        descriptor_dim = teacher.descriptor_dim // teacher.width * width if teacher.width else teacher.descriptor_dim
        self._check_widths(student, width, descriptor_dim, same_descriptors, same_tokens)
        if teacher.depends_on_batch and share % self.group_size:
            raise ValueError(
                f"The teacher's groups have {self.group_size} images (teacher_group_places * images_per_place), but a process "
                f"computes {share} at once. Set places_per_batch to a multiple of teacher_group_places * processes * "
                "gradient_accumulation_steps, use fewer processes or accumulation steps, or lower teacher_group_places."
            )

    def _check_widths(
        self, student: VPRPreTrainedModel, width: int, descriptor_dim: int, same_descriptors: bool, same_tokens: bool
    ) -> None:
        teacher, config = self.teacher, student.config
        if same_tokens and not width:
            raise ValueError("The teacher has no tokens, only descriptors. Set token_mse_weight and token_cosine_weight to 0.")
        descriptors_differ = same_descriptors and descriptor_dim != config.unprojected_dim
        if not descriptors_differ and not (same_tokens and width != config.feature_size):
            return
        is_wider = isinstance(teacher, TokenTeacher) and sum(teacher.widths) >= config.feature_size
        projection = f", set `teacher_components` to {config.feature_size}" if is_wider else ""
        head = "set `head: linear`, " if descriptors_differ else ""
        of_region = f" ({width} for each region)" if width else ""
        width_advice = f"Make the student with {config.feature_size_field}={width} (`d2vpr convert ... --set`)" if width else ""
        raise ValueError(
            f"The teacher's descriptors have {descriptor_dim} numbers{of_region}, the "
            f"student's {config.unprojected_dim} ({config.feature_size} for each region). "
            f"{width_advice}{projection}, {head}or choose another teacher."
        )

    def targets(self, images: torch.Tensor, step: int, grid_size: GridSize | None = None) -> TeacherTargets:
        """Return the float32 targets of images at a step, in the order of the images.

        Args:
            images: Images (B, 3, height, width) in the form that the teacher takes, bytes or pixel values.
            step: The step.
            grid_size: Rows and columns of the student's patches; `None` for those of the teacher.
        """
        if not self.teacher.depends_on_batch:
            return self._group_targets(images, grid_size)
        order = torch.arange(len(images))
        if self.groups == "shuffled":
            order = torch.from_numpy(make_rng(Purpose.TEACHER_GROUPS, self.seed, step).permutation(len(images)))
        targets = [self._group_targets(group, grid_size) for group in images[order.to(images.device)].split(self.group_size)]
        inverse_order = order.argsort().to(targets[0].tokens.device)
        return TeacherTargets(*(torch.cat(tensors)[inverse_order] for tensors in zip(*targets, strict=True)))

    def _group_targets(self, images: torch.Tensor, grid_size: GridSize | None) -> TeacherTargets:
        compute = functools.partial(self._compute, grid_size=grid_size)
        return compute(images) if self._cache is None else self._cache.targets(images, grid_size, compute)

    def _compute(self, images: torch.Tensor, grid_size: GridSize | None) -> TeacherTargets:
        teacher = self.teacher
        images = images.to(teacher.device) if teacher.input_size else images.to(teacher.dtype)
        return TeacherTargets(*(target.float() for target in self.teacher(images, grid_size)))
