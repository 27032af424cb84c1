"""Crops of photos, and views into panoramas: in range, in the right place, and drawn from seed, epoch and photo alone."""

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling, Transpose

from d2vpr_hf.training.data.geometry import (
    CropRange,
    GeometryDraws,
    PanoramaCutter,
    PanoramaPart,
    PhotoCutter,
    PhotoPart,
    ViewRange,
)

BILINEAR = Resampling.BILINEAR


def photo(height=40, width=60):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def globe(height=256):
    """Return a panorama: red is the distance from longitude 0, green the latitude, and blue marks the east."""
    longitudes = (np.arange(2 * height) + 0.5) / height * 180 - 180
    latitudes = 90 - (np.arange(height) + 0.5) / height * 180
    red = np.tile(np.abs(longitudes) / 180 * 255, (height, 1))
    green = np.tile((latitudes[:, None] + 90) / 180 * 255, (1, 2 * height))
    return np.stack((red, green, np.tile(255.0 * (longitudes > 0), (height, 1))), -1).astype(np.uint8)


def angles(part, size=(31, 41)):
    """Return the longitude and the latitude that each pixel of a view of the globe shows, to about one degree."""
    red, green, blue = np.moveaxis(np.asarray(part.resize(size, BILINEAR)).astype(float), -1, 0)
    return np.where(blue > 127, 1, -1) * red / 255 * 180, green / 255 * 180 - 90


@pytest.mark.parametrize("yaw", [0, 40, 170, 180, -100, 350])
def test_a_view_shows_the_directions_of_a_pinhole_camera(yaw):
    """Columns have the angle atan(x), and the middle row stays on the horizon, also across the panorama's edge."""
    longitudes, latitudes = angles(PanoramaPart([globe()], yaw=yaw, pitch=0, field_of_view=90, ratio=1))
    expected = yaw + np.degrees(np.arctan((2 * np.arange(41) + 1) / 41 - 1))
    difference = (longitudes[15] - expected + 180) % 360 - 180
    assert np.abs(difference[np.abs(np.abs(expected) % 180) > 3]).max() < 1.5  # red turns around at 0 and 180 degrees
    assert np.abs(latitudes[15]).max() < 1.5
    assert latitudes[0, 20] == pytest.approx(np.degrees(np.arctan(30 / 31)), abs=1.5)


def test_a_view_is_turned_up_by_its_pitch_and_stretched_by_its_ratio():
    _, latitudes = angles(PanoramaPart([globe()], yaw=90, pitch=30, field_of_view=60, ratio=2))
    assert latitudes[15, 20] == pytest.approx(30, abs=1.5)
    half_height = np.tan(np.radians(30)) / 2
    assert latitudes[0, 20] == pytest.approx(30 + np.degrees(np.arctan(half_height * 30 / 31)), abs=1.5)


def test_mirrored_parts_exchange_left_and_right():
    plain, mirrored = (PanoramaPart([globe()], 70, 5, 60, mirrored=each).resize((30, 40), BILINEAR) for each in (False, True))
    assert mirrored.tobytes() == plain.transpose(Transpose.FLIP_LEFT_RIGHT).tobytes()
    whole = PhotoPart(photo(), mirrored=True).resize((40, 60), BILINEAR)
    assert whole.tobytes() == photo().transpose(Transpose.FLIP_LEFT_RIGHT).tobytes()


def test_large_panoramas_are_sampled_without_losing_pixels_in_between():
    """A view of few pixels averages stripes that are one pixel wide, instead of seeing only the white ones."""
    stripes = np.zeros((512, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    levels = [stripes, *(np.asarray(Image.fromarray(stripes).reduce(2**n)) for n in range(1, 5))]
    view = np.asarray(PanoramaPart(levels, 0, 0, 90).resize((20, 20), BILINEAR))
    assert (np.abs(view.astype(int) - 128) <= 1).all()


@pytest.mark.parametrize(
    ("views", "directions"),
    [
        (ViewRange(), 3),
        (ViewRange(fields_of_view=(30, 40), pitches=(0, 0), turn=5), 7),  # 25 degrees to each side of a direction
        (ViewRange(fields_of_view=(55, 100)), 2),
        (ViewRange(fields_of_view=(90, 90), pitches=(80, 80)), 1),  # the zenith is in all views
    ],
)
def test_directions_of_a_panorama_do_not_overlap(views, directions):
    assert views.num_directions == directions
    cutter, reached = PanoramaCutter([globe(64)], views), [[] for _ in range(directions)]
    for direction in range(directions):
        for number in range(60):
            part = cutter.cut(direction, (0, direction, number), GeometryDraws(0, 0))
            longitudes, _ = part._angles((9, 9))
            reached[direction] += [longitudes.min(), longitudes.max()]
    for direction in range(directions - 1):
        assert max(reached[direction]) < min(reached[direction + 1])
    assert directions == 1 or max(reached[-1]) < min(reached[0]) + 360


@pytest.mark.parametrize("scale", [(0.3, 0.6), (0.9, 1.0), (1.0, 1.0)])
def test_crops_keep_their_range_and_stay_in_the_photo(scale):
    """Large crops cannot be stretched much: they must not lose area instead."""
    crops = CropRange(scale, (0.8, 1.25), 0.0)
    areas, stretches = [], []
    for number in range(300):
        left, upper, right, lower = PhotoCutter(photo(), crops).cut(0, (number,), GeometryDraws(0, 0)).box
        assert 0 <= left < right <= 60 and 0 <= upper < lower <= 40
        areas.append((right - left) * (lower - upper) / 2400)
        stretches.append((right - left) / (lower - upper) / 1.5)
    smallest, largest = scale
    assert smallest - 1e-9 <= min(areas) <= smallest + 0.03 and largest - 0.03 <= max(areas) <= largest + 1e-9
    widest = min(1.25, 1 / smallest)
    assert 1 / widest - 1e-9 <= min(stretches) <= 1 / widest + 0.03 and widest - 0.05 <= max(stretches) <= widest + 1e-9


def test_the_photos_of_a_place_are_mirrored_together_and_cropped_apart():
    cutter = PhotoCutter(photo(), CropRange())
    draws = GeometryDraws(0, 0)
    parts = {place: [cutter.cut(place, (place, number), draws) for number in range(4)] for place in range(40)}
    assert all(len({part.mirrored for part in group}) == 1 for group in parts.values())
    assert 10 < sum(group[0].mirrored for group in parts.values()) < 30
    assert all(len({part.box for part in group}) == 4 for group in parts.values())


def test_draws_depend_on_seed_epoch_and_photo_alone():
    cutter = PhotoCutter(photo(), CropRange())
    first = cutter.cut(3, (3, 1), GeometryDraws(5, 2))
    assert cutter.cut(3, (3, 1), GeometryDraws(5, 2)).box == first.box
    others = [cutter.cut(3, (3, 2), GeometryDraws(5, 2)), cutter.cut(3, (3, 1), GeometryDraws(6, 2)),
              cutter.cut(3, (3, 1), GeometryDraws(5, 3))]  # fmt: skip
    assert first.box not in [part.box for part in others]
