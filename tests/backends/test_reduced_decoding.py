"""Large JPEGs are decoded at a fraction of their size, which hardly changes their descriptors."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.readers import open_photo
from tests.photos import draw

LARGEST_CHANGE = 0.02  # of the median distance between different places, as bfloat16 may cost


def jpeg(image: Image.Image, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, **options)
    return content.getvalue()


def textured(seed: int, height: int, width: int) -> Image.Image:
    """Return a drawn picture with a camera's noise; reducing the picture removes as much noise as resizing does."""
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 1))
    return Image.fromarray((np.asarray(draw(seed, height, width)) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "target", "decoded"),
    [
        ((3000, 4000), (224, 224), (750, 1000)),  # a quarter: at least three times 224
        ((3000, 4000), (112, 112), (375, 500)),
        ((480, 640), (224, 224), (480, 640)),
        ((480, 640), (70, 70), (240, 320)),
        ((1000, 4000), (70, 322), (1000, 4000)),  # EXIF may turn the photo: the longer side counts for both
    ],
)
def test_a_large_photo_is_reduced_to_at_least_three_times_its_target(size, target, decoded):
    image = open_photo(jpeg(draw(0, *size)), target)
    assert (image.height, image.width) == decoded
    assert open_photo(jpeg(draw(0, *size))).size == size[::-1]


def test_a_reduced_photo_is_upright():
    exif = Image.Exif()
    exif[Base.Orientation] = 6  # the photo is turned on its right side
    assert open_photo(jpeg(draw(0, 1200, 2400), exif=exif), (70, 70)).size == (300, 600)


def test_reducing_hardly_changes_descriptors():
    encoder = PlaceEncoder()
    photos = [textured(seed, 2400, 3200) for seed in range(4)]
    reduced = encoder.encode([jpeg(photo) for photo in photos]).descriptors
    whole = encoder.encode([open_photo(jpeg(photo)) for photo in photos]).descriptors
    distances = np.linalg.norm(whole[:, None] - whole, axis=2)[np.triu_indices(len(photos), 1)]
    changes = np.linalg.norm(reduced - whole, axis=1)
    assert changes.max() > 0  # else nothing was reduced
    assert np.median(changes) <= LARGEST_CHANGE * np.median(distances)


@pytest.mark.parametrize(("target", "drawn"), [((112, 112), (375, 500)), (None, (3000, 4000))])
def test_the_jpeg_decoder_draws_no_more_pixels_than_the_reduced_photo_has(monkeypatch, target, drawn):
    """Decoding every pixel and shrinking the result would have the same size, but save no time."""
    sizes, load = [], JpegImageFile.load

    def record_size(image):
        sizes.append((image.height, image.width))
        return load(image)

    monkeypatch.setattr(JpegImageFile, "load", record_size)
    open_photo(jpeg(draw(0, 3000, 4000)), target)
    assert sizes[0] == drawn
