"""Every job accepts any object with the attributes of [`Encoder`]: no job may ask for a network behind it."""

import hashlib

import numpy as np
import pytest

from d2vpr_hf import add_photos, index_photos, localize_photos, search_photos
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders import EncodedPhotos
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval.distributed import embed_photos, merge_parts


class HashEncoder:
    descriptor_dim, batch_size = 32, 4
    projection_dim = model_name = None
    fingerprint, runtime = "hash", Runtime("hash", "fp32")
    depends_on_batch = False

    def encode(self, photos, progress=None, *, order=None):
        paths = [photo() if callable(photo) else photo for photo in photos]
        rows = [row for row, path in enumerate(paths) if path.is_file()]
        digests = [list(hashlib.sha256(paths[row].read_bytes()).digest()) for row in rows]
        descriptors = np.array(digests, np.float32).reshape(-1, 32) - 128
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        skipped = {row: "no such file" for row in range(len(paths)) if row not in rows}
        if progress is not None and paths:
            progress(len(paths))
        return EncodedPhotos(descriptors, np.array(rows, np.int64), skipped)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.jpg").write_bytes(b"photo %d" % i)
    return folder


def table_of(folder):
    return PlaceTable(folder, [Place(f"{i}.jpg", x=10.0 * i, y=0.0) for i in range(8)], "csv")


def test_an_encoder_is_any_object_of_this_form(photos, tmp_path):
    encoder, table = HashEncoder(), table_of(photos)
    index, report = index_photos(table, tmp_path / "index", encoder, dtype="float32", shard_size=3)
    assert (len(index), report.added) == (8, 8)
    results = search_photos(index, [photos / "5.jpg"], encoder, top_k=1)
    assert results[0].matches[0].place.path == "5.jpg" and results[0].matches[0].similarity == pytest.approx(1)

    embed_photos(table, tmp_path / "parts", encoder, dtype="float32", shard_size=3)
    merged = merge_parts([tmp_path / "parts"], tmp_path / "merged")
    np.testing.assert_array_equal(merged.descriptors[:], index.descriptors[:])
    assert merged.settings.fingerprint == "hash"

    (answer,) = localize_photos(index, [photos / "2.jpg"], encoder)
    assert answer.place.x == pytest.approx(20, abs=1)

    (tmp_path / "more.jpg").write_bytes(b"another photo")
    index, report = add_photos(tmp_path / "index", [tmp_path / "more.jpg"], encoder)
    assert (len(index), report.added) == (9, 1)
