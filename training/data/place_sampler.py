"""Order of places: batches of P places, drawn from a seed, independent of the number of processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.training.options import BatchKind
from d2vpr_hf.training.random_streams import Purpose, make_rng

Places = NDArray[np.int64]


class BatchSampler(Protocol):
    """Places of each step's batch."""

    @property
    def places_per_batch(self) -> int:
        """P, over all processes."""

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches in an epoch."""

    @property
    def num_places(self) -> int:
        """The number of places that batches are drawn from."""

    def places(self, step: int) -> list[tuple[int, int]]:
        """Return the P pairs (epoch, place) of a step, which is counted from 0 at the start of the run."""


@dataclass(frozen=True, eq=False)
class PlaceSampler:
    """Divide the places of each epoch into batches.

    An epoch has only whole batches. The few places that fill no batch are skipped, in rotation: after any number of epochs, the
    numbers of times that two places have been seen differ by at most 1.

    Attributes:
        cities: The place ids of each city.
        places_per_batch: P, over all processes.
        kind: `"published"` takes one city after another, places shuffled within each, so that nearly every batch is from one
            city and has hard negatives. `"city-wise"` takes every batch from one city, batches in random order. `"mixed"`
            shuffles all places.
        redraw: Whether every epoch draws a new order; otherwise all epochs have the order of the first.
        seed: Seed of the orders.
        stream: Further numbers that the orders are drawn from, which distinguish the sources of a mixture.

    Raises:
        ValueError: If there are fewer places than a batch takes (with `"city-wise"`, in any city).
    """

    cities: Sequence[Places]
    places_per_batch: int
    kind: BatchKind = "mixed"
    redraw: bool = True
    seed: int = 0
    stream: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        smallest = min((len(places) for places in self._pools), default=0)
        if not 1 <= self.places_per_batch <= smallest:
            where = "a city has" if self.kind == "city-wise" else "there are"
            raise ValueError(
                f"A batch takes {self.places_per_batch} places, but {where} only {smallest}. Lower places_per_batch, or add "
                "places."
            )

    @cached_property
    def batches_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return sum(len(pool) // self.places_per_batch for pool in self._pools)

    @property
    def num_places(self) -> int:
        """The number of places of all cities."""
        return sum(map(len, self.cities))

    def places(self, step: int) -> list[tuple[int, int]]:
        """Return the (epoch, place) pairs of a step's batch; see [`BatchSampler.places`]."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        return [(epoch, place) for place in self.batches(epoch)[batch].tolist()]

    def batches(self, epoch: int) -> Places:
        """Return the place ids of an epoch's batches (`batches_per_epoch`, P)."""
        return self._cached_batches(epoch)

    @cached_property
    def _cached_batches(self) -> Callable[[int], Places]:
        """Batches of the current epoch and of the next one, which the loader begins early."""
        return lru_cache(maxsize=2)(partial(_epoch_batches, self))

    @property
    def _pools(self) -> list[Places]:
        """The sets of places that are divided into batches."""
        return list(self.cities) if self.kind == "city-wise" else [np.concatenate(list(self.cities) or [_NO_PLACES])]


_NO_PLACES: Places = np.empty(0, np.int64)


def _epoch_batches(sampler: PlaceSampler, epoch: int) -> Places:
    drawn = epoch if sampler.redraw else 0
    shuffled = [_shuffle(sampler, places, Purpose.ORDER, drawn, city) for city, places in enumerate(sampler.cities)]
    if sampler.kind != "city-wise":
        shuffled = [np.concatenate(shuffled)]
    if sampler.kind == "mixed":
        shuffled = [_shuffle(sampler, np.sort(shuffled[0]), Purpose.ORDER, drawn)]
    batches = [_divide(sampler, pool, epoch, number) for number, pool in enumerate(shuffled)]
    joined = np.concatenate(batches)
    return _shuffle(sampler, joined, Purpose.BATCH_ORDER, drawn) if sampler.kind == "city-wise" else joined


def _divide(sampler: PlaceSampler, ordered: Places, epoch: int, pool: int) -> Places:
    """Divide places into batches (n, P), in order, without the places that this epoch skips."""
    size = sampler.places_per_batch
    spare = len(ordered) % size
    turn = (epoch * spare + np.arange(spare)) % len(ordered)
    skipped = _shuffle(sampler, np.sort(ordered), Purpose.SKIPPED_PLACES, pool)[turn]
    return ordered[~np.isin(ordered, skipped)].reshape(-1, size)


def _shuffle(sampler: PlaceSampler, items: Places, purpose: Purpose, *numbers: int) -> Places:
    return make_rng(purpose, sampler.seed, *sampler.stream, *numbers).permutation(items)


@dataclass(frozen=True)
class LocalBatches:
    """One process's share of the batches of some steps of a run, across epochs: the batch sampler of a loader.

    Attributes:
        sampler: Sampler of the whole batches.
        first_step: First step, counted from 0 at the start of the run.
        last_step: Step before which the batches end.
        process: Number of this process, from 0.
        num_processes: Number of processes; P must be a multiple of it.
    """

    sampler: BatchSampler
    first_step: int
    last_step: int
    process: int = 0
    num_processes: int = 1

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, place) pairs of each batch."""
        share = self.sampler.places_per_batch // self.num_processes
        for step in range(self.first_step, self.last_step):
            yield self.sampler.places(step)[self.process * share : (self.process + 1) * share]
