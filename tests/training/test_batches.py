"""Batches of pixels are the same for any number of workers and processes; photos that cannot be read are listed."""

import multiprocessing
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from d2vpr_hf.gridtown import TIERS, Wildness, cut_textures, draw_photo, make_town, make_wild
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.training.data import batches as batches_module
from d2vpr_hf.training.data import place_photos
from d2vpr_hf.training.data.augmentation import RandAugment
from d2vpr_hf.training.data.batches import PlaceDataset, load_batches
from d2vpr_hf.training.data.place_photos import GridtownPhotos, PhotoFiles, read_place_photos
from d2vpr_hf.training.data.place_sampler import LocalBatches, PlaceSampler
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.options import FinetuneOptions
from tests.training.places import photo_path, write_places


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_places(tmp_path_factory.mktemp("gsv"))


PUBLISHED = RandAugment(3, 9)


def make_dataset(root, seed=0, augment=PUBLISHED):
    return PlaceDataset(read_place_photos(root, None, 4), 4, (28, 42), augment=augment, seed=seed)


def make_loader(root, workers=0, process=0, processes=1, first=0, last=5, seed=0):
    dataset = make_dataset(root, seed)
    sampler = PlaceSampler(dataset.photos.cities, 4, "mixed", True, seed)
    return load_batches(dataset, LocalBatches(sampler, first, last, process, processes), workers, pin_memory=False)


def load(*arguments, **options):
    return list(make_loader(*arguments, **options))


def test_places_come_together_in_the_order_of_the_sampler(root):
    (batch,) = load(root, last=1)
    assert batch.pixels.shape == (16, 3, 28, 42) and batch.pixels.dtype == torch.uint8
    wanted = PlaceSampler(make_dataset(root).photos.cities, 4, "mixed", True, 0).batches(0)[0]
    assert batch.place_ids.tolist() == np.repeat(wanted, 4).tolist()
    assert batch.skipped == []


@pytest.mark.parametrize("workers", [1, 2])
def test_pixels_do_not_depend_on_the_number_of_workers(root, workers):
    """Random numbers from a worker's generator would change pixels."""
    for alone, shared in zip(load(root), load(root, workers), strict=True):
        assert torch.equal(alone.pixels, shared.pixels) and torch.equal(alone.place_ids, shared.place_ids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_not_end_workers_that_are_starting(root, monkeypatch, number):
    """A signal must not end a worker between its start and its call that ignores the signal: the run would end with it."""
    begin = batches_module._begin_worker
    started, signalled = multiprocessing.Event(), multiprocessing.Event()
    monkeypatch.setattr(batches_module, "_begin_worker", lambda worker: (started.set(), signalled.wait(), begin(worker)))
    batches = iter(make_loader(root, workers=1, last=1))
    started.wait()
    for worker in batches._workers:
        os.kill(worker.pid, number)
    signalled.set()
    assert len(list(batches)) == 1


def test_the_shares_of_two_processes_are_the_batch_of_one(root):
    whole, shares = load(root), [load(root, process=process, processes=2) for process in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch.pixels, torch.cat((first.pixels, second.pixels)))


def test_a_later_start_gives_the_same_pixels(root):
    """Five steps of four places are more than an epoch of sixteen."""
    assert all(torch.equal(late.pixels, whole.pixels) for late, whole in zip(load(root, first=3), load(root)[3:], strict=True))


def test_each_epoch_and_seed_draws_its_photos(root):
    dataset = make_dataset(root)
    first, again, later = (dataset[epoch, 3].pixels for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, later)
    assert not torch.equal(first, make_dataset(root, seed=1)[0, 3].pixels)


def test_loading_does_not_change_the_random_state_of_torch(root):
    """If a loader drew from torch's generator, dropout would change, and a resumed run would end at other weights."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load(root, workers=1, last=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_augmentation_pixels_are_the_resized_photo(root):
    """Four different photos of the place, resized by Pillow."""
    dataset = make_dataset(root, augment=RandAugment(0))
    taken = {pixels.numpy().tobytes() for pixels in dataset[0, 0].pixels}
    photos = [root / photo_path(0, 2010 + n, 1 + n, 0, "Athens", 50.5, 10.25, f"p{n}") for n in range(5)]
    resized = [np.asarray(Image.open(photo).resize((42, 28), Image.Resampling.BILINEAR)) for photo in photos]
    assert len(taken) == 4 and taken < {image.transpose(2, 0, 1).tobytes() for image in resized}


def test_another_photo_replaces_a_missing_photo_and_the_missing_one_is_listed(tmp_path):
    root = write_places(tmp_path, places_per_city=1, cities=["Athens"])
    photos = read_place_photos(root, None, 4)
    gone = photo_path(0, 2012, 3, 0, "Athens", 50.5, 10.25, "p2")
    (root / gone).unlink()
    for epoch in range(8):
        shots, skipped = photos.take(0, 4, np.random.default_rng(epoch))
        assert sorted(shot.key for shot in shots) == [(0,), (1,), (3,), (4,)]
        assert skipped in ([], [f"{gone}: no such file"])
    (root / photo_path(0, 2010, 1, 0, "Athens", 50.5, 10.25, "p0")).write_text("no photo")
    with pytest.raises(ValueError, match=r"Place 0 has only 3 readable photos, 4 are needed: .*not an image"):
        photos.take(0, 4, np.random.default_rng(0))


def test_places_with_too_few_photos_are_not_trained_on():
    table = make_table(5 * [0] + 3 * [1] + 4 * [2])
    assert np.concatenate(PhotoFiles(table, 4).cities).tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"No place in .* has 6 photos"):
        PhotoFiles(table, 6)


def make_table(place_ids):
    from pathlib import Path

    from d2vpr_hf.places import Place

    return PlaceTable(
        Path("photos"), [Place(f"{n}.jpg") for n in range(len(place_ids))], "csv", place_ids=np.array(place_ids, np.int64)
    )


def test_photos_without_places_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    assert read_places(tmp_path).place_ids is None
    with pytest.raises(ValueError, match="`d2vpr places` makes a table"):
        read_place_photos(tmp_path, None, 4)
    with pytest.raises(ValueError, match="Remove `cities`"):
        read_place_photos(tmp_path, ["Rome"], 4)


def test_cities_are_the_folders_of_photos(root):
    assert [city.tolist() for city in read_place_photos(root, None, 4).cities] == [[*range(8)], [*range(8, 16)]]
    assert [city.tolist() for city in read_place_photos(root, ["Berlin"], 4).cities] == [[*range(8)]]


def test_gridtown_photos_are_those_that_simulate_writes():
    """Two opposite views of each place, numbered city after city; visits are counted from 1."""
    photos = GridtownPhotos([3, 5], num_places=4, image_size=(28, 42), tier="easy", visits=4)
    assert [city.tolist() for city in photos.cities] == [[*range(8)], [*range(8, 16)]]
    shots, skipped = photos.take(11, 4, np.random.default_rng(0))  # city 5: place 1, its second view: heading 3
    town = make_town(5, 4, TIERS["easy"].copy_share)
    drawn = [draw_photo(town.city, 1, 3, visit, TIERS["easy"].queries) for visit in range(1, 5)]
    wanted = [pixels.permute(1, 2, 0).numpy().tobytes() for pixels in town.take(drawn, (28, 42))]
    assert not skipped and sorted(shot.image.tobytes() for shot in shots) == sorted(wanted)
    assert sorted(shot.key for shot in shots) == [(11, visit) for visit in range(1, 5)]
    with pytest.raises(ValueError, match="has 4 photos, 5 are needed"):
        photos.take(0, 5, np.random.default_rng(0))


def test_wild_photos_of_gridtown_are_those_of_the_renderer(tmp_path, monkeypatch):
    Image.effect_noise((40, 30), 60).save(tmp_path / "photo.png")
    town = make_town(5, 4, TIERS["easy"].copy_share)
    town = replace(town, paintbox=town.paintbox.with_textures(cut_textures(tmp_path, 5)))
    given = []  # the textures of each town that is made
    monkeypatch.setattr(place_photos, "make_town", lambda *arguments: given.append(arguments[3]) or town)
    wildness = Wildness(1.0, tmp_path)
    (shot,), _ = GridtownPhotos([5], 4, (28, 42), "easy", 1, wildness).take(3, 1, np.random.default_rng(0))
    photo = make_wild(town.city, draw_photo(town.city, 1, 3, 1, TIERS["easy"].queries), wildness)
    assert shot.image.tobytes() == town.take([photo], (28, 42))[0].permute(1, 2, 0).numpy().tobytes()
    assert np.array_equal(given[0], cut_textures(tmp_path, 5))


def test_groups_of_places_are_never_mixed(tmp_path):
    """In a table of `d2vpr places`, neighbouring places show the same, so they must not be negatives of each other."""
    for n in range(10):
        Image.new("RGB", (28, 28)).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,{n // 2},{int(n >= 8)}" for n in range(10)]
    table = tmp_path / "places" / "places.csv"
    table.parent.mkdir()
    table.write_text("\n".join(["path,place_id,group_id,x,y", *(f"../{row},0,0" for row in rows)]) + "\n")
    photos = read_place_photos(table, None, 2)
    assert [group.tolist() for group in photos.cities] == [[0, 1, 2, 3], [4]] and photos.must_not_mix
    common = {"photos": str(table), "model": "m", "out": "o", "images_per_place": 2, "places_per_batch": 2}
    accelerator = Accelerator()
    with pytest.raises(ValueError, match="Only `batches: city-wise` keeps them apart, got published"):
        TrainingData(FinetuneOptions(**common), accelerator).check_negatives()
    data = TrainingData(FinetuneOptions(**common, batches="city-wise"), accelerator)
    data.check_negatives()
    assert {place for epoch in range(4) for place in data.sampler.batches(epoch).ravel().tolist()} == {0, 1, 2, 3}


def test_skipped_photos_of_a_training_set_are_counted(tmp_path, caplog):
    for path in ("a.png", "b.png", "c.png", ".thumbnails/a.png", "#recycle/d.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (28, 28)).save(tmp_path / path)
    (tmp_path / "places.csv").write_text("path,place_id,x,y\na.png,0,0,0\nb.png,0,0,0\n")
    assert read_place_photos(tmp_path, None, 2).cities[0].tolist() == [0]
    assert f"Skipped 1 of 3 photos of {tmp_path}, such as c.png: not listed in places.csv." in caplog.text
    assert "Skipped: 1 photos that are thumbnails" in caplog.text and "Skipped: 1 photos in bins" in caplog.text
