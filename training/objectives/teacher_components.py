"""Fit the principal components of a teacher's tokens before the first step of a run."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from d2vpr_hf.modeling.vision_transformer import GridSize
from d2vpr_hf.pretrained.principal_components import (
    PrincipalComponents,
    TokenStatistics,
    load_components,
    save_components,
    split_components,
)
from d2vpr_hf.pretrained.teachers import Teacher, TokenTeacher
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.training.options import DistillOptions
from d2vpr_hf.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class TeacherComponents:
    """The principal components that the options request of a teacher.

    Args:
        options: Options of the run.
        teacher: The teacher.

    Attributes:
        counts: Number of components of each tap.

    Raises:
        FileNotFoundError: If another run's components are requested and it has none.
        ValueError: If the teacher computes its descriptors itself, or the request does not fit its taps.
    """

    def __init__(self, options: DistillOptions, teacher: Teacher) -> None:
        if not isinstance(teacher, TokenTeacher):
            raise ValueError(
                f"{options.teachers[0]} computes its descriptors itself. `teacher_components` projects the tokens of vision "
                "models of transformers: leave it out."
            )
        self.options, self.teacher = options, teacher
        self._given = None if options.teacher_components_of is None else self._load_given(options.teacher_components_of)
        if self._given is None:
            self.counts = split_components(list(options.teacher_components or ()), list(teacher.taps), list(teacher.widths))
        else:
            self.counts = [tap.directions.shape[1] for tap in self._given]

    @property
    def width(self) -> int:
        """The width of the projected tokens."""
        return sum(self.counts)

    def fit_or_load(
        self,
        path: Path,
        data: TrainingData,
        accelerator: Accelerator,
        images_of: Callable[[PlaceBatch], torch.Tensor],
        grid_size: GridSize,
        *,
        resumed: bool,
    ) -> None:
        """Project the teacher's tokens to the components of the resumed or another run, or to new ones; they are stored.

        All processes must call this, and all use the stored numbers.

        Args:
            path: File of the components.
            data: Data of the run; the components are fitted to its first photos, without augmentation.
            accelerator: The run's accelerator.
            images_of: Returns the images of a batch that the teacher sees.
            grid_size: Rows and columns of the student's patches.
            resumed: Whether the run resumes from a checkpoint.

        Raises:
            FileNotFoundError: If the run resumes and the file is missing.
            ValueError: If the photos have fewer components.
        """
        if not resumed:
            components = self._given or self._fit(data, accelerator, images_of, grid_size)
            on_main(accelerator, lambda: save_components(components, path))
        self.teacher.project(load_components(path))

    def _load_given(self, run: str) -> list[PrincipalComponents]:
        components = load_components(RunFolder(Path(run)).teacher_components)
        widths = tuple(len(tap.mean) for tap in components)
        if widths != self.teacher.widths:
            raise ValueError(
                f"The principal components of {run} are of taps with {widths} channels, the teacher's taps have "
                f"{self.teacher.widths}. Set `teacher` and `teacher_taps` to those of that run."
            )
        return components

    @torch.no_grad()
    def _fit(
        self,
        data: TrainingData,
        accelerator: Accelerator,
        images_of: Callable[[PlaceBatch], torch.Tensor],
        grid_size: GridSize,
    ) -> list[PrincipalComponents]:
        options, teacher = self.options, self.teacher
        images_of_batch = options.places_per_batch * options.images_per_place
        num_batches = math.ceil(options.teacher_fit_images / images_of_batch)
        statistics = [TokenStatistics(width) for width in teacher.widths]
        for batch in data.clean_batches(num_batches):
            for images in images_of(batch).split(data.images_per_forward):
                tap_tokens = teacher.tap_tokens(images.to(accelerator.device), grid_size)
                for part, tokens in zip(statistics, tap_tokens, strict=True):
                    part.add(tokens[:, 1:])  # of the patches
        if accelerator.num_processes > 1:
            for part in statistics:
                part.sums = accelerator.reduce(part.sums.to(accelerator.device), "sum").cpu()
        fitted = zip(statistics, self.counts, strict=True)
        components = [PrincipalComponents.fit(part, count, options.teacher_whitening) for part, count in fitted]
        for name, tap in zip(teacher.taps, components, strict=True):
            logger.info(
                "%d principal components of the teacher's %s, fitted to %d photos, have %.1f %% of the variance of its tokens.",
                tap.directions.shape[1],
                name,
                num_batches * images_of_batch,
                100 * tap.kept,
            )
        return components
