"""RandAugment: torchvision's operations and magnitudes, and random numbers that depend on the photo alone."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from d2vpr_hf.training.data.augmentation import OPERATIONS, RandAugment
from d2vpr_hf.training.random_streams import Purpose, make_rng

# torchvision's table at magnitudes 9 and 15 for an image of 331 x 331: linspace(0, largest, 31)[magnitude], and
# 8 - round(magnitude / 7.5) for posterize, 255 down to 0 for solarize
STRENGTHS = {
    "identity": (0, 0),
    "shear_x": (0.09, 0.15),
    "shear_y": (0.09, 0.15),
    "translate_x": (45.0, 75.0),
    "translate_y": (45.0, 75.0),
    "rotate": (9.0, 15.0),
    "brightness": (0.27, 0.45),
    "color": (0.27, 0.45),
    "contrast": (0.27, 0.45),
    "sharpness": (0.27, 0.45),
    "posterize": (7, 6),
    "solarize": (178.5, 127.5),
    "autocontrast": (0, 0),
    "equalize": (0, 0),
}
SIGNED = {name for name in STRENGTHS if name.startswith(("shear", "translate", "rotate", "bright", "color", "contr", "sharp"))}


def photo_rng(seed, epoch, sample):
    return make_rng(Purpose.AUGMENTATION, seed, epoch, *sample)


def picture(height=40, width=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_operations_and_strengths_are_those_of_torchvision():
    blank = Image.new("RGB", (331, 331))
    assert list(OPERATIONS) == list(STRENGTHS)
    for name, (at_9, at_15) in STRENGTHS.items():
        operation = OPERATIONS[name]
        assert operation.strength(9 / 30, blank) == pytest.approx(at_9), name
        assert operation.strength(15 / 30, blank) == pytest.approx(at_15), name
        assert operation.signed == (name in SIGNED), name


def test_translations_follow_their_sign_by_whole_pixels_of_their_axis():
    """Width and height are easily swapped: on a 40 x 60 picture the same magnitude is another number of pixels."""
    image = picture(40, 60)
    pixels = np.asarray(image)
    right = np.asarray(OPERATIONS["translate_x"].apply(image, 7.9))
    assert (right[:, 7:] == pixels[:, :-7]).all() and not right[:, :7].any()
    up = np.asarray(OPERATIONS["translate_y"].apply(image, -5.2))
    assert (up[:-5] == pixels[5:]).all() and not up[-5:].any()
    assert OPERATIONS["translate_x"].strength(1.0, image) == pytest.approx(60 * 150 / 331)
    assert OPERATIONS["translate_y"].strength(1.0, image) == pytest.approx(40 * 150 / 331)


def test_shear_moves_rows_in_proportion_to_their_height():
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (30, 0, 34, 64))
    sheared = np.asarray(OPERATIONS["shear_x"].apply(image, 0.25).convert("L"), dtype=float)
    centres = (sheared * np.arange(64)).sum(1) / sheared.sum(1)
    slopes = np.diff(centres)[4:-4]
    assert slopes == pytest.approx(np.full_like(slopes, -0.25), abs=0.05)


def test_colours_by_hand():
    image = Image.new("RGB", (2, 1), (200, 100, 10))
    assert OPERATIONS["brightness"].apply(image, 0.5).getpixel((0, 0)) == (255, 150, 15)
    assert OPERATIONS["solarize"].apply(image, 150.0).getpixel((0, 0)) == (55, 100, 10)
    assert OPERATIONS["posterize"].apply(image, 4).getpixel((0, 0)) == (192, 96, 0)
    grey = OPERATIONS["color"].apply(image, -1.0).getpixel((0, 0))
    assert len(set(grey)) == 1 and grey[0] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 10, abs=1)


def test_the_augmentation_of_a_photo_does_not_depend_on_earlier_ones():
    augment, image = RandAugment(3, 9), picture()
    first = np.asarray(augment(image, photo_rng(1, 2, (3,))))
    augment(picture(seed=9), photo_rng(1, 2, (4,)))
    assert (np.asarray(augment(image, photo_rng(1, 2, (3,)))) == first).all()
    others = [photo_rng(1, 2, (4,)), photo_rng(1, 3, (3,)), photo_rng(2, 2, (3,))]
    assert all((np.asarray(augment(image, rng)) != first).any() for rng in others)


def test_operations_and_signs_are_drawn_evenly(monkeypatch):
    """1,400 draws: 100 of each operation expected, standard deviation 9.6."""
    seen, signs = Counter(), []

    def watch(name):
        def apply(image, strength):
            seen[name] += 1
            signs.append(strength > 0)
            return image

        return OPERATIONS[name]._replace(apply=apply, signed=True, strength=lambda magnitude, image: 1.0)

    monkeypatch.setattr("d2vpr_hf.training.data.augmentation._ALL", tuple(watch(name) for name in OPERATIONS))
    for sample in range(700):
        RandAugment(2, 9)(picture(4, 4), photo_rng(0, 0, (sample,)))
    assert sum(seen.values()) == 1400 and set(seen) == set(OPERATIONS)
    assert all(60 < count < 140 for count in seen.values())
    assert 600 < sum(signs) < 800


def test_no_operations_keep_the_photo_and_impossible_magnitudes_are_refused():
    image = picture()
    assert RandAugment(0)(image, photo_rng(0, 0, (0,))) is image
    with pytest.raises(ValueError, match="magnitude from 0 to 30, got 3 and 31"):
        RandAugment(3, 31)
