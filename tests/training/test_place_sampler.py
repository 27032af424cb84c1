"""Batches of places: each place in turn, and the same batches for any number of processes and from any step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2vpr_hf.training.data.place_sampler import LocalBatches, PlaceSampler

CITIES = [np.arange(0, 10), np.arange(10, 17), np.arange(17, 23)]
KINDS = ("published", "city-wise", "mixed")


def counts(sampler, epochs):
    return np.bincount(np.concatenate([sampler.batches(epoch).ravel() for epoch in range(epochs)]), minlength=23)


@given(
    st.lists(st.integers(5, 30), min_size=1, max_size=4),
    st.integers(1, 5),
    st.sampled_from(KINDS),
    st.booleans(),
    st.integers(0, 99),
    st.integers(1, 12),
)
def test_no_place_is_repeated_in_an_epoch_or_skipped_more_than_others(sizes, per_batch, kind, redraw, seed, epochs):
    """The places that fill no batch must not be the same in each epoch, as with a fixed order and `drop_last`."""
    ends = np.cumsum(sizes)
    cities = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    sampler = PlaceSampler(cities, per_batch, kind, redraw, seed)
    seen = np.zeros(ends[-1], int)
    for epoch in range(epochs):
        batches = sampler.batches(epoch)
        assert batches.shape == (sampler.batches_per_epoch, per_batch)
        assert len(np.unique(batches)) == batches.size
        seen[batches.ravel()] += 1
    spread = [seen[city] for city in cities] if kind == "city-wise" else [seen]
    assert all(np.ptp(of_pool) <= 1 for of_pool in spread)


def test_published_batches_go_city_after_city():
    """10 + 7 + 6 places in batches of 4: only batches at a border hold two cities."""
    for epoch in range(5):
        firsts = PlaceSampler(CITIES, 4, "published", True, 3).batches(epoch)
        cities = np.searchsorted([10, 17], firsts, side="right")
        assert (np.diff(cities.ravel()) >= 0).all()


def test_city_wise_batches_hold_one_city_and_cities_take_turns():
    cities = np.searchsorted([10, 17], PlaceSampler(CITIES, 2, "city-wise", True, 0).batches(0), side="right")
    assert (cities == cities[:, :1]).all()
    assert (np.diff(cities[:, 0]) < 0).any()


def test_mixed_batches_hold_several_cities():
    cities = np.searchsorted([10, 17], PlaceSampler(CITIES, 4, "mixed", True, 0).batches(0), side="right")
    assert (cities != cities[:, :1]).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_drawn_from_seed_and_epoch(kind):
    def draw(redraw, seed, epoch):
        return PlaceSampler(CITIES, 3, kind, redraw, seed).batches(epoch).tolist()

    assert draw(True, 1, 4) == draw(True, 1, 4)
    assert draw(True, 1, 4) != draw(True, 1, 5)
    assert draw(True, 1, 4) != draw(True, 2, 4)


def test_without_redrawing_all_epochs_have_the_same_order():
    """The places that two epochs have in common are in the same order in both."""
    sampler = PlaceSampler(CITIES, 4, "published", False, 7)
    first, later = (sampler.batches(epoch).ravel().tolist() for epoch in (0, 3))
    common = [place for place in first if place in later]
    assert common == [place for place in later if place in first] and len(common) >= 17


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shares_of_all_processes_are_the_batch(processes):
    sampler = PlaceSampler(CITIES, 4, "mixed", True, 0)
    shares = [list(LocalBatches(sampler, 0, 12, process, processes)) for process in range(processes)]
    joined = [[place for share in step for _, place in share] for step in zip(*shares, strict=True)]
    whole = [place for epoch in range(3) for place in sampler.batches(epoch).tolist()][:12]
    assert joined == whole


def test_a_later_start_gives_the_rest_of_the_same_run():
    sampler = PlaceSampler(CITIES, 4, "mixed", True, 0)
    assert list(LocalBatches(sampler, 7, 12)) == list(LocalBatches(sampler, 0, 12))[7:]
    assert len(LocalBatches(sampler, 7, 12)) == 5


def test_too_few_places_are_refused():
    with pytest.raises(ValueError, match="takes 24 places, but there are only 23"):
        PlaceSampler(CITIES, 24)
    with pytest.raises(ValueError, match="takes 7 places, but a city has only 6"):
        PlaceSampler(CITIES, 7, "city-wise")
    with pytest.raises(ValueError, match="there are only 0"):
        PlaceSampler([], 1)
