"""The data of a run: places to train on, held-out places, and the batches of both."""

import logging

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch.utils.data import DataLoader

from d2vpr_hf.training.data.augmentation import Augmentation, RandAugment
from d2vpr_hf.training.data.batches import NO_AUGMENTATION, PlaceBatch, PlaceDataset, load_batches
from d2vpr_hf.training.data.mixture import MixedPhotos, MixedSampler, OneSourceSampler, SuccessiveSampler, divide_batch
from d2vpr_hf.training.data.photometric import Photometric
from d2vpr_hf.training.data.place_photos import LabelledPhotos, PlacePhotos
from d2vpr_hf.training.data.place_sampler import BatchSampler, LocalBatches, PlaceSampler
from d2vpr_hf.training.data.sources import crop_range, open_sources
from d2vpr_hf.training.options import BatchKind, TrainingOptions
from d2vpr_hf.training.random_streams import Purpose, make_rng

logger = logging.getLogger(__name__)

_NO_PLACES = np.empty(0, np.int64)

Cities = list[NDArray[np.int64]]


class TrainingData:
    """Batches for training, and batches of held-out places for validating the loss.

    Args:
        options: Options of the run.
        accelerator: The run's accelerator; each process gets its share of every batch.
        teacher_size: Height and width of the photos that a teacher sees; `None` for the student's size. A teacher that sees
            the student's augmented photos gets them in the larger of both sizes, and so does the student.

    Attributes:
        photos: Source of the photos; several sources are joined.
        sampler: Batches of the places to train on.
        held_out_sampler: Batches of the held-out places; `None` without any.
        total_steps: Number of steps of the run.

    Raises:
        FileNotFoundError: If the photos do not exist.
        ValueError: If the number of places does not fit the options.
    """

    def __init__(self, options: TrainingOptions, accelerator: Accelerator, teacher_size: tuple[int, int] | None = None) -> None:
        _check_shares(options, accelerator.num_processes)
        self.options, self.accelerator = options, accelerator
        student_size = _largest(options.size, *options.sizes)
        largest = _largest(student_size, teacher_size or student_size)
        self._size = student_size if options.has_clean_view else largest
        self._teacher_size = teacher_size or student_size if options.has_clean_view else None
        sources = open_sources(options, largest)
        self.photos: PlacePhotos = MixedPhotos(sources) if len(sources) > 1 else sources[0]
        self._augment = _make_augmentation(options)
        self._parts = self._divide_places(sources)
        self.photos.hold_out(np.concatenate([_NO_PLACES, *(part.held_out for part in self._parts)]))
        self.sampler = _join([part.sampler for part in self._parts], options)
        held_out = [part.held_out_sampler for part in self._parts if part.held_out_sampler is not None]
        self.held_out_sampler = _join(held_out, options, is_held_out=True) if held_out else None
        steps = options.epochs * self.sampler.batches_per_epoch
        self.total_steps = min(steps, options.max_steps or steps)

    def _divide_places(self, sources: list[PlacePhotos]) -> list["_SourcePlaces"]:
        """Divide the places of each source into held-out ones and those to train on."""
        options = self.options
        size, num_held_out = options.places_per_batch, options.held_out_places // options.places_per_batch
        if not isinstance(self.photos, MixedPhotos):
            return [_SourcePlaces(options.sources[0], self.photos.cities, size, num_held_out, options.batches, options)]
        shares, held_out = [size] * len(sources), [num_held_out] * len(sources)
        if options.batch_sources == "all":
            shares = divide_batch(size, options.source_weights)
        elif num_held_out:
            held_out = divide_batch(num_held_out, options.source_weights)
        return [
            _SourcePlaces(
                name, cities, share, count, "city-wise" if source.must_not_mix else options.batches, options, (number,)
            )
            for number, (name, source, cities, share, count) in enumerate(
                zip(options.sources, sources, self.photos.cities_of_sources, shares, held_out, strict=True)
            )
        ]

    def check_negatives(self) -> None:
        """Raise ValueError if a batch may contain two places that show the same, because they would be wrong negatives."""
        if self.photos.must_not_mix and self.options.batches != "city-wise":
            raise ValueError(
                f"The places of {self.options.photos} come in groups, and places of different groups may show the same. Only "
                f"`batches: city-wise` keeps them apart, got {self.options.batches}."
            )

    def buildings(self) -> torch.Tensor:
        """Return the numbers of all buildings in the photos, in ascending order: (M,) int32.

        Raises:
            ValueError: If the photos have no labels.
        """
        if not isinstance(self.photos, LabelledPhotos):
            raise ValueError(f"{self.options.photos} has no labels.")
        return self.photos.buildings()

    @property
    def num_places(self) -> int:
        """The number of places to train on."""
        return self.sampler.num_places

    @property
    def shares(self) -> dict[str, tuple[int, int]]:
        """The number of places in a batch, and of all places to train on, of each source."""
        return {part.name: (part.sampler.places_per_batch, part.sampler.num_places) for part in self._parts}

    @property
    def images_per_forward(self) -> int:
        """The number of images in a micro-batch of a process."""
        options = self.options
        micro_batches = self.accelerator.num_processes * options.gradient_accumulation_steps
        return options.places_per_batch // micro_batches * options.images_per_place

    def batches(self, first_step: int) -> DataLoader[PlaceBatch]:
        """Return a loader of this process's share of the augmented batches, beginning at a step."""
        return self._load(self.sampler, self._augment, first_step, self.total_steps)

    def clean_batches(self, last_step: int) -> DataLoader[PlaceBatch]:
        """Return a loader of this process's share of the batches before a step, possibly after the last one, not augmented."""
        return self._load(self.sampler, NO_AUGMENTATION, 0, last_step)

    def mixed_batches(self, count: int) -> DataLoader[PlaceBatch]:
        """Return a loader of this process's share of batches of places of all cities: always the same photos, not augmented."""
        cities = [places for part in self._parts for places in part.sampler.cities]
        sampler = PlaceSampler(cities, self.options.places_per_batch, "mixed", seed=self.options.seed)
        return self._load(sampler, NO_AUGMENTATION, 0, count)

    def held_out_batches(self) -> DataLoader[PlaceBatch] | None:
        """Return a loader of this process's share of the held-out places: always the same photos, not augmented.

        It is `None` if no places are held out.
        """
        if self.held_out_sampler is None:
            return None
        return self._load(self.held_out_sampler, NO_AUGMENTATION, 0, self.held_out_sampler.batches_per_epoch)

    def _load(self, sampler: BatchSampler, augment: Augmentation, first_step: int, last_step: int) -> DataLoader[PlaceBatch]:
        options, accelerator = self.options, self.accelerator
        dataset = PlaceDataset(
            self.photos,
            options.images_per_place,
            self._size,
            Resampling[options.resize.upper()],
            augment,
            options.seed,
            crop_range(options) if options.crop_places else None,
            options.crops_per_photo,
            self._teacher_size,
        )
        batches = LocalBatches(sampler, first_step, last_step, accelerator.process_index, accelerator.num_processes)
        return load_batches(dataset, batches, options.num_workers, pin_memory=accelerator.device.type == "cuda")


class _SourcePlaces:
    """The places of one source: those to train on, and the held-out ones.

    Args:
        name: Name of the source, for messages.
        cities: The place ids of each city.
        share: Number of places in a batch.
        num_held_out: Number of held-out batches.
        kind: Places that form a batch.
        options: Options of the run.
        stream: Numbers that distinguish the random orders of the sources of a mixture.

    Attributes:
        sampler: Batches of the places to train on.
        held_out_sampler: Batches of the held-out places; `None` without any.
        held_out: Ids of the held-out places, (H,).
    """

    def __init__(
        self,
        name: str,
        cities: Cities,
        share: int,
        num_held_out: int,
        kind: BatchKind,
        options: TrainingOptions,
        stream: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        try:
            trained, held_out = _split(cities, share, kind, num_held_out, options)
            self.held_out = np.concatenate([_NO_PLACES, *held_out])
            self.held_out_sampler = (
                PlaceSampler(held_out, share, "city-wise", False, options.seed, stream) if held_out else None
            )
            trained = _large_enough(trained, share, kind)
            self.sampler = PlaceSampler(trained, share, kind, options.redraw_order, options.seed, stream)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _join(parts: list[PlaceSampler], options: TrainingOptions, *, is_held_out: bool = False) -> BatchSampler:
    """Return the batches of all sources, which are those of the only source if there is one."""
    if len(parts) == 1:
        return parts[0]
    if options.batch_sources == "all":
        return MixedSampler(parts)
    return SuccessiveSampler(parts) if is_held_out else OneSourceSampler(parts, options.source_weights, options.seed)


def _largest(*sizes: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest height and width that cover all sizes."""
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return height, width


def _make_augmentation(options: TrainingOptions) -> Augmentation:
    if options.augmentation == "photometric":
        return Photometric(options.augment_magnitude)
    return RandAugment(options.augment_operations, options.augment_magnitude)


def _large_enough(cities: Cities, least: int, kind: BatchKind) -> Cities:
    """Return the cities that have enough places for a batch, and log how many places are skipped."""
    least = least if kind == "city-wise" else 1
    large = [places for places in cities if len(places) >= least]
    skipped = sum(map(len, cities)) - sum(map(len, large))
    if skipped:
        logger.warning(
            "Skipped %d places of %d cities or groups that have fewer than %d places.", skipped, len(cities) - len(large), least
        )
    return large


def _check_shares(options: TrainingOptions, num_processes: int) -> None:
    """Raise ValueError unless a batch can be divided evenly into processes and micro-batches."""
    micro_batches = num_processes * options.gradient_accumulation_steps
    if options.places_per_batch % micro_batches:
        raise ValueError(
            f"A batch of {options.places_per_batch} places cannot be divided evenly into {num_processes} processes with "
            f"{options.gradient_accumulation_steps} micro-batches each. Set places_per_batch to a multiple of {micro_batches}."
        )


def _split(cities: Cities, share: int, kind: BatchKind, num_batches: int, options: TrainingOptions) -> tuple[Cities, Cities]:
    """Draw the held-out places of a source. Return the other places, city by city, and the held-out ones, batch by batch."""
    pools = cities if kind == "city-wise" else [np.sort(np.concatenate(cities))]
    shuffled = [make_rng(Purpose.HELD_OUT, options.seed, number).permutation(pool) for number, pool in enumerate(pools)]
    batches = [pool[start : start + share] for pool in shuffled for start in range(0, len(pool) - share + 1, share)]
    if options.held_out_places % options.places_per_batch or num_batches > len(batches):
        size = options.places_per_batch
        raise ValueError(
            f"held_out_places must be a multiple of places_per_batch ({size}), because their loss is computed batch by batch, "
            f"and at most {len(batches) * size}; got {options.held_out_places}."
        )
    drawn = make_rng(Purpose.HELD_OUT, options.seed).permutation(len(batches))[:num_batches]
    held_out = [batches[number] for number in sorted(drawn)]
    trained = [places[~np.isin(places, np.concatenate([_NO_PLACES, *held_out]))] for places in cities]
    return trained, held_out
