"""How good a model is while it is trained: recall by this package's evaluation, and the loss on places it has not seen."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object

from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.torch_backend import PlainTorchBackend
from d2vpr_hf.encoders import EncodedPhotos, Progress
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, evaluate
from d2vpr_hf.gridtown import VAL_SEEDS, simulate
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.readers import read_places
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.training.options import TrainingOptions

_QUERIES_PER_PLACE = 4  # of Gridtown's validation city


class SharedEncoder(PlaceEncoder):
    """A [`PlaceEncoder`] whose work is shared by all processes: each encodes a part, and each gets the whole.

    All processes must call `encode` with the same photos. Parts are whole batches, so that descriptors do not depend on the
    number of processes, also with a cross-image encoder.
    """

    def __init__(
        self, accelerator: Accelerator, model: VPRPreTrainedModel, processor: D2VPRImageProcessor, num_workers: int
    ) -> None:
        super().__init__(model, processor, device=accelerator.device, num_workers=num_workers)
        self.accelerator = accelerator

    @functools.cached_property
    def backend(self) -> Backend:
        """The model itself: its weights change, and it may be divided over processes."""
        return PlainTorchBackend(self.model)

    def encode(
        self, photos: Iterable[Any], progress: Progress | None = None, *, order: Sequence[int] | None = None
    ) -> EncodedPhotos:
        """Encode photos; see [`PlaceEncoder.encode`].

        With an order, and with FSDP, whose processes must all do the same, each process encodes all photos.
        """
        if order is not None or self.accelerator.distributed_type in (DistributedType.NO, DistributedType.FSDP):
            return super().encode(photos, progress, order=order)
        every = list(photos)
        mine = self._share(len(every))
        own = super().encode(every[mine], progress)
        return _join(gather_object([(mine.start, own)]))

    def _share(self, count: int) -> slice:
        batches = math.ceil(count / self.batch_size)
        size = math.ceil(batches / self.accelerator.num_processes) * self.batch_size
        start = min(count, size * self.accelerator.process_index)
        return slice(start, min(count, start + size))


def _join(parts: list[tuple[int, EncodedPhotos]]) -> EncodedPhotos:
    skipped = {start + row: reason for start, part in parts for row, reason in part.skipped.items()}
    rows = np.concatenate([start + part.rows for start, part in parts])
    return EncodedPhotos(np.concatenate([part.descriptors for _, part in parts]), rows, skipped)


class Measured(NamedTuple):
    """What a validation found.

    Attributes:
        numbers: `recall@N`, and `held_out_loss`, where they are measured.
        evaluation: What the recalls are from; `None` without photos to search.
    """

    numbers: dict[str, float]
    evaluation: Evaluation | None


class Validation:
    """Measure a model, on photos with positions and on held-out places, as far as the options name any.

    Args:
        accelerator: Of the run.
        options: Of the run. Gridtown's photos are rendered now.
        processor: Of the model.
        data: Has the held-out places.
        scratch: Where Gridtown's photos go.
        held_out_loss: Gives the loss of a batch of held-out places.

    Raises:
        FileNotFoundError, ValueError: If there is nothing in a folder to validate on.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        options: TrainingOptions,
        processor: D2VPRImageProcessor,
        data: TrainingData,
        scratch: Path,
        held_out_loss: Callable[[PlaceBatch], torch.Tensor],
    ) -> None:
        self.accelerator, self.processor, self.num_workers = accelerator, processor, max(1, options.num_workers)
        self.data, self.held_out_loss = data, held_out_loss
        height, width = options.size
        town = scratch / f"gridtown-{VAL_SEEDS[0]}-{options.gridtown_tier}-{options.validation_places}-{height}x{width}"
        if options.validation_database == "gridtown":
            on_main(accelerator, lambda: _render(town, options))
        self.folders = _folders(options, town)

    @torch.no_grad()
    def __call__(self, model: VPRPreTrainedModel) -> Measured:
        """Measure a model, which is in eval mode from then on. All processes must call it."""
        model.eval()
        evaluation = self._evaluate(model)
        recalls = {} if evaluation is None else {name: entry["recall"] for name, entry in evaluation.recall().items()}
        return Measured(recalls | self._mean_loss(), evaluation)

    def _evaluate(self, model: VPRPreTrainedModel) -> Evaluation | None:
        if self.folders is None:
            return None
        encoder = SharedEncoder(self.accelerator, model, self.processor, self.num_workers)
        return evaluate(*self.folders, encoder)

    def _mean_loss(self) -> dict[str, float]:
        batches = self.data.held_out_batches()
        if batches is None:
            return {}
        losses = torch.stack([self.held_out_loss(batch).float() for batch in batches])
        return {"held_out_loss": float(self.accelerator.reduce(losses.mean(), "mean"))}


def _folders(options: TrainingOptions, town: Path) -> tuple[str, str] | None:
    """Name the photos that are searched, and those that are looked for."""
    if options.validation_database == "gridtown":
        return str(town / "images/test/database"), str(town / "images/test/queries")
    if options.validation_database is None:
        return None
    for folder in (options.validation_database, options.validation_queries):
        read_places(str(folder))  # now, not after the first epoch
    return options.validation_database, str(options.validation_queries)


def _render(town: Path, options: TrainingOptions) -> None:
    """Write the validation city, unless it is there."""
    if not town.exists():
        simulate(
            town,
            options.validation_places,
            VAL_SEEDS[0],
            tier=options.gridtown_tier,
            photos_per_place=_QUERIES_PER_PLACE,
            image_size=max(options.size),
            workers=max(1, options.num_workers),
        )
