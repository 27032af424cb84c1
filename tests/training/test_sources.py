"""Sources of training photos: folders without labels, panoramas, and mixtures with shares of every batch."""

import logging

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2vpr_hf.training.data.geometry import CropRange, ViewRange
from d2vpr_hf.training.data.mixture import divide_batch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.data.unlabelled_photos import Opening, Panoramas, UnlabelledPhotos
from d2vpr_hf.training.options import DistillOptions, FinetuneOptions
from tests.training.places import draw, write_places

OPENING = Opening(28, 2**20)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write a GSV-Cities folder of 16 places, 7 photos without labels, 4 panoramas, and a table with two groups of places."""
    root = tmp_path_factory.mktemp("sources")
    for name, count, size in (("street", 7, (60, 40)), ("around", 4, (64, 32)), ("drive", 24, (30, 30))):
        (root / name).mkdir()
        for number in range(count):
            draw(100 + number, 0, 64).resize(size).save(root / name / f"{number}.png")
    rows = [f"../drive/{n}.png,{n // 4},{int(n >= 12)},0,0" for n in range(24)]
    (root / "table").mkdir()
    (root / "table" / "places.csv").write_text("\n".join(["path,place_id,group_id,x,y", *rows]) + "\n")
    write_places(root / "gsv")
    return root


def make_data(folders, kind=FinetuneOptions, processes=1, teacher_size=None, **changes):
    values = {
        "photos": [str(folders / "gsv"), str(folders / "table" / "places.csv")],
        "unlabelled": [str(folders / "street")],
        "panoramas": [str(folders / "around")],
        "model": "m",
        "out": "o",
        "image_size": [28, 42],
        "places_per_batch": 6,
        "num_workers": 0,
        "batches": "mixed",
        "epochs": 2,
    }
    if kind is DistillOptions:
        values |= {"teacher": "t", "augmentation": "photometric"}
    accelerator = Accelerator()
    return TrainingData(kind(**(values | changes)), accelerator, teacher_size)


def load(data, first=0):
    return list(data.batches(first))


def sources_of(data, place_ids):
    """Return the number of the source of each place id."""
    starts = [cities[0].min() for cities in data.photos.cities_of_sources]
    return np.searchsorted(starts, place_ids, side="right") - 1


# Shares of a batch


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 60))
def test_shares_add_up_and_are_fair(weights, spare):
    """Each source has a place, and shares follow the weights."""
    total = len(weights) + spare
    shares = divide_batch(total, weights)
    assert sum(shares) == total and min(shares) >= 1
    by_weight = [share for _, share in sorted(zip(weights, shares, strict=True))]
    assert by_weight == sorted(by_weight)  # a heavier source never has fewer places


@pytest.mark.parametrize(
    ("places", "weights", "shares"),
    [(8, [1, 1], [4, 4]), (8, [3, 1], [6, 2]), (10, [1, 1, 1], [4, 3, 3]), (24, [10, 0.1, 0.1, 4], [16, 1, 1, 6])],
)
def test_shares_are_the_largest_remainders(places, weights, shares):
    assert divide_batch(places, weights) == shares


def test_every_batch_has_its_share_of_every_source(folders):
    data = make_data(folders, places_per_batch=8, weights=["gsv=3", "street=2"], images_per_place=3)
    assert [share for share, _ in data.shares.values()] == [4, 1, 2, 1]  # 3.43, 1.14, 2.29 and 1.14 of 8
    assert [count for _, count in data.shares.values()] == [16, 6, 7, 12]
    for step in range(12):
        places = np.array([place for _, place in data.sampler.places(step)])
        assert np.bincount(sources_of(data, places)).tolist() == [4, 1, 2, 1]


def test_a_source_begins_its_next_epoch_when_it_is_through(folders):
    """Seven photos, one in each batch: the first seven steps show each once, whatever the other sources do."""
    data = make_data(folders)
    shown = [pair for step in range(21) for pair in data.sampler.places(step) if sources_of(data, pair[1]) == 2]
    for epoch in range(3):
        of_epoch = shown[7 * epoch : 7 * (epoch + 1)]
        assert {number for number, _ in of_epoch} == {epoch} and len({place for _, place in of_epoch}) == 7
    assert data.sampler.batches_per_epoch == max(part.batches_per_epoch for part in data.sampler.parts)


def test_groups_of_a_table_are_never_mixed_in_a_mixture(folders):
    """The same table alone is refused with other batches than city-wise ones."""
    data = make_data(folders, weights=["places.csv=10"])
    data.check_negatives()
    start = data.photos.cities_of_sources[1][0].min()
    for step in range(10):
        places = [place - start for _, place in data.sampler.places(step) if sources_of(data, place) == 1]
        assert len(places) == 3 and len({place // 3 for place in places}) == 1
    alone = make_data(
        folders, photos=str(folders / "table" / "places.csv"), unlabelled=None, panoramas=None, places_per_batch=3
    )
    with pytest.raises(ValueError, match="Only `batches: city-wise` keeps them apart"):
        alone.check_negatives()


def test_each_share_of_consecutive_places_has_nearly_the_same_mixture(folders):
    """Processes and micro-batches take consecutive places; one with all panoramas would have other BatchNorm statistics."""
    data = make_data(folders, places_per_batch=12, weights=["gsv=2", "places.csv=0.1"])
    for step in range(3):
        sources = sources_of(data, np.array([place for _, place in data.sampler.places(step)]))
        first, second = (np.bincount(half, minlength=4) for half in (sources[:6], sources[6:]))
        assert np.abs(first - second).max() <= 1


# Random numbers


def test_batches_depend_on_the_step_and_not_on_workers_or_earlier_steps(folders):
    whole = load(make_data(folders, max_steps=5))
    late = load(make_data(folders, max_steps=5), first=3)
    workers = load(make_data(folders, max_steps=5, num_workers=2))
    for batch, same in [*zip(whole[3:], late, strict=True), *zip(whole, workers, strict=True)]:
        assert torch.equal(batch.pixels, same.pixels) and torch.equal(batch.place_ids, same.place_ids)
    assert len(whole[0].pixels) == 24 and len(set(whole[0].place_ids.tolist())) == 6


def test_sources_of_equal_size_have_orders_of_their_own(folders, tmp_path):
    """With one order for both, a photo would have the same companion in every epoch."""
    for number in range(7):
        draw(number, 0, 30).save(tmp_path / f"{number}.png")
    data = make_data(
        folders, photos="", panoramas=None, unlabelled=[str(folders / "street"), str(tmp_path)], places_per_batch=2
    )
    pairs = [[place for _, place in data.sampler.places(step)] for step in range(7)]
    assert len({second - first for first, second in pairs}) > 1


def test_crops_repeat_after_a_number_of_epochs_and_colours_do_not(folders):
    """Targets of a teacher that sees clean photos may then be stored, and the student sees new colours."""
    data = make_data(folders, DistillOptions, photos="", panoramas=None, places_per_batch=7, epochs=4, crops_per_photo=2,
                     teacher_view="clean")  # fmt: skip
    by_epoch = [dict(_by_place(batch)) for batch in load(data)]
    for place in range(7):
        clean = [by_epoch[epoch][place].teacher_pixels for epoch in range(4)]
        seen = [by_epoch[epoch][place].pixels for epoch in range(4)]
        assert torch.equal(clean[0], clean[2]) and torch.equal(clean[1], clean[3]) and not torch.equal(clean[0], clean[1])
        assert not torch.equal(seen[0], seen[2])


def _by_place(batch):
    for place in range(len(batch.pixels) // 4):
        rows = slice(4 * place, 4 * (place + 1))
        yield (
            int(batch.place_ids[4 * place]),
            batch._replace(pixels=batch.pixels[rows], teacher_pixels=batch.teacher_pixels[rows]),
        )


# The teacher's view


def test_a_clean_view_is_the_students_crop_without_augmentation(folders):
    """Without augmentation both are the same photos; in the teacher's size they are resized from the photo."""
    clean = {"teacher_view": "clean", "crop_places": True, "max_steps": 1}
    (same,) = load(make_data(folders, DistillOptions, **clean, augment_magnitude=0))
    assert torch.equal(same.pixels, same.teacher_pixels)
    (augmented,) = load(make_data(folders, DistillOptions, **clean))
    assert torch.equal(augmented.teacher_pixels, same.pixels) and not torch.equal(augmented.pixels, same.pixels)
    (larger,) = load(make_data(folders, DistillOptions, **clean, teacher_size=(56, 84)))
    assert larger.teacher_pixels.shape == (24, 3, 56, 84)
    reduced = torch.nn.functional.avg_pool2d(larger.teacher_pixels.float(), 2)
    assert (reduced - same.pixels.float()).abs().mean() < 6
    (published,) = load(make_data(folders, DistillOptions, max_steps=1))
    assert published.teacher_pixels is None


def test_a_clean_view_of_gridtown_is_rendered_in_the_teachers_size(folders):
    town = {"photos": "gridtown", "unlabelled": None, "panoramas": None, "gridtown_places": 4, "gridtown_seeds": [1]}
    data = make_data(folders, DistillOptions, **town, teacher_view="clean", teacher_size=(56, 84), max_steps=1)
    shots, _ = data.photos.take(0, 2, np.random.default_rng(0))
    assert shots[0].image.size == (84, 56)
    (batch,) = load(data)
    assert batch.pixels.shape[2:] == (28, 42) and batch.teacher_pixels.shape[2:] == (56, 84)


def test_augmentation_that_moves_contents_refuses_a_clean_view(folders):
    with pytest.raises(ValueError, match=r"`teacher_view: clean` needs an augmentation that moves nothing"):
        make_data(folders, DistillOptions, augmentation="randaugment", teacher_view="clean")
    make_data(folders, DistillOptions, augmentation="randaugment", augment_operations=0, teacher_view="clean")


# Held-out places


def test_held_out_places_of_a_mixture_are_never_trained_on(folders):
    data = make_data(folders, held_out_places=6)
    batches = list(data.held_out_batches())
    held_out = {place for batch in batches for place in batch.place_ids.tolist()}
    assert [np.bincount(sources_of(data, batch.place_ids[::4].numpy())).tolist() for batch in batches] == [[2, 2, 1, 1]]
    trained = {place for step in range(40) for _, place in data.sampler.places(step)}
    assert len(held_out) == 6 and not held_out & trained
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(batches, data.held_out_batches(), strict=True))
    with pytest.raises(ValueError, match="held_out_places must be a multiple of places_per_batch"):
        make_data(folders, held_out_places=5)


# Folders of photos


def test_photos_of_a_place_are_crops_of_one_photo(folders):
    photos = UnlabelledPhotos(folders / "street", CropRange(), OPENING)
    shots, skipped = photos.take(3, 4, RNG)
    expected = Image.open(folders / "street" / "3.png").tobytes()
    assert not skipped and {shot.image.tobytes() for shot in shots} == {expected}
    assert [shot.key for shot in shots] == [(3, 0), (3, 1), (3, 2), (3, 3)]


def test_large_photos_are_reduced_as_far_as_their_smallest_crops_allow(tmp_path):
    Image.new("RGB", (1200, 900)).save(tmp_path / "large.jpg")
    crops = CropRange((0.25, 1.0), (1.0, 1.0))
    ((shot, *_), _) = UnlabelledPhotos(tmp_path, crops, OPENING).take(0, 2, RNG)
    assert 28 / 0.5 <= min(shot.image.size) <= 3 * 28 / 0.5


def test_another_photo_replaces_an_unreadable_one_under_its_own_place(folders, tmp_path):
    """With the place of the missing photo, two places of a batch could show the same, and be wrong negatives."""
    draw(0, 0, 30).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    draw(2, 0, 30).save(tmp_path / "2.png")
    data = make_data(folders, unlabelled=[str(tmp_path)], weights=[f"{tmp_path}=2"], max_steps=3)
    start = data.photos.cities_of_sources[2][0].min()
    shots, skipped = data.photos.take(int(start) + 1, 4, RNG)
    assert {shot.place for shot in shots} == {start + 2} and skipped[0].startswith("1.png: damaged")
    assert sum(len(batch.skipped) for batch in load(data)) >= 1
    for name in ("0.png", "2.png"):
        (tmp_path / name).write_text("no photo")
    with pytest.raises(ValueError, match=r"None of the 3 photos in .* can be read, such as 2.png: not an image"):
        UnlabelledPhotos(tmp_path, CropRange(), OPENING).take(2, 4, RNG)


def test_held_out_photos_and_others_do_not_replace_each_other(tmp_path):
    """Training on a held-out photo, or validating on one that was trained on, makes the held-out loss too low."""
    for number in range(6):
        draw(number, 0, 30).save(tmp_path / f"{number}.png")
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_text("no photo")
    photos = UnlabelledPhotos(tmp_path, CropRange(), OPENING)
    photos.hold_out(np.array([2, 3]))
    assert {shot.place for shot in photos.take(1, 2, RNG)[0]} == {4}
    assert {shot.place for shot in photos.take(2, 2, RNG)[0]} == {3}
    photos = UnlabelledPhotos(tmp_path, CropRange(), OPENING)  # without decoded photos
    photos.hold_out(np.array([2, 3]))
    (tmp_path / "3.png").write_text("no photo")
    with pytest.raises(ValueError, match=r"None of the 2 photos .* do not replace each other"):
        photos.take(2, 2, RNG)


def test_held_out_directions_of_panoramas_are_kept_apart(tmp_path):
    for number in range(3):
        Image.fromarray(np.full((64, 128, 3), 80 * number, np.uint8)).save(tmp_path / f"{number}.png")
    views = ViewRange()
    photos = Panoramas(tmp_path, views, OPENING)
    directions = views.num_directions
    photos.hold_out(np.array([directions + 1]))  # direction 1 of panorama 1
    (tmp_path / "0.png").write_text("no photo")
    assert {shot.place for shot in photos.take(1, 2, RNG)[0]} == {2 * directions + 1}
    assert {shot.place for shot in photos.take(0, 2, RNG)[0]} == {directions}


def test_a_run_keeps_the_held_out_photos_of_a_mixture_apart(folders, tmp_path):
    for number in range(12):
        draw(number, 0, 30).save(tmp_path / f"{number:02d}.png")
    data = make_data(folders, unlabelled=[str(tmp_path)], weights=[f"{tmp_path}=2"], held_out_places=6, max_steps=3)
    start = int(data.photos.cities_of_sources[2][0].min())
    held_out = data._parts[2].held_out.tolist()
    assert held_out
    for place in held_out:
        (tmp_path / f"{place - start:02d}.png").write_text("no photo")
    for place in range(start, start + 12):
        if place in held_out:
            with pytest.raises(ValueError, match="do not replace each other"):
                data.photos.take(place, 2, RNG)
        else:
            assert data.photos.take(place, 2, RNG)[0][0].place == place


def test_decoded_photos_are_kept_up_to_a_number_of_bytes(folders):
    photos = UnlabelledPhotos(folders / "street", CropRange(), Opening(28, 3 * 60 * 40 * 3))
    for place in (0, 1, 2, 0, 3):
        photos.take(place, 2, RNG)
    assert [path.name for path in photos._decoded._photos] == ["2.png", "0.png", "3.png"]


def test_photos_that_are_no_panoramas_are_counted(folders, tmp_path, caplog):
    draw(0, 0, 64).resize((64, 32)).save(tmp_path / "a.png")
    draw(1, 0, 64).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("no photo")
    with caplog.at_level(logging.WARNING):
        assert len(Panoramas(tmp_path, ViewRange(), OPENING).cities[0]) == 3
    assert (
        "Skipped: 2 of 3 photos of" in caplog.text and "b.png: expected a width of twice the height, got 64 x 64" in caplog.text
    )
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"2 of 2 photos .* not equirectangular panoramas.* Give the folder as `unlabelled`"):
        Panoramas(tmp_path, ViewRange(), OPENING)


def test_impossible_sources_are_refused(folders, tmp_path):
    street = str(folders / "street")
    with pytest.raises(FileNotFoundError, match=f"No photo in {tmp_path}"):
        make_data(folders, unlabelled=[str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        make_data(folders, unlabelled=[str(tmp_path / "none")])
    with pytest.raises(ValueError, match=rf"{street}: A batch takes 8 places, but there are only 7"):
        make_data(folders, photos="", panoramas=None, places_per_batch=8)
    draw(0, 0, 30).save(tmp_path / "only.png")
    with pytest.raises(ValueError, match=r"A batch takes 2 places, but there are only 1. Lower places_per_batch"):
        make_data(folders, photos="", panoramas=None, unlabelled=[str(tmp_path)], places_per_batch=2)


def test_cities_choose_from_folders_of_gsv_cities_only(folders, tmp_path):
    cairo = write_places(tmp_path / "cairo", cities=("Cairo",))
    data = make_data(folders, photos=[str(folders / "gsv"), str(cairo)], cities=["Berlin", "Cairo"])
    assert [count for _, count in data.shares.values()][:2] == [8, 8]
    assert [count for _, count in make_data(folders, cities=["Berlin"]).shares.values()] == [8, 6, 7, 12]
    with pytest.raises(ValueError, match="Rome is in none of"):
        make_data(folders, cities=["Berlin", "Rome"])
    with pytest.raises(ValueError, match=f"none of them is in {cairo}"):
        make_data(folders, photos=[str(folders / "gsv"), str(cairo)], cities=["Berlin"])
    with pytest.raises(ValueError, match="`cities` needs a folder in the layout of GSV-Cities"):
        make_data(folders, photos=str(folders / "table" / "places.csv"), cities=["Berlin"])
