"""Index a folder, search it: with good photos and bad ones."""

import hashlib
import json
import logging
import os
import shutil
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.retrieval.updates import UpdateReport
from tests.conftest import tiny_model
from tests.photos import at_name, draw, gps_exif, save, save_bad_files, save_row


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return PlaceEncoder(tiny_folder, batch_size=4)


@pytest.fixture
def photos(tmp_path):
    return save_row(tmp_path / "photos")


# ---- PlaceEncoder


def test_encoding_keeps_the_order_for_any_batch_and_workers(tiny_folder, tmp_path):
    paths = [save(tmp_path / f"{i}.png", i) for i in range(11)]
    processor = D2VPRImageProcessor.from_pretrained(tiny_folder)
    model = tiny_model()
    with torch.no_grad():
        expected = np.concatenate([model(**processor(draw(i), return_tensors="pt")).pooler_output for i in range(11)])
    for batch_size, num_workers in ((1, 1), (4, 3), (11, 2), (64, 5)):
        encoded = PlaceEncoder(tiny_folder, batch_size=batch_size, num_workers=num_workers).encode(paths)
        assert encoded.rows.tolist() == list(range(11))
        assert np.allclose(encoded.descriptors, expected, atol=1e-6)
        assert encoded.descriptors.dtype == np.float32


def test_encoder_takes_images_arrays_and_paths(encoder, tmp_path):
    image = draw(1)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    encoded = encoder.encode([image, np.asarray(image), tensor, save(tmp_path / "a.png", 1), str(tmp_path / "a.png")])
    assert np.allclose(encoded.descriptors, encoded.descriptors[:1], atol=1e-6)


def test_unreadable_photos_do_not_shift_rows(encoder, tmp_path):
    bad = save_bad_files(tmp_path)
    paths = [tmp_path / name for name in bad]
    paths[2:2] = [save(tmp_path / f"good{i}.png", i) for i in range(2)]
    seen = []
    encoded = encoder.encode(paths, progress=seen.append)
    assert encoded.rows.tolist() == [2, 3]
    assert encoded.skipped.keys() == {0, 1, 4, 5}
    assert all(reason in encoded.skipped[paths.index(tmp_path / name)] for name, reason in bad.items())
    assert sum(seen) == 6


def test_no_readable_photo_gives_no_rows(encoder, tmp_path):
    assert encoder.encode([tmp_path / "gone.jpg"]).descriptors.shape == (0, encoder.descriptor_dim)
    assert encoder.encode([]).descriptors.shape == (0, encoder.descriptor_dim)


def test_encoding_reads_only_a_few_photos_ahead(tiny_folder):
    """Memory is bounded: with a batch of 2 and one thread, photo 50 is not touched while photo 0 is described."""
    encoder = PlaceEncoder(tiny_folder, batch_size=2, num_workers=1)
    taken = []

    class Photos(list):
        def __iter__(self):
            for i in range(50):
                taken.append(i)
                yield draw(0)

    ahead = []
    encoder.encode(Photos(range(50)), progress=lambda count: ahead.append(len(taken)))
    assert ahead[0] <= 2 + 2 + 1 + 1 < ahead[-1] == 50


def test_descriptors_are_in_memory_only_once(tiny_folder, monkeypatch):
    """A map that fills most of the memory must not be in memory twice, as batches and joined, nor when photos are skipped."""
    encoder, width = PlaceEncoder(tiny_folder, batch_size=2), 200_000
    monkeypatch.setattr(PlaceEncoder, "descriptor_dim", width)
    monkeypatch.setattr(encoder, "_preprocess", lambda photo, **_: photo if isinstance(photo, str) else torch.zeros(1, 1))
    unit = np.float32(width**-0.5)
    encoder.descriptor_model.backend = SimpleNamespace(encode=lambda pixels: np.full((len(pixels), width), unit))
    for photos in ([0] * 40, ["unreadable", *[0] * 39]):
        tracemalloc.start()
        encoder.encode(photos)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.25 * 40 * width * 4


def test_descriptors_that_are_not_finite_are_refused(tiny_folder):
    model = tiny_model()
    model.recovery.norm.bias.data[0] = torch.nan
    encoder = PlaceEncoder(model, D2VPRImageProcessor.from_pretrained(tiny_folder))
    with pytest.raises(ValueError, match=r"2 descriptors are not finite \(photos number \[0, 1\] first\)"):
        encoder.encode([draw(0), draw(1)])


def test_bad_encoder_arguments_are_refused(tiny_folder, caplog):
    with pytest.raises(ValueError, match="batch_size and num_workers must be at least 1, got 0 and 2"):
        PlaceEncoder(tiny_folder, batch_size=0)
    with pytest.raises(ValueError, match="needs its image processor"):
        PlaceEncoder(tiny_model())
    for device in ("foo", "meta"):
        with pytest.raises(ValueError, match=f"cannot run on '{device}' here"):
            PlaceEncoder(tiny_folder, device=device)
    with caplog.at_level(logging.WARNING):
        PlaceEncoder(tiny_model(use_cross_image_encoder=True), D2VPRImageProcessor())
    assert "depends on the other photos of its batch" in caplog.text


def test_model_name_loads_the_model_from_any_folder(tiny_folder, monkeypatch):
    """Forgotten or relative names would make an index that cannot be searched from elsewhere."""
    monkeypatch.chdir(tiny_folder.parent)
    processor = load_image_processor(tiny_folder)
    for model in (tiny_folder.name, tiny_folder, load_model(tiny_folder)):
        assert PlaceEncoder(model, processor).model_name == str(tiny_folder)
    assert PlaceEncoder().model_name == PlaceEncoder("embedded").model_name == "embedded"
    assert PlaceEncoder(load_model(), processor).model_name == "embedded"
    assert PlaceEncoder(tiny_model(), processor).model_name is None


def test_a_wrong_input_size_is_refused(tiny_folder):
    encoder = PlaceEncoder(tiny_model(), D2VPRImageProcessor(size={"height": 70, "width": 71}))
    with pytest.raises(ValueError, match="multiples of 14, got 70x71"):
        encoder.encode([draw(0)])


# ---- index and search


def test_each_photo_finds_itself(encoder, photos, tmp_path):
    built, report = index_photos(photos, tmp_path / "index", encoder)
    assert (len(built), report) == (9, UpdateReport(9, 0, 0, 0, {}))
    opened = PlaceIndex.open(tmp_path / "index")
    assert list(opened.places) == list(built.places) and opened.settings.model_name == encoder.model_name
    assert np.array_equal(opened.descriptors[:], built.descriptors[:])
    results = search_photos(opened, [photos], encoder, top_k=3)
    for result, place in zip(results, opened.places, strict=True):
        best = result.matches[0]
        assert (best.rank, best.place, best.photo) == (1, place, photos / place.path)
        assert best.similarity == pytest.approx(1, abs=1e-6)
        scores = [match.similarity for match in result.matches]
        assert scores == sorted(scores, reverse=True) and len(scores) == 3


def test_similarities_are_cosines(encoder, photos, tmp_path):
    built, _ = index_photos(photos, tmp_path / "index", encoder)
    query = encoder.encode([draw(99)]).descriptors
    matches = built.search(query, top_k=99)[0]
    expected = built.descriptors[:].astype(np.float32) @ query[0]
    assert [match.row for match in matches] == np.argsort(-expected).tolist()
    assert np.allclose([match.similarity for match in matches], np.sort(expected)[::-1], atol=1e-4)  # in half precision


def test_the_index_folder_can_be_inspected(encoder, photos, tmp_path):
    index_photos(photos, tmp_path / "index", encoder)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["model"] == encoder.model_name and manifest["count"] == 9 and manifest["format_version"] == 2
    table = pq.read_table(tmp_path / "index" / "places-000000.parquet").to_pylist()
    assert [row["utm_east"] for row in table] == [544000.0 + 100 * i for i in range(9)]
    for row in table:
        content = (photos / row["path"]).read_bytes()
        assert (row["content_hash"], row["file_size"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert row["file_mtime_ns"] == (photos / row["path"]).stat().st_mtime_ns
    assert load_file(tmp_path / "index" / "descriptors-000000.safetensors")["descriptors"].dtype == np.float16
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        ".lock",
        "descriptors-000000.safetensors",
        "manifest.json",
        "places-000000.parquet",
    ]


def test_the_same_folder_gives_the_same_bytes(encoder, photos, tmp_path):
    for name in ("one", "two"):
        index_photos(photos, tmp_path / name, encoder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_matches_have_positions_of_every_kind(encoder, tmp_path):
    save(tmp_path / "exif" / "a.jpg", 0, exif=gps_exif(43.5, 11.5))
    save(tmp_path / "csv" / "a.jpg", 0)
    (tmp_path / "csv" / "p.csv").write_text("path,x,y\na.jpg,1,2\n")
    save(tmp_path / "none" / "a.jpg", 0)
    matches = {}
    for kind in ("exif", "csv", "none"):
        built, _ = index_photos(tmp_path / kind, tmp_path / f"{kind}-index", encoder)
        matches[kind] = search_photos(built, [tmp_path / kind], encoder)[0].to_dict()["matches"][0]
    assert matches["exif"]["latitude"] == pytest.approx(43.5, abs=1e-6) and matches["exif"]["utm_east"] is not None
    assert (matches["csv"]["x"], matches["csv"]["y"], matches["csv"]["latitude"]) == (1.0, 2.0, None)
    assert matches["none"]["latitude"] is None and matches["none"]["utm_north"] is None and "x" not in matches["none"]


def test_bad_photos_are_named_and_counted(encoder, photos, tmp_path, caplog):
    plain = tmp_path / "plain"
    bad = save_bad_files(save(plain / "good.jpg", 0).parent)
    with caplog.at_level(logging.WARNING):
        built, report = index_photos(plain, tmp_path / "index", encoder)
    assert [place.path for place in built.places] == ["good.jpg"]
    assert report.skipped.keys() == bad.keys()
    assert "4 of 5 photos were skipped" in caplog.text
    assert all(f"{name}: " in caplog.text and reason in caplog.text for name, reason in bad.items())
    with pytest.raises(ValueError, match="4 of 5 photos were skipped"):
        index_photos(plain, tmp_path / "strict", encoder, strict=True)
    assert not (tmp_path / "strict").exists()
    (plain / "good.jpg").unlink()
    with pytest.raises(ValueError, match="None of the 4 photos"):
        index_photos(plain, tmp_path / "none", encoder)


def test_a_bad_query_does_not_stop_the_others(encoder, photos, tmp_path, caplog):
    built, _ = index_photos(photos, tmp_path / "index", encoder)
    good, bad = save(tmp_path / "q.jpg", 3), tmp_path / "gone.jpg"
    results = search_photos(built, [bad, good], encoder)
    assert [(r.query, len(r.matches), r.error) for r in results] == [(bad, 0, "no such file"), (good, 5, None)]
    assert results[0].to_dict() == {"query": str(bad), "matches": [], "error": "no such file"}
    assert "gone.jpg: no such file" in caplog.text
    with pytest.raises(ValueError, match="1 of 2 photos"):
        search_photos(built, [bad, good], encoder, strict=True)


def test_an_index_of_another_model_or_size_is_refused(encoder, photos, tmp_path, tiny_folder):
    built, _ = index_photos(photos, tmp_path / "index", encoder)
    others = (
        PlaceEncoder(tiny_model(seed=1), D2VPRImageProcessor.from_pretrained(tiny_folder)),
        PlaceEncoder(tiny_model(), D2VPRImageProcessor(size={"height": 84, "width": 70})),
    )
    for another_encoder in others:
        with pytest.raises(ValueError, match=r"built with another model or other preprocessing: with .*tiny"):
            search_photos(built, [photos], another_encoder)


def test_folders_that_are_not_an_undamaged_index_are_refused(encoder, photos, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not an index: it has no manifest\.json"):
        PlaceIndex.open(tmp_path)
    index_photos(photos, tmp_path / "index", encoder)
    broken = shutil.copytree(tmp_path / "index", tmp_path / "broken")
    (broken / "places-000000.parquet").unlink()
    with pytest.raises(
        ValueError, match=r"places-000000\.parquet: it is missing.*`d2vpr repair INDEX` removes the damaged parts"
    ):
        PlaceIndex.open(broken)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    for text, message in (
        ("{", "is damaged"),
        (json.dumps(manifest | {"format_version": 99}), "has format 99, this package reads format 2; use the version"),
        (
            json.dumps(manifest | {"format_version": 1}),
            "has format 1, .* `d2vpr index PHOTOS --out INDEX --overwrite` builds it again",
        ),
        (json.dumps(manifest | {"count": 8}), "its checksum is wrong"),
    ):
        (tmp_path / "index" / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            PlaceIndex.open(tmp_path / "index")


def test_a_folder_that_is_not_an_index_is_never_overwritten(encoder, photos, tmp_path):
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="exists already and is not an index"):
            index_photos(photos, photos, encoder, overwrite=overwrite)
    assert len(list(photos.iterdir())) == 9


def test_overwriting_removes_only_files_of_an_index(encoder, photos, tmp_path):
    """A manifest.json alone is not an index, and other files in an index folder stay, even under the names of its files."""
    app = tmp_path / "app"
    app.mkdir()
    (app / "manifest.json").write_text('{"name": "my app"}')
    index_photos(photos, tmp_path / "index", encoder)
    (tmp_path / "index" / "notes.txt").write_text("precious")
    save(tmp_path / "index" / "places.parquet" / "precious.jpg", 1)
    with pytest.raises(FileExistsError, match="it was not changed"):
        index_photos(photos, app, encoder, overwrite=True)
    index_photos(photos, tmp_path / "index", encoder, overwrite=True)
    assert (app / "manifest.json").exists() and (tmp_path / "index" / "notes.txt").read_text() == "precious"
    assert (tmp_path / "index" / "places.parquet" / "precious.jpg").exists()


def test_the_index_folder_is_checked_before_photos_are_encoded(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(PlaceEncoder, "encode", lambda *arguments: pytest.fail("photos were encoded first"))
    with pytest.raises(PermissionError, match="No permission to write into"):
        index_photos(photos, tmp_path / "index", encoder)


def test_an_interrupted_replacement_keeps_the_old_index_and_can_be_continued(encoder, photos, tmp_path, monkeypatch):
    index_photos(photos, tmp_path / "index", encoder)
    save(photos / at_name(1, 2), 99)
    encode, calls = PlaceEncoder.encode, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, *arguments)

    monkeypatch.setattr(PlaceEncoder, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index_photos(photos, tmp_path / "index", encoder, overwrite=True, shard_size=3)
    assert len(PlaceIndex.open(tmp_path / "index")) == 9
    built, report = index_photos(photos, tmp_path / "index", encoder, overwrite=True, shard_size=3)
    assert (report.kept, report.added) == (6, 4) and len(built) == len(PlaceIndex.open(tmp_path / "index")) == 10
    assert not list((tmp_path / "index").glob("*next*")) and PlaceIndex.open(tmp_path / "index").verify() == []


def test_photos_with_broken_exif_are_encoded(encoder, tmp_path):
    """Pillow hides it when it opens a JPEG, and stumbles over it when the photo is turned upright."""
    for name in ("a.jpg", "b.png"):
        draw(1).save(tmp_path / name, exif=b"Exif\0\0XX\0*\0\0\0\x08")
    encoded = encoder.encode([tmp_path / "a.jpg", tmp_path / "b.png", draw(1)])
    assert encoded.rows.tolist() == [0, 1, 2]


def test_another_order_of_encoding_keeps_the_order_of_descriptors(encoder, tmp_path):
    """The network sees the photos in that order; descriptors and gaps come in the order of the photos all the same."""
    photos = [save(tmp_path / f"{i}.png", i) for i in range(6)]
    photos.insert(1, tmp_path / "gone.png")
    plain, ordered = encoder.encode(photos), encoder.encode(photos, order=[6, 0, 1, 5, 2, 4, 3])
    assert np.array_equal(plain.rows, [0, 2, 3, 4, 5, 6]) and np.array_equal(plain.rows, ordered.rows)
    assert plain.skipped == ordered.skipped == {1: "no such file"}
    assert np.allclose(plain.descriptors, ordered.descriptors, atol=1e-6)


def test_an_index_behind_a_link_is_built_and_replaced(encoder, photos, tmp_path):
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="circle"):
        index_photos(photos, tmp_path / "circle", encoder)
    for overwrite in (False, False, True):
        index_photos(photos, tmp_path / "link", encoder, overwrite=overwrite)
    assert (tmp_path / "link").is_symlink() and len(PlaceIndex.open(tmp_path / "target")) == 9


def test_an_empty_query_folder_does_not_stop_the_others(encoder, photos, tmp_path, caplog):
    built, _ = index_photos(photos, tmp_path / "index", encoder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.jxl").write_bytes(b"\xff\x0a" + bytes(20))
    results = search_photos(built, [tmp_path / "empty", save(tmp_path / "q.jpg", 1)], encoder)
    assert [(result.error, len(result.matches)) for result in results] == [("a folder, not a file", 0), (None, 5)]
    assert "Skipped images: a.jxl (JPEG XL" in caplog.text
