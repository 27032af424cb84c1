"""An encoder of colours without torch, which counts the photos that it gets."""

import numpy as np
from PIL import Image

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders import EncodedPhotos


class ColourEncoder:
    """The colours of 3 x 2 fields of a photo, as a descriptor of unit length."""

    descriptor_dim, projection_dim = 18, None
    model_name, fingerprint = "colours", "c" * 64
    batch_size, depends_on_batch = 1, False
    runtime = Runtime("torch", "fp32")

    def __init__(self):
        self.photos = []

    def encode(self, photos, progress=None, *, order=None):
        descriptors, rows = [], []
        skipped = {}
        for row, photo in enumerate(photos):
            photo = photo() if callable(photo) else photo
            self.photos.append(photo)
            try:
                descriptors.append(describe(photo))
                rows.append(row)
            except OSError:
                skipped[row] = "not an image"
            if progress is not None:
                progress(1)
        return EncodedPhotos(np.array(descriptors, np.float32).reshape(-1, 18), np.array(rows, np.int64), skipped)


def describe(photo):
    with Image.open(photo) as image:
        colours = np.asarray(image.convert("RGB").resize((3, 2), Image.Resampling.BOX), np.float32).ravel()
    colours -= colours.mean()
    return colours / np.linalg.norm(colours)
