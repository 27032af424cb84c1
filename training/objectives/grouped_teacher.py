"""A teacher's targets for a batch, with what its cross-image encoder sees together under control."""

from pathlib import Path
from typing import Literal

import torch

from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.pretrained.teachers import PlaceTeacher, Teacher, TeacherTargets
from d2vpr_hf.training.objectives.target_cache import TargetCache
from d2vpr_hf.training.random_streams import Purpose, make_rng

TeacherGroups = Literal["places", "shuffled", "off"]


class GroupedTeacher:
    """Ask a teacher for targets, group by group.

    A target of a teacher with a cross-image encoder depends on the images beside it. They are shown to it in groups of a fixed
    size that lie within one process, so that targets do not depend on batch size or number of processes.

    Args:
        teacher: A frozen teacher.
        groups: What a group is made of: `"places"`, images as they come, all of a place together: the teacher sees several
            photos of a place at once, and its targets of them are more alike. `"shuffled"`: images drawn from the whole
            share of the process, which takes that away but for chance. `"off"`: the encoder is removed, and every image
            stands for itself.
        group_size: Images in a group.
        seed: What shuffled groups are drawn from.
        cache: Folder in which its targets are kept for other runs.
    """

    def __init__(self, teacher: Teacher, groups: TeacherGroups, group_size: int, seed: int, cache: str | None = None) -> None:
        if groups == "off" and isinstance(teacher, PlaceTeacher):
            teacher.remove_cross_image_encoder()
        self.teacher, self.groups, self.group_size, self.seed = teacher, groups, group_size, seed
        self._cache = None if cache is None else TargetCache(Path(cache), teacher)

    def check_fit(self, student: VPRPreTrainedModel, share: int) -> None:
        """Refuse a student or a batch that does not go with the teacher.

        Args:
            student: What is to learn from the teacher.
            share: Images that a process shows to the teacher at a time.

        Raises:
            ValueError: If the student's descriptors are of another width, or a share cannot be cut into groups.
        """
        teacher, config = self.teacher, student.config
        if (teacher.width, teacher.descriptor_dim) != (config.feature_size, config.unprojected_dim):
            raise ValueError(
                f"The teacher's descriptors have {teacher.descriptor_dim} numbers ({teacher.width} a region), the student's "
                f"{config.unprojected_dim} ({config.feature_size} a region). Make the student with "
                f"{config.feature_size_field}={teacher.width} (`d2vpr convert ... --set`), or take another teacher."
            )
        if teacher.depends_on_batch and share % self.group_size:
            raise ValueError(
                f"The teacher's groups have {self.group_size} images (teacher_group_places * images_per_place), but a process "
                f"has {share} at a time. Set places_per_batch to a multiple of teacher_group_places * processes * "
                "gradient_accumulation_steps, take fewer of those, or lower teacher_group_places."
            )

    def targets(self, pixel_values: torch.Tensor, step: int) -> TeacherTargets:
        """Look at images (B, 3, height, width) of a step; targets are float32, in the order of the images."""
        if not self.teacher.depends_on_batch:
            return self._ask(pixel_values)
        order = self._order(len(pixel_values), step).to(pixel_values.device)
        parts = [self._ask(group) for group in pixel_values[order].split(self.group_size)]
        back = order.argsort()
        return TeacherTargets(*(torch.cat(of_groups)[back] for of_groups in zip(*parts, strict=True)))

    def _ask(self, pixel_values: torch.Tensor) -> TeacherTargets:
        return self._compute(pixel_values) if self._cache is None else self._cache.targets(pixel_values, self._compute)

    def _compute(self, pixel_values: torch.Tensor) -> TeacherTargets:
        dtype = next(self.teacher.parameters()).dtype
        return TeacherTargets(*(target.float() for target in self.teacher(pixel_values.to(dtype))))

    def _order(self, count: int, step: int) -> torch.Tensor:
        if self.groups != "shuffled":
            return torch.arange(count)
        return torch.from_numpy(make_rng(Purpose.TEACHER_GROUPS, self.seed, step).permutation(count))
