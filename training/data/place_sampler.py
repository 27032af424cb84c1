"""Which places come together in a batch: P places, drawn from a seed, the same whatever the number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.training.options import BatchKind
from d2vpr_hf.training.random_streams import Purpose, make_rng

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PlaceSampler:
    """Cut the places of each epoch into batches.

    An epoch is as many whole batches as there are places for. The few places that are left over are others in each epoch, in
    rotation, so that after any number of epochs no place has been seen more than once more than another.

    Attributes:
        cities: The ids of each city's places.
        places_per_batch: P, over all processes.
        kind: `"published"` goes through one city after the other, places shuffled within each, so that nearly every batch comes
            from one city: hard negatives. `"city-wise"` takes every batch from one city, batches in random order. `"mixed"`
            shuffles all places.
        redraw: Whether every epoch has an order of its own; else the first one's rules.
        seed: What the orders are drawn from.

    Raises:
        ValueError: If there are fewer places than a batch takes (of `"city-wise"` batches, in any city).
    """

    cities: Sequence[Places]
    places_per_batch: int
    kind: BatchKind = "mixed"
    redraw: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = min((len(places) for places in self._pools), default=0)
        if not 1 <= self.places_per_batch <= smallest:
            where = "a city has" if self.kind == "city-wise" else "there are"
            raise ValueError(
                f"A batch takes {self.places_per_batch} places, but {where} only {smallest}. Lower places_per_batch, or give "
                "more places."
            )

    @cached_property
    def batches_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return sum(len(pool) // self.places_per_batch for pool in self._pools)

    def batches(self, epoch: int) -> Places:
        """Return the place ids of an epoch's batches (`batches_per_epoch`, P)."""
        return _epoch_batches(self, epoch)

    @property
    def _pools(self) -> list[Places]:
        """The places that batches are cut from together."""
        return list(self.cities) if self.kind == "city-wise" else [np.concatenate(list(self.cities) or [_NO_PLACES])]


_NO_PLACES: Places = np.empty(0, np.int64)


@lru_cache(maxsize=2)  # an epoch and the next, which the loader begins early
def _epoch_batches(sampler: PlaceSampler, epoch: int) -> Places:
    drawn = epoch if sampler.redraw else 0
    shuffled = [_shuffle(places, Purpose.ORDER, sampler.seed, drawn, city) for city, places in enumerate(sampler.cities)]
    if sampler.kind != "city-wise":
        shuffled = [np.concatenate(shuffled)]
    if sampler.kind == "mixed":
        shuffled = [_shuffle(np.sort(shuffled[0]), Purpose.ORDER, sampler.seed, drawn)]
    batches = [_cut(sampler, pool, epoch, number) for number, pool in enumerate(shuffled)]
    joined = np.concatenate(batches)
    return _shuffle(joined, Purpose.BATCH_ORDER, sampler.seed, drawn) if sampler.kind == "city-wise" else joined


def _cut(sampler: PlaceSampler, ordered: Places, epoch: int, pool: int) -> Places:
    """Cut places into batches (n, P), in order, without those whose turn it is to be left out."""
    size = sampler.places_per_batch
    spare = len(ordered) % size
    turn = (epoch * spare + np.arange(spare)) % len(ordered)
    left_out = _shuffle(np.sort(ordered), Purpose.LEFT_OUT, sampler.seed, pool)[turn]
    return ordered[~np.isin(ordered, left_out)].reshape(-1, size)


def _shuffle(items: Places, purpose: Purpose, seed: int, *numbers: int) -> Places:
    return make_rng(purpose, seed, *numbers).permutation(items)


@dataclass(frozen=True)
class LocalBatches:
    """One process's share of the batches from one step of a run to another, across epochs: a loader's batch sampler.

    Attributes:
        sampler: Gives the batches.
        first_step, last_step: Steps of the run, counted from 0, the last not included.
        process, num_processes: Which share; P must be a multiple of `num_processes`.
    """

    sampler: PlaceSampler
    first_step: int
    last_step: int
    process: int = 0
    num_processes: int = 1

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, place) pairs of each batch."""
        share = self.sampler.places_per_batch // self.num_processes
        mine = slice(self.process * share, (self.process + 1) * share)
        for step in range(self.first_step, self.last_step):
            epoch, batch = divmod(step, self.sampler.batches_per_epoch)
            yield [(epoch, place) for place in self.sampler.batches(epoch)[batch, mine].tolist()]
