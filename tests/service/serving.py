"""A service of coloured photos for tests, without a network."""

import io

import numpy as np
from PIL import Image

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.service.generations import ServedIndex
from tests.evaluation.colours import ColourEncoder, describe
from tests.photos import save_row

KEY = "0123456789abcdef-a key"


class ServedEncoder(ColourEncoder):
    """An encoder of colours that takes the contents of files too, and notes the sizes of its batches."""

    batch_size = 8

    def __init__(self):
        super().__init__()
        self.batches = []

    def encode(self, photos, progress=None, *, order=None):
        photos = list(photos)
        self.batches.append(len(photos))
        return super().encode([io.BytesIO(photo) if isinstance(photo, bytes) else photo for photo in photos], progress)


def make_index(folder):
    """Index nine photos in a row, and return the folder of the index."""
    save_row(folder / "photos")
    index_photos(folder / "photos", folder / "index", ServedEncoder())
    return folder / "index"


def open_served(index):
    """Open an index for a service, with one encoder for all generations of the same model."""
    encoder = ServedEncoder()
    return ServedIndex(index, lambda: PlaceIndex.open(index), lambda opened: encoder)


def descriptor_of(photo):
    return np.asarray(describe(photo), np.float32)


def big_png(side):
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "PNG")
    return file.getvalue()
