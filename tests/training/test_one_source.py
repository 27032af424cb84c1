"""Batches of one source, drawn by weights, and batches of several sizes, one size for each batch."""

from collections import Counter

import numpy as np
import pytest
import torch

from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.mixture import _BLOCK, OneSourceSampler, SuccessiveSampler
from d2vpr_hf.training.data.place_sampler import LocalBatches, PlaceSampler
from d2vpr_hf.training.options import DistillOptions, FinetuneOptions, PretrainOptions
from d2vpr_hf.training.training_run import draw_size
from tests.training.test_sources import folders, make_data, sources_of  # noqa: F401 - a fixture among them


def parts(*counts):
    """Return samplers of batches of 2 places; the place ids of source n begin at 1,000 n."""
    cities = [np.arange(1000 * number, 1000 * number + count) for number, count in enumerate(counts)]
    return [PlaceSampler([places], 2, seed=4, stream=(number,)) for number, places in enumerate(cities)]


def test_each_source_goes_through_its_batches_in_order():
    """Each step has one source; the steps of a source, taken alone, are those of its sampler from the first on."""
    sampler = OneSourceSampler(parts(20, 7, 40), [1, 2, 5], seed=3)
    taken = {number: [] for number in range(3)}
    for step in range(2 * _BLOCK + 50):
        (number,) = {place // 1000 for _, place in sampler.places(step)}
        taken[number].append(sampler.places(step))
    for number, batches in taken.items():
        assert batches == [sampler.parts[number].places(step) for step in range(len(batches))]
    shares = np.array([len(batches) for batches in taken.values()]) / (2 * _BLOCK + 50)
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)  # two standard deviations are 0.02


def test_a_step_does_not_depend_on_earlier_calls():
    """As a run resumes: a new sampler that begins in the third block has the same batches."""
    steps = [0, 5, _BLOCK - 1, _BLOCK, 2 * _BLOCK + 7]
    whole = OneSourceSampler(parts(20, 8), [3, 1], seed=1)
    expected = [whole.places(step) for step in steps]
    for step, places in reversed(list(zip(steps, expected, strict=True))):
        assert OneSourceSampler(parts(20, 8), [3, 1], seed=1).places(step) == places
    other = OneSourceSampler(parts(20, 8), [3, 1], seed=2)
    assert [whole.places(step)[0][1] // 1000 for step in range(50)] != [other.places(step)[0][1] // 1000 for step in range(50)]


def test_an_epoch_is_that_of_the_source_that_takes_longest():
    """10, 3 and 20 batches at shares of 1/8, 2/8 and 5/8 take 80, 12 and 32 steps on average."""
    sampler = OneSourceSampler(parts(20, 7, 40), [1, 2, 5])
    assert (sampler.batches_per_epoch, sampler.num_places, sampler.places_per_batch) == (80, 67, 2)


def test_two_processes_share_each_batch_of_one():
    sampler = OneSourceSampler(parts(20, 8), [3, 1], seed=1)
    both = [LocalBatches(sampler, 3, 40, process, 2) for process in range(2)]
    joined = [first + second for first, second in zip(*both, strict=True)]
    assert joined == list(LocalBatches(sampler, 3, 40))


def test_held_out_batches_of_sources_follow_each_other():
    first, second = parts(4, 6)
    sampler = SuccessiveSampler([first, second])
    expected = [first.places(0), first.places(1), *(second.places(step) for step in range(3))]
    assert sampler.batches_per_epoch == 5 and [sampler.places(step) for step in range(5)] == expected
    assert sampler.places(5) == first.places(2) and sampler.num_places == 10


def test_a_run_draws_sources_by_weights(folders):  # noqa: F811
    """More sources than places in a batch are allowed, and each has held-out batches of its own."""
    data = make_data(
        folders, batch_sources="one", places_per_batch=3, weights=["gsv=6", "street=2"], held_out_places=12, max_steps=None
    )
    drawn = Counter()
    for step in range(300):
        (source,) = set(sources_of(data, np.array([place for _, place in data.sampler.places(step)])))
        drawn[int(source)] += 1
    assert drawn[0] > 150 and 30 < drawn[2] < 90 and min(drawn.values()) > 10  # shares of 0.6, 0.1, 0.2 and 0.1
    batches = list(data.held_out_batches())
    assert [set(sources_of(data, batch.place_ids[::4].numpy())) for batch in batches] == [{0}, {1}, {2}, {3}]
    held_out = {place for batch in batches for place in batch.place_ids.tolist()}
    assert not held_out & {place for step in range(60) for _, place in data.sampler.places(step)}
    make_data(folders, batch_sources="one", places_per_batch=3, weights=["gsv=3"])
    with pytest.raises(ValueError, match="at least places_per_batch times the number of sources, 12, or to 0; got 9"):
        make_data(folders, batch_sources="one", places_per_batch=3, held_out_places=9)
    with pytest.raises(ValueError, match="remove sources, or set `batch_sources: one`"):
        make_data(folders, places_per_batch=3)


def options(kind=FinetuneOptions, **changes):
    return kind(**{"out": "o", "model": "m", "photos": "p", **changes})


def test_sizes_are_sides_or_heights_and_widths():
    assert options().sizes == [(224, 224)]
    assert options(image_sizes=["224", "280x322"]).sizes == [(224, 224), (280, 322)]
    for wrong in ("0", "224x", "1x2x3", "-28", "28.5", "²"):
        with pytest.raises(ValueError, match="image_sizes are sides such as 224"):
            options(image_sizes=["224", wrong])
    with pytest.raises(ValueError, match="Labels belong to the patches of one size"):
        options(PretrainOptions, image_sizes=["112"])


def test_the_size_of_a_step_follows_from_seed_and_step():
    several = options(image_sizes=["28", "42", "56x28"])
    drawn = [draw_size(several, step) for step in range(300)]
    assert drawn == [draw_size(several, step) for step in range(300)]
    assert min(Counter(drawn).values()) > 70 and len(set(drawn)) == 3
    assert drawn != [draw_size(options(image_sizes=["28", "42", "56x28"], seed=1), step) for step in range(300)]
    assert {draw_size(options(), step) for step in range(5)} == {(224, 224)}


def test_photos_are_loaded_in_the_largest_size(folders):  # noqa: F811
    """Each batch is resized on the device, so that loading does not depend on the size of the step."""
    sizes = {"image_sizes": ["28x56", "56x28"], "max_steps": 1}
    assert next(iter(make_data(folders, **sizes).batches(0))).pixels.shape[2:] == (56, 56)
    batch = next(iter(make_data(folders, DistillOptions, teacher_size=(70, 42), **sizes).batches(0)))
    assert batch.pixels.shape[2:] == (70, 56) and batch.teacher_pixels is None
    batch = next(iter(make_data(folders, DistillOptions, teacher_size=(70, 42), teacher_view="clean", **sizes).batches(0)))
    assert batch.pixels.shape[2:] == (56, 56) and batch.teacher_pixels.shape[2:] == (70, 42)
    assert PlaceBatch(torch.zeros(1), torch.zeros(1), []).size is None
