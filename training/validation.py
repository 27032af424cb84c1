"""Validation during training: recall by this package's evaluation, and the loss on held-out places."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import gather_object

from d2vpr_hf.backends.torch_backend import PlainTorchBackend
from d2vpr_hf.encoders import EncodedPhotos, Progress, ReceiveBatch
from d2vpr_hf.encoders.own_models import OwnModel
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, PositiveRule, evaluate
from d2vpr_hf.gridtown import VAL_SEEDS, simulate
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.readers import read_places
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.training.option_values import ValidationSet
from d2vpr_hf.training.options import TrainingOptions

_QUERIES_PER_PLACE = 4  # in Gridtown's validation city
_MEAN = "mean_recall@1"


class SharedEncoder(PlaceEncoder):
    """A [`PlaceEncoder`] that divides photos over all processes; each process gets the descriptors of all photos.

    All processes must call `encode` with the same photos. A process's share consists of whole batches, so that descriptors do
    not depend on the number of processes, even with a cross-image encoder.
    """

    def __init__(
        self, accelerator: Accelerator, model: VPRPreTrainedModel, processor: D2VPRImageProcessor, num_workers: int
    ) -> None:
        # the backend runs the model itself, because its weights change, and FSDP may shard them
        own_model = OwnModel(model, processor, accelerator.device, open_backend=PlainTorchBackend)
        super().__init__(own_model, num_workers=num_workers)
        self.accelerator = accelerator

    def _warn_of_untrained_parts(self) -> None:
        """Do not warn: the parts are being trained."""

    def encode(
        self,
        photos: Iterable[Any],
        progress: Progress | None = None,
        *,
        order: Sequence[int] | None = None,
        on_batch: ReceiveBatch | None = None,
    ) -> EncodedPhotos:
        """Encode photos; see [`PlaceEncoder.encode`]. Several processes give all photos to `on_batch` as one batch.

        With `order`, and with FSDP, whose processes must all compute the same batches, each process encodes all photos.
        """
        if order is not None or self.accelerator.distributed_type in (DistributedType.NO, DistributedType.FSDP):
            return super().encode(photos, progress, order=order, on_batch=on_batch)
        all_photos = list(photos)
        share = self._share(len(all_photos))
        encoded = super().encode(all_photos[share], progress)
        joined = _join(gather_object([(share.start, encoded)]))
        if on_batch is not None:
            on_batch(joined)
        return joined

    def _share(self, count: int) -> slice:
        """Return this process's share of `count` photos, in whole batches."""
        batches = math.ceil(count / self.batch_size)
        size = math.ceil(batches / self.accelerator.num_processes) * self.batch_size
        start = min(count, size * self.accelerator.process_index)
        return slice(start, min(count, start + size))


def _join(shares: list[tuple[int, EncodedPhotos]]) -> EncodedPhotos:
    """Join the processes' shares, each given with the row that it starts at."""
    skipped = {start + row: reason for start, share in shares for row, reason in share.skipped.items()}
    rows = np.concatenate([start + share.rows for start, share in shares])
    corrected = {start + row: text for start, share in shares for row, text in share.corrected.items()}
    return EncodedPhotos(np.concatenate([share.descriptors for _, share in shares]), rows, skipped, corrected)


class Measurement(NamedTuple):
    """The result of a validation.

    Attributes:
        numbers: `recall@N` of the main set, `NAME/recall@N` of each other set, `mean_recall@1` over all sets if there are other
            sets, and `held_out_loss`, each if it is measured.
        evaluation: Evaluation of the main set; `None` without a validation database.
    """

    numbers: dict[str, float]
    evaluation: Evaluation | None


class _Set(NamedTuple):
    """Folders or tables that a validation compares, and the rule of correct matches."""

    database: str
    queries: str
    rule: PositiveRule | None = None  # evaluation's usual one


class Validation:
    """Measure a model's recall on photos with positions, and its loss on held-out places, each if the options name them.

    Args:
        accelerator: The run's accelerator.
        options: Options of the run. If they name Gridtown, its photos are rendered in the constructor.
        processor: Image processor of the model.
        data: Data of the run, with the held-out places.
        scratch: Folder for Gridtown's photos.
        held_out_loss: Computes the loss of a batch of held-out places.

    Raises:
        FileNotFoundError, ValueError: If a folder has no photos with positions.
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
        self.accelerator, self.processor = accelerator, processor
        self.num_workers = max(1, options.num_workers)
        self.data, self.held_out_loss = data, held_out_loss
        height, width = options.size
        town = scratch / f"gridtown-{VAL_SEEDS[0]}-{options.gridtown_tier}-{options.validation_places}-{height}x{width}"
        if options.validation_database == "gridtown":
            on_main(accelerator, lambda: _render(town, options))
        self._main_set = _main_set(options, town)
        self._other_sets = {each.name: _to_set(each) for each in options.other_sets}
        for each in self._other_sets.values():
            _check_readable(each)

    @torch.no_grad()
    def __call__(self, model: VPRPreTrainedModel) -> Measurement:
        """Measure a model and leave it in eval mode. All processes must call this."""
        model.eval()
        encoder = SharedEncoder(self.accelerator, model, self.processor, self.num_workers)
        evaluation = None if self._main_set is None else evaluate(self._main_set.database, self._main_set.queries, encoder)
        numbers = {} if evaluation is None else _recalls(evaluation)
        for name, each in self._other_sets.items():
            others = _recalls(evaluate(each.database, each.queries, encoder, each.rule))
            numbers |= {f"{name}/{metric}": value for metric, value in others.items()}
        if self._other_sets:
            numbers[_MEAN] = float(np.mean([value for name, value in numbers.items() if name.endswith("recall@1")]))
        return Measurement(numbers | self._mean_loss(), evaluation)

    def _mean_loss(self) -> dict[str, float]:
        batches = self.data.held_out_batches()
        if batches is None:
            return {}
        losses = torch.stack([self.held_out_loss(batch).float() for batch in batches])
        return {"held_out_loss": float(self.accelerator.reduce(losses.mean(), "mean"))}


def _recalls(evaluation: Evaluation) -> dict[str, float]:
    return {name: entry["recall"] for name, entry in evaluation.recall().items()}


def _main_set(options: TrainingOptions, town: Path) -> _Set | None:
    """Return the validation's main set; `None` if the options name none."""
    if options.validation_database == "gridtown":
        return _Set(str(town / "images/test/database"), str(town / "images/test/queries"))
    if options.validation_database is None:
        return None
    folders = _Set(options.validation_database, str(options.validation_queries))
    _check_readable(folders)
    return folders


def _to_set(given: ValidationSet) -> _Set:
    if given.frame_tolerance is not None:
        return _Set(given.database, given.queries, PositiveRule(frame_tolerance=given.frame_tolerance))
    rule = None if given.metres is None else PositiveRule(given.metres)
    return _Set(given.database, given.queries, rule)


def _check_readable(folders: _Set) -> None:
    """Raise the errors of readers before the first step, not at the first validation."""
    for folder in (folders.database, folders.queries):
        read_places(folder)


def _render(town: Path, options: TrainingOptions) -> None:
    """Render the validation city, unless an earlier run did."""
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
