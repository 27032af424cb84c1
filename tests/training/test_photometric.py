"""Photometric augmentation: it changes colours and light, moves nothing, and draws from the photo's generator alone."""

import numpy as np
import pytest
from PIL import Image

from d2vpr_hf.training.data.photometric import Photometric
from tests.training.places import draw


def augment(image, number, magnitude=15):
    return Photometric(magnitude)(image, np.random.default_rng(number))


def test_the_same_generator_gives_the_same_pixels_and_another_one_others():
    photo = draw(0, 0, 48)
    first, again = augment(photo, 1), augment(photo, 1)
    assert first.size == photo.size and first.mode == "RGB"
    assert first.tobytes() == again.tobytes() != augment(photo, 2).tobytes()


def test_nothing_moves():
    """Edges of a bright square stay in place under every draw: the step between inside and outside is at the same pixels."""
    pixels = np.full((64, 64, 3), 90, np.uint8)
    pixels[16:48, 24:56] = 160
    for number in range(60):
        grey = np.asarray(augment(Image.fromarray(pixels), number).convert("L")).astype(float)
        inside, outside = grey[18:46, 26:54].mean(), grey[18:46, [20, 21, 58, 59]].mean()
        if abs(inside - outside) < 12:  # too dark or too bright to measure
            continue
        steps = np.abs(np.diff(grey[18:46].mean(0)))
        edges = np.array([steps[:40].argmax(), 40 + steps[40:].argmax()])
        assert np.abs(edges - (23, 55)).max() <= 1, number  # fewer pixels blur an edge by one


def test_the_strength_follows_the_magnitude():
    photo = draw(3, 0, 48)
    before = np.asarray(photo).astype(float)
    changes = [
        np.mean([np.abs(np.asarray(augment(photo, number, magnitude)) - before).mean() for number in range(40)])
        for magnitude in (0, 3, 9, 15, 30)
    ]
    assert changes[0] == 0 and (np.diff(changes) > 0).all()


def test_some_photos_become_grey_and_some_dark():
    photo = draw(1, 0, 48)
    looks = [np.asarray(augment(photo, number)).astype(float) for number in range(150)]
    grey = sum(np.ptp(look.mean((0, 1))) < 3 for look in looks)
    dark = sum(look.mean() < 0.5 * np.asarray(photo).mean() for look in looks)
    assert 0 < grey < 40 and 5 < dark < 75


@pytest.mark.parametrize("magnitude", [-1, 31])
def test_a_magnitude_out_of_range_is_refused(magnitude):
    with pytest.raises(ValueError, match=rf"`augment_magnitude` must be from 0 to 30, got {magnitude}"):
        Photometric(magnitude)


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_photos_are_augmented_too(value):
    photo = Image.new("RGB", (20, 30), (value,) * 3)
    assert all(augment(photo, number, 30).size == (20, 30) for number in range(40))
