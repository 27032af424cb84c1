"""Large JPEGs are decoded at a fraction of their size, as far as descriptors hardly notice."""

import io
import time

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.readers import open_photo
from tests.photos import draw

LARGEST_CHANGE = 0.02  # of the median distance between different places, as bfloat16 may cost


def jpeg(image: Image.Image, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, **options)
    return content.getvalue()


def textured(seed: int, height: int, width: int) -> Image.Image:
    """A drawn picture with a camera's noise, of which reducing takes away what resizing would."""
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 1))
    return Image.fromarray((np.asarray(draw(seed, height, width)) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "target", "decoded"),
    [
        ((3000, 4000), (224, 224), (750, 1000)),  # a quarter: at least three times 224
        ((3000, 4000), (112, 112), (375, 500)),
        ((480, 640), (224, 224), (480, 640)),
        ((480, 640), (70, 70), (240, 320)),
        ((1000, 4000), (70, 322), (1000, 4000)),  # a photo may lie on its side: the longer side counts for both
    ],
)
def test_how_far_photos_are_reduced(size, target, decoded):
    image = open_photo(jpeg(draw(0, *size)), target)
    assert (image.height, image.width) == decoded
    assert open_photo(jpeg(draw(0, *size))).size == size[::-1]


def test_a_reduced_photo_is_upright():
    exif = Image.Exif()
    exif[Base.Orientation] = 6  # the photo is turned on its right side
    assert open_photo(jpeg(draw(0, 1200, 2400), exif=exif), (70, 70)).size == (300, 600)


def test_descriptors_hardly_change():
    encoder = PlaceEncoder()
    photos = [textured(seed, 2400, 3200) for seed in range(4)]
    reduced = encoder.encode([jpeg(photo) for photo in photos]).descriptors
    whole = encoder.encode([open_photo(jpeg(photo)) for photo in photos]).descriptors
    distances = np.linalg.norm(whole[:, None] - whole, axis=2)[np.triu_indices(len(photos), 1)]
    changes = np.linalg.norm(reduced - whole, axis=1)
    assert changes.max() > 0  # else nothing was reduced
    assert np.median(changes) <= LARGEST_CHANGE * np.median(distances)


def test_reducing_saves_most_of_the_time():
    """Measured to take an eighth; half is the alarm, as machines are busy."""
    content = jpeg(draw(0, 3000, 4000))

    def seconds(target):
        start = time.process_time()
        open_photo(content, target)
        return time.process_time() - start

    assert min(seconds((112, 112)) for _ in range(5)) < 0.5 * min(seconds(None) for _ in range(5))
