"""The data of a run: which places are trained on, which are held out, and their batches."""

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
    """Batches for training, and for watching the loss on places that are held out.

    Args:
        options: Of the run.
        accelerator: Of the run; each process gets its share of every batch.

    Attributes:
        sampler: Places trained on, in batches.
        total_steps: Of the run.

    Raises:
        FileNotFoundError, ValueError: If there is nothing to train on, or numbers do not fit.
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
        """Raise ValueError if a batch may hold places as different that show the same."""
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
        """Number of places trained on."""
        return sum(map(len, self.sampler.cities))

    @property
    def images_at_a_time(self) -> int:
        """Images of a batch that a process computes at a time."""
        options = self.options
        parts = self.accelerator.num_processes * options.gradient_accumulation_steps
        return options.places_per_batch // parts * options.images_per_place

    def batches(self, first_step: int) -> DataLoader[PlaceBatch]:
        """Load this process's share of the batches from a step on, augmented."""
        return self._load(self.sampler, self._augment, first_step, self.total_steps)

    def held_out_batches(self) -> DataLoader[PlaceBatch] | None:
        """Load this process's share of the held-out places, the same photos every time, not augmented; `None` for none."""
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
    seeds, places, visits = options.gridtown_seeds, options.gridtown_places, options.gridtown_visits
    return GridtownPhotos(seeds, places, options.size, options.gridtown_tier, visits)


def _large_enough(cities: list[NDArray[np.int64]], options: TrainingOptions) -> list[NDArray[np.int64]]:
    """Leave cities out that are too small for a batch of their own, where each batch is of one city; say how many."""
    least = options.places_per_batch if options.batches == "city-wise" else 1
    kept = [places for places in cities if len(places) >= least]
    if len(kept) < len(cities):
        left_out = sum(map(len, cities)) - sum(map(len, kept))
        logger.warning(
            "Left out: %d places of %d cities or groups with fewer than %d.", left_out, len(cities) - len(kept), least
        )
    return kept


def _check_shares(options: TrainingOptions, num_processes: int) -> None:
    """Raise ValueError unless a batch can be cut evenly into processes and parts."""
    parts = num_processes * options.gradient_accumulation_steps
    if options.places_per_batch % parts:
        raise ValueError(
            f"A batch of {options.places_per_batch} places cannot be shared evenly by {num_processes} processes in "
            f"{options.gradient_accumulation_steps} parts each. Set places_per_batch to a multiple of {parts}."
        )


def _split(
    cities: list[NDArray[np.int64]], options: TrainingOptions
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Draw the places that are held out; return the others, city by city, and them, batch by batch."""
    size, count = options.places_per_batch, options.held_out_places // options.places_per_batch
    pools = cities if options.batches == "city-wise" else [np.sort(np.concatenate(cities))]
    shuffled = [make_rng(Purpose.HELD_OUT, options.seed, number).permutation(pool) for number, pool in enumerate(pools)]
    batches = [pool[start : start + size] for pool in shuffled for start in range(0, len(pool) - size + 1, size)]
    if options.held_out_places % size or count > len(batches):
        raise ValueError(
            f"held_out_places must be a multiple of places_per_batch ({size}), as their loss is taken batch by batch, and "
            f"at most {len(batches) * size}; got {options.held_out_places}."
        )
    drawn = make_rng(Purpose.HELD_OUT, options.seed).permutation(len(batches))[:count]
    held_out = [batches[number] for number in sorted(drawn)]
    trained = [places[~np.isin(places, np.concatenate([_NO_PLACES, *held_out]))] for places in cities]
    return _large_enough(trained, options), held_out
