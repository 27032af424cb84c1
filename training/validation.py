"""Validation during training: recall by this package's evaluation, and the loss on held-out places."""

import logging
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
from d2vpr_hf.evaluation import Evaluation, PositiveRule, evaluate, evaluate_data_set
from d2vpr_hf.gridtown import VAL_SEEDS, simulate
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.readers import read_places
from d2vpr_hf.readers.data_sets import DataSet, read_data_set
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.training.option_values import ValidationSet
from d2vpr_hf.training.options import TrainingOptions

logger = logging.getLogger(__name__)

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
        numbers: `recall@N` of the main set, `NAME/recall@N` of each other set, `mean_recall@1` over all of these, and
            `held_out_loss`, each if it is measured. A data set with several query sets has `NAME/QUERIES/recall@N` of each;
            the main one `recall@N` of its first query set, and `QUERIES/recall@N` of the others.
        evaluation: Evaluation of the main set, or of its first query set; `None` without a main set.
    """

    numbers: dict[str, float]
    evaluation: Evaluation | None


class _PhotoSet(NamedTuple):
    """Photos that a validation measures: a data set, or the folders or tables of database and queries."""

    photos: DataSet | tuple[str, str]
    rule: PositiveRule | None = None  # of correct matches; `None` for the data set's or evaluation's usual one

    def evaluate(self, encoder: PlaceEncoder) -> list[Evaluation]:
        """Evaluate each query set."""
        if isinstance(self.photos, DataSet):
            return evaluate_data_set(self.photos, encoder, self.rule)
        database, queries = self.photos
        return [evaluate(database, queries, encoder, self.rule)]

    @property
    def query_set_names(self) -> list[str]:
        """The names of the query sets; one empty name if there is only one."""
        names = list(self.photos.query_set_names) if isinstance(self.photos, DataSet) else []
        return names if len(names) > 1 else [""]


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
        self._has_mean = bool(self._other_sets) or options.validation_data is not None
        _check_names(self._main_set, self._other_sets)

    @torch.no_grad()
    def __call__(self, model: VPRPreTrainedModel) -> Measurement:
        """Measure a model and leave it in eval mode. All processes must call this."""
        model.eval()
        encoder = SharedEncoder(self.accelerator, model, self.processor, self.num_workers)
        evaluations = [] if self._main_set is None else self._main_set.evaluate(encoder)
        numbers: dict[str, float] = {}
        if self._main_set is not None:
            _add_recalls(numbers, _main_prefixes(self._main_set), evaluations)
        for name, each in self._other_sets.items():
            _add_recalls(numbers, _prefixes(name, each), each.evaluate(encoder))
        if self._has_mean:
            numbers[_MEAN] = float(np.mean([value for name, value in numbers.items() if name.endswith("recall@1")]))
        return Measurement(numbers | self._mean_loss(), evaluations[0] if evaluations else None)

    def _mean_loss(self) -> dict[str, float]:
        batches = self.data.held_out_batches()
        if batches is None:
            return {}
        losses = torch.stack([self.held_out_loss(batch).float() for batch in batches])
        return {"held_out_loss": float(self.accelerator.reduce(losses.mean(), "mean"))}


def _add_recalls(numbers: dict[str, float], prefixes: list[str], evaluations: list[Evaluation]) -> None:
    """Add the recalls of each query set, whose names begin with its prefix."""
    for prefix, evaluation in zip(prefixes, evaluations, strict=True):
        numbers |= {f"{prefix}{name}": entry["recall"] for name, entry in evaluation.recall().items()}


def _main_prefixes(photos: _PhotoSet) -> list[str]:
    """Return the prefix of each query set of the main set; the first has none."""
    return ["", *(f"{name}/" for name in photos.query_set_names[1:])]


def _prefixes(name: str, photos: _PhotoSet) -> list[str]:
    """Return the prefix of each query set of another set."""
    return [f"{name}/{queries}/" if queries else f"{name}/" for queries in photos.query_set_names]


def _check_names(main: _PhotoSet | None, others: dict[str, _PhotoSet]) -> None:
    """Raise ValueError if two query sets would have the same names of metrics."""
    prefixes = [] if main is None else _main_prefixes(main)
    prefixes += [prefix for name, each in others.items() for prefix in _prefixes(name, each)]
    twice = sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1})
    if twice:
        raise ValueError(
            f"Two query sets of the validation have metrics that begin with {twice[0]}: one of `validation_data`, and one of "
            "`validation_sets`. Give the latter another name."
        )


def _main_set(options: TrainingOptions, town: Path) -> _PhotoSet | None:
    """Return the validation's main set; `None` if the options name none."""
    if options.validation_data is not None:
        return _PhotoSet(_read(options.validation_data, options.validation_layout))
    if options.validation_database == "gridtown":
        return _PhotoSet((str(town / "images/test/database"), str(town / "images/test/queries")))
    if options.validation_database is None:
        return None
    folders = (options.validation_database, str(options.validation_queries))
    _check_readable(folders)
    return _PhotoSet(folders)


def _to_set(given: ValidationSet) -> _PhotoSet:
    """Return the photos of a set; errors of readers are raised now, before the first step."""
    rule = None
    if given.frame_tolerance is not None:
        rule = PositiveRule(frame_tolerance=given.frame_tolerance)
    elif given.metres is not None:
        rule = PositiveRule(given.metres)
    if given.root is not None:
        return _PhotoSet(_read(given.root, given.layout), rule)
    folders = (str(given.database), str(given.queries))
    _check_readable(folders)
    return _PhotoSet(folders, rule)


def _read(root: str, layout: str | None) -> DataSet:
    """Read a data set, and log its variant."""
    data_set = read_data_set(root, layout)
    logger.info("Validation on %s: %s", root, data_set)
    return data_set


def _check_readable(folders: tuple[str, str]) -> None:
    """Raise the errors of readers before the first step, not at the first validation."""
    for folder in folders:
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
