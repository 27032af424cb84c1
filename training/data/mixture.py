"""A mixture of training sets: every batch has a fixed number of places of each, or comes from one that is drawn."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from d2vpr_hf.training.data.place_photos import PlacePhotos, Shot
from d2vpr_hf.training.data.place_sampler import PlaceSampler
from d2vpr_hf.training.random_streams import Purpose, make_rng

_BLOCK = 1024  # steps whose sources are drawn together


def divide_batch(num_places: int, weights: Sequence[float]) -> list[int]:
    """Divide the places of a batch by weights: each source gets at least one, and the largest remainders are rounded up.

    Args:
        num_places: P.
        weights: Weight of each source, above 0.

    Raises:
        ValueError: If there are more sources than places.
    """
    if num_places < len(weights):
        raise ValueError(
            f"A batch of {num_places} places cannot hold at least one of each of {len(weights)} sources. Raise "
            "places_per_batch, or remove sources."
        )
    spare = num_places - len(weights)
    exact = _shares_above_one(num_places, np.asarray(weights, np.float64))
    shares = np.floor(exact).astype(int)
    largest = np.argsort(shares - exact, kind="stable")
    shares[largest[: spare - shares.sum()]] += 1
    return (1 + shares).tolist()


def _shares_above_one(num_places: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each source's exact share minus its first place; a source whose share is below one keeps the first place only.

    The other sources divide the rest by their weights.
    """
    shares = np.zeros(len(weights))
    larger = np.ones(len(weights), bool)
    while larger.any():
        rest = num_places - np.count_nonzero(~larger)
        shares[larger] = weights[larger] / weights[larger].sum() * rest - 1
        if (shares >= 0).all():
            break
        larger &= shares > 0
        shares[~larger] = 0
    return shares


class MixedPhotos:
    """Several training sets as one. The place ids of a set follow those of the sets before it.

    Args:
        sources: The training sets.
    """

    must_not_mix = False  # sources with groups are sampled group by group

    def __init__(self, sources: Sequence[PlacePhotos]) -> None:
        self._sources = sources
        sizes = [1 + max(int(places.max()) for places in source.cities) for source in sources]
        self._starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))

    @functools.cached_property
    def cities_of_sources(self) -> list[list[NDArray[np.int64]]]:
        """The place ids of each city, source by source."""
        return [[places + start for places in source.cities] for source, start in zip(self._sources, self._starts, strict=True)]

    @property
    def cities(self) -> list[NDArray[np.int64]]:
        """The place ids of each city of all sources."""
        return [places for cities in self.cities_of_sources for places in cities]

    def hold_out(self, places: NDArray[np.int64]) -> None:
        """Keep places apart from the others, in each source. See [`PlacePhotos.hold_out`]."""
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        for number, source in enumerate(self._sources):
            source.hold_out(places[numbers == number] - self._starts[number])

    def take(self, place: int, count: int, rng: Generator) -> tuple[list[Shot], list[str]]:
        """Take photos of a place from its source. See [`PlacePhotos.take`]."""
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        start = int(self._starts[number])
        shots, skipped = self._sources[number].take(place - start, count, rng)
        return [
            replace(shot, key=(number, *shot.key), place=None if shot.place is None else start + shot.place) for shot in shots
        ], skipped


@dataclass(frozen=True, eq=False)
class MixedSampler:
    """Join the batches of several samplers. Each sampler has its own epochs and begins the next one when it is through.

    The places of the sources alternate evenly in a batch, so that each process's and each micro-batch's share, which are
    consecutive places, has nearly the same mixture.

    Attributes:
        parts: Sampler of each source; its `places_per_batch` is the source's share of a batch.
    """

    parts: Sequence[PlaceSampler]

    @property
    def places_per_batch(self) -> int:
        """The number of places in a batch."""
        return sum(part.places_per_batch for part in self.parts)

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of an epoch, in which each place of each source comes at least once."""
        return max(part.batches_per_epoch for part in self.parts)

    @property
    def num_places(self) -> int:
        """The number of places of all sources."""
        return sum(part.num_places for part in self.parts)

    def places(self, step: int) -> list[tuple[int, int]]:
        """Return the (epoch of its source, place) pairs of a step's batch."""
        pairs = [pair for part in self.parts for pair in part.places(step)]
        return [pairs[number] for number in self._order]

    @functools.cached_property
    def _order(self) -> list[int]:
        """Positions of the sources' places, in an order in which the sources alternate."""
        sizes = [part.places_per_batch for part in self.parts]
        return np.argsort(np.concatenate([(np.arange(size) + 0.5) / size for size in sizes]), kind="stable").tolist()


@dataclass(frozen=True, eq=False)
class OneSourceSampler:
    """Take every batch from one of several samplers, which is drawn by weights. Each sampler has its own epochs.

    The source of a step follows from seed and step, and its batch from the number of earlier steps with this source.

    Attributes:
        parts: Sampler of each source, all with batches of the same size.
        weights: Weight of each source, above 0.
        seed: Seed of the draws.
    """

    parts: Sequence[PlaceSampler]
    weights: Sequence[float]
    seed: int = 0

    @property
    def places_per_batch(self) -> int:
        """The number of places in a batch."""
        return self.parts[0].places_per_batch

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of an epoch, in which each place of each source comes at least once on average."""
        return max(math.ceil(part.batches_per_epoch / share) for part, share in zip(self.parts, self.shares, strict=True))

    @property
    def num_places(self) -> int:
        """The number of places of all sources."""
        return sum(part.num_places for part in self.parts)

    @property
    def shares(self) -> list[float]:
        """The probability of each source, 1 in sum."""
        return [weight / sum(self.weights) for weight in self.weights]

    def places(self, step: int) -> list[tuple[int, int]]:
        """Return the (epoch of its source, place) pairs of a step's batch."""
        block, place = divmod(step, _BLOCK)
        drawn = self._draw(block)
        source = int(drawn[place])
        return self.parts[source].places(self._taken_before(block)[source] + int(np.count_nonzero(drawn[:place] == source)))

    def _draw(self, block: int) -> NDArray[np.int64]:
        """Return the source of each step of a block."""
        return make_rng(Purpose.SOURCE, self.seed, block).choice(len(self.parts), _BLOCK, p=self.shares)

    def _taken_before(self, block: int) -> list[int]:
        """Return the number of batches of each source before a block."""
        counts = self._counts
        while len(counts) <= block:
            drawn = np.bincount(self._draw(len(counts) - 1), minlength=len(self.parts)).tolist()
            counts.append([before + number for before, number in zip(counts[-1], drawn, strict=True)])
        return counts[block]

    @functools.cached_property
    def _counts(self) -> list[list[int]]:
        return [[0] * len(self.parts)]


@dataclass(frozen=True, eq=False)
class SuccessiveSampler:
    """Take all batches of one sampler after those of another, as for held-out places.

    Attributes:
        parts: The samplers, all with batches of the same size.
    """

    parts: Sequence[PlaceSampler]

    @property
    def places_per_batch(self) -> int:
        """The number of places in a batch."""
        return self.parts[0].places_per_batch

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches of all samplers."""
        return sum(part.batches_per_epoch for part in self.parts)

    @property
    def num_places(self) -> int:
        """The number of places of all samplers."""
        return sum(part.num_places for part in self.parts)

    def places(self, step: int) -> list[tuple[int, int]]:
        """Return the (epoch, place) pairs of a step's batch."""
        epoch, number = divmod(step, self.batches_per_epoch)
        for part in self.parts:
            if number < part.batches_per_epoch:
                return part.places(epoch * part.batches_per_epoch + number)
            number -= part.batches_per_epoch
        raise AssertionError(step)
