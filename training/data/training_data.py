"""The data of a run: places to train on, held-out places, and the batches of both."""

import logging

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch.utils.data import DataLoader

from d2vpr_hf.training.data.augmentation import RandAugment
from d2vpr_hf.training.data.batches import NO_AUGMENTATION, PlaceBatch, PlaceDataset, load_batches
from d2vpr_hf.training.data.place_photos import (
    GridtownPhotos,
    LabelledPhotos,
    PlacePhotos,
    read_labelled_photos,
    read_place_photos,
)
from d2vpr_hf.training.data.place_sampler import LocalBatches, PlaceSampler
from d2vpr_hf.training.options import PretrainOptions, TrainingOptions
from d2vpr_hf.training.random_streams import Purpose, make_rng

logger = logging.getLogger(__name__)

_NO_PLACES = np.empty(0, np.int64)


class TrainingData:
    """Batches for training, and batches of held-out places for validating the loss.

    Args:
        options: Options of the run.
        accelerator: The run's accelerator; each process gets its share of every batch.

    Attributes:
        photos: Source of the photos.
        sampler: Batches of the places to train on.
        held_out_sampler: Batches of the held-out places; `None` without any.
        total_steps: Number of steps of the run.

    Raises:
        FileNotFoundError: If the photos do not exist.
        ValueError: If the number of places does not fit the options.
    """

    def __init__(self, options: TrainingOptions, accelerator: Accelerator) -> None:
        _check_shares(options, accelerator.num_processes)
        self.options, self.accelerator = options, accelerator
        self.photos = _open_photos(options)
        self._augment = RandAugment(options.augment_operations, options.augment_magnitude)
        trained, held_out = _split(self.photos.cities, options)
        size, seed = options.places_per_batch, options.seed
        self.sampler = PlaceSampler(trained, size, options.batches, options.redraw_order, seed)
        self.held_out_sampler = PlaceSampler(held_out, size, "city-wise", False, seed) if held_out else None
        steps = options.epochs * self.sampler.batches_per_epoch
        self.total_steps = min(steps, options.max_steps or steps)

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
        return sum(map(len, self.sampler.cities))

    @property
    def images_per_forward(self) -> int:
        """The number of images in a micro-batch of a process."""
        options = self.options
        micro_batches = self.accelerator.num_processes * options.gradient_accumulation_steps
        return options.places_per_batch // micro_batches * options.images_per_place

    def batches(self, first_step: int) -> DataLoader[PlaceBatch]:
        """Return a loader of this process's share of the augmented batches, beginning at a step."""
        return self._load(self.sampler, self._augment, first_step, self.total_steps)

    def held_out_batches(self) -> DataLoader[PlaceBatch] | None:
        """Return a loader of this process's share of the held-out places: always the same photos, not augmented.

        It is `None` if no places are held out.
        """
        if self.held_out_sampler is None:
            return None
        return self._load(self.held_out_sampler, NO_AUGMENTATION, 0, self.held_out_sampler.batches_per_epoch)

    def _load(self, sampler: PlaceSampler, augment: RandAugment, first_step: int, last_step: int) -> DataLoader[PlaceBatch]:
        options, accelerator = self.options, self.accelerator
        resample = Resampling[options.resize.upper()]
        dataset = PlaceDataset(self.photos, options.images_per_place, options.size, resample, augment, options.seed)
        batches = LocalBatches(sampler, first_step, last_step, accelerator.process_index, accelerator.num_processes)
        return load_batches(dataset, batches, options.num_workers, pin_memory=accelerator.device.type == "cuda")


def _open_photos(options: TrainingOptions) -> PlacePhotos:
    if isinstance(options, PretrainOptions):
        return read_labelled_photos(options.photos, options.cities, options.images_per_place)
    if options.photos != "gridtown":
        return read_place_photos(options.photos, options.cities, options.images_per_place)
    return GridtownPhotos(
        options.gridtown_seeds, options.gridtown_places, options.size, options.gridtown_tier, options.gridtown_visits
    )


def _large_enough(cities: list[NDArray[np.int64]], options: TrainingOptions) -> list[NDArray[np.int64]]:
    """Return the cities that have enough places for a batch, and log how many places are skipped."""
    least = options.places_per_batch if options.batches == "city-wise" else 1
    large = [places for places in cities if len(places) >= least]
    if len(large) < len(cities):
        skipped = sum(map(len, cities)) - sum(map(len, large))
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


def _split(
    cities: list[NDArray[np.int64]], options: TrainingOptions
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Draw the held-out places. Return the other places, city by city, and the held-out ones, batch by batch."""
    size = options.places_per_batch
    count = options.held_out_places // size
    pools = cities if options.batches == "city-wise" else [np.sort(np.concatenate(cities))]
    shuffled = [make_rng(Purpose.HELD_OUT, options.seed, number).permutation(pool) for number, pool in enumerate(pools)]
    batches = [pool[start : start + size] for pool in shuffled for start in range(0, len(pool) - size + 1, size)]
    if options.held_out_places % size or count > len(batches):
        raise ValueError(
            f"held_out_places must be a multiple of places_per_batch ({size}), because their loss is computed batch by batch, "
            f"and at most {len(batches) * size}; got {options.held_out_places}."
        )
    drawn = make_rng(Purpose.HELD_OUT, options.seed).permutation(len(batches))[:count]
    held_out = [batches[number] for number in sorted(drawn)]
    trained = [places[~np.isin(places, np.concatenate([_NO_PLACES, *held_out]))] for places in cities]
    return _large_enough(trained, options), held_out
