"""PlaceIndex without an encoder: searching, adding frame by frame, a single writer, calibration and vector store."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.index import IndexSettings, PhotoFile, PlaceIndex, manifest
from d2vpr_hf.index.manifest import Manifest, read_manifest
from d2vpr_hf.index.place_rows import PlaceRows, StoredPlaces
from d2vpr_hf.places import Place
from d2vpr_hf.places.place import complete_places
from d2vpr_hf.utils.atomic_files import checksum
from tests.index.workers import DIM, begin, frame

KINDS = {
    "degrees": Place("a", latitude=43.5, longitude=11.5, heading=90.0),
    "utm": Place("b", utm_east=5.0, utm_north=6.0, utm_zone="10S", timestamp="2026-05-04", condition="night"),
    "local": Place("c", x=1.0, y=2.0, z=3.0, yaw=4.0, frame="hall"),
    "nowhere": Place("d"),
}


def signs(count, seed):
    """Descriptors of +-1/4: exact in half precision, of unit length, with many equal similarities."""
    return np.random.default_rng(seed).choice([-0.25, 0.25], (count, DIM)).astype(np.float32)


@pytest.fixture
def index(tmp_path):
    return begin(tmp_path / "index")


def paths_of(matches):
    return [match.place.path for match in matches]


def test_searching_is_sorting_by_cosine(index):
    """Compared with `q @ d.T`, ties in the order of the rows: over several shards, removed rows and pending rows."""
    vectors, queries = signs(60, 0), signs(9, 1)
    index.add(vectors, [Place(f"{i}.jpg") for i in range(60)])
    index.remove(["3.jpg", "17.jpg", "18.jpg"])
    index.add(signs(3, 2), [Place(f"new{i}.jpg") for i in range(3)])
    database = np.concatenate([np.delete(vectors, [3, 17, 18], axis=0), signs(3, 2)])
    similarities = queries @ database.T
    expected = np.argsort(-similarities, axis=1, kind="stable")
    for top_k in (1, 7, 99):
        results = index.search(queries, top_k)
        assert [[match.row for match in matches] for matches in results] == expected[:, :top_k].tolist()
        assert [matches[0].similarity for matches in results] == similarities.max(1).tolist()
    allowed = np.random.default_rng(0).random(60) < 0.3
    results = index.search(queries, 99, allowed=allowed)
    left = [[row for row in rows if allowed[row]] for rows in expected.tolist()]
    assert [[match.row for match in matches] for matches in results] == left


def test_every_kind_of_position_is_stored(index, tmp_path):
    index.add(signs(4, 0), list(KINDS.values()))
    assert list(index.places) == complete_places(list(KINDS.values()))  # pending
    index.close()
    opened = PlaceIndex.open(tmp_path / "index")
    assert list(opened.places) == [opened.places[row] for row in range(4)] == complete_places(list(KINDS.values()))
    assert opened.places[-1] == KINDS["nowhere"] and opened.places[1:3] == [KINDS["utm"], KINDS["local"]]
    assert opened.places.numbers("latitude").tolist()[0] == 43.5 and np.isnan(opened.places.numbers("latitude")[1])
    with pytest.raises(IndexError, match="from 0 to 3, got 4"):
        opened.places[4]


def test_an_empty_index_finds_nothing(index):
    assert index.search(signs(2, 0), 3) == [[], []] and len(index) == 0 and list(index.places) == []
    assert index.search(signs(1, 0), 3, exclude_last_seconds=1, query_time=0) == [[]]
    index.compact()
    assert index.descriptors.shape == (0, DIM) and index.verify() == []


# ---- frame by frame


def test_a_robot_finds_earlier_visits_and_not_its_last_positions(index, tmp_path):
    """It passes ten places twice, one a second. Excluding the last 5 s excludes frames 15 to 19 of the second round."""
    places = signs(10, 3)
    with index:
        for second in range(20):
            index.add(places[second % 10], Place(f"{second}", x=float(second % 10), y=0.0, timestamp=str(second)))
            if second >= 10:
                found = index.search(places[second % 10], 1, exclude_last_seconds=5, query_time=second)[0]
                assert paths_of(found) == [str(second - 10)]
        assert paths_of(index.search(places[7], 2)[0]) == ["7", "17"]
    opened = PlaceIndex.open(tmp_path / "index")
    assert len(opened) == 20
    seconds = [int(match.place.path) for match in opened.search(places[7], 99, exclude_last_seconds=5)[0]]
    assert sorted(seconds) == list(range(15))  # the latest time is 19; 14 is 5 s before it


def test_rows_without_a_time_are_not_excluded(index):
    index.add(signs(3, 0), [Place("a", timestamp="100"), Place("b"), Place("c")])
    found = index.search(signs(1, 0), 9, exclude_last_seconds=5, query_time=101, allowed=np.array([True, True, True]))
    assert sorted(paths_of(found[0])) == ["b", "c"]
    for query_time in ("spring", "nan"):
        with pytest.raises(ValueError, match="Expected a time in seconds"):
            index.search(signs(1, 0), 1, exclude_last_seconds=5, query_time=query_time)


def test_full_shards_are_stored_without_a_flush(index, tmp_path):
    for number in range(7):
        index.add(*frame(number))
    assert len(index) == 7 and len(PlaceIndex.open(tmp_path / "index")) == 5
    index.flush()
    assert len(PlaceIndex.open(tmp_path / "index")) == 7


def test_many_small_flushes_leave_few_files(tmp_path):
    """One frame a flush: without joining shards, 500 flushes would leave 1000 files."""
    index = begin(tmp_path / "index", shard_size=128)
    for number in range(500):
        index.add(*frame(number))
        index.flush()
    assert index.info()["shards"] <= 500 // 128 + 7
    assert [place.path for place in PlaceIndex.open(tmp_path / "index").places] == [f"/frames/{i}" for i in range(500)]


def test_adding_a_frame_reads_no_stored_row_and_writes_no_file(index, monkeypatch):
    """No file is written and no stored row is read: a robot adds frames while it drives."""
    index = begin(index.folder.parent / "large", shard_size=5000)
    vectors = signs(2100, 0)
    index.add(vectors[:2000], [Place(f"{i}") for i in range(2000)])
    index.flush()
    index.add(vectors[2000], Place("first"))
    before, reads = os.listdir(index.folder), []  # noqa: PTH208
    monkeypatch.setattr(StoredPlaces, "column", lambda places, name: reads.append(name))
    monkeypatch.setattr(StoredPlaces, "row", lambda places, number: reads.append(number))
    for number in range(2001, 2100):
        index.add(vectors[number], Place(f"{number}"))
    assert not reads and os.listdir(index.folder) == before  # noqa: PTH208
    index.flush()


# ---- refusals


def test_bad_rows_are_refused_and_nothing_is_added(index):
    index.add(*frame(0))
    cases = [
        (np.zeros((2, DIM)), [Place("a")], rf"Expected descriptors \(1, {DIM}\), one for each place, got \(2, {DIM}\)"),
        (np.zeros(3), [Place("a")], r"got \(1, 3\)"),
        (np.full(DIM, np.nan), [Place("a")], "not finite in float16"),
        (np.full(DIM, 1e6), [Place("a")], "not finite in float16"),
        (np.zeros((2, DIM)), [Place("a"), Place("a")], "given twice"),
        (np.zeros(DIM), [Place("/frames/0")], "/frames/0 is in the index .* already"),
    ]
    for descriptors, places, message in cases:
        with pytest.raises(ValueError, match=message):
            index.add(descriptors, places)
    with pytest.raises(ValueError, match=r"x, y, z and 1 more are not in the index .* nothing was removed"):
        index.remove(["/frames/0", "x", "y", "z", "zz"])
    assert [place.path for place in index.places] == ["/frames/0"]
    with pytest.raises(ValueError, match="at most a shard of 5 rows, got 6"):
        index.upsert(np.zeros((6, DIM)), [Place(f"{i}") for i in range(6)], [])
    with pytest.raises(ValueError, match=rf"one descriptor width, got \(1, 3\) and \(1, {DIM}\)"):
        index.search(np.zeros(3), 1)


def test_half_precision_by_default_and_full_on_request(tmp_path):
    vector, place = frame(0)
    for dtype, expected in (("float16", vector.astype(np.float16)), ("float32", vector.astype(np.float32))):
        index = begin(tmp_path / dtype, dtype=dtype)
        index.add(vector, place)
        index.flush()
        found = PlaceIndex.open(tmp_path / dtype).descriptors
        assert found.dtype == dtype and np.array_equal(found[:], expected[None])
    assert json.loads((begin(tmp_path / "default").folder / "manifest.json").read_text())["dtype"] == "float16"
    with pytest.raises(ValueError, match="stored as float16 or float32, got 'int8'"):
        begin(tmp_path / "other", dtype="int8")


# ---- writers and readers


def test_a_second_writer_is_refused_until_the_first_has_stored_everything(index, tmp_path, monkeypatch):
    """The second writer is refused without waiting, and can read; it can write when the first has stored everything."""
    second, waits = PlaceIndex.open(tmp_path / "index"), []
    index.add(*frame(0))
    with monkeypatch.context() as patched:
        patched.setattr("time.sleep", waits.append)
        for change in (lambda: second.add(*frame(1)), lambda: second.compact(), second.__enter__):
            with pytest.raises(BlockingIOError, match="is being changed by another process"):
                change()
    assert sum(waits) < 1 and second.search(frame(0)[0], 1) == [[]]
    index.flush()
    second.add(*frame(1))  # reads the rows of the first writer
    second.flush()
    assert [place.path for place in second.places] == ["/frames/0", "/frames/1"]
    index.remove(["/frames/1"])
    assert [place.path for place in index.places] == ["/frames/0"]


def test_an_index_that_was_replaced_by_one_of_another_model_is_not_changed(index, tmp_path):
    begin(tmp_path / "index", overwrite=True, fingerprint="other").close()
    with pytest.raises(ValueError, match="was replaced by one of another model"):
        index.add(*frame(0))


def test_readers_keep_the_rows_that_they_opened(index, tmp_path):
    index.add(signs(12, 0), [Place(f"{i}") for i in range(12)])
    index.flush()
    reader = PlaceIndex.open(tmp_path / "index")
    index.remove([f"{i}" for i in range(0, 12, 2)])
    index.compact()
    assert [place.path for place in reader.places] == [f"{i}" for i in range(12)]
    assert np.array_equal(reader.descriptors[:], signs(12, 0)) and len(PlaceIndex.open(tmp_path / "index")) == 6


def test_a_new_index_replaces_another_when_it_is_complete(index, tmp_path):
    index.add(*frame(0))
    index.close()
    with pytest.raises(FileExistsError, match="`overwrite=True` to replace"):
        begin(tmp_path / "index")
    with pytest.raises(KeyError), begin(tmp_path / "index", overwrite=True) as new:
        new.add(*frame(1))
        raise KeyError
    assert [place.path for place in PlaceIndex.open(tmp_path / "index").places] == ["/frames/0"]
    with begin(tmp_path / "index", overwrite=True) as new:
        new.add(*frame(2))
        assert [place.path for place in PlaceIndex.open(tmp_path / "index").places] == ["/frames/0"]
    assert [place.path for place in PlaceIndex.open(tmp_path / "index").places] == ["/frames/2"]
    assert len(list((tmp_path / "index").iterdir())) == 4


def test_compacting_frees_space(index):
    index.add(signs(23, 0), [Place(f"{i}") for i in range(23)])
    index.flush()
    size = index.info()["bytes"]
    index.remove([f"{i}" for i in range(5, 21)])
    assert (index.info()["removed"], index.info()["shards"]) == (1, 2)  # shards without rows are gone already
    index.compact()
    assert index.info()["removed"] == 0 and index.info()["shards"] == 2 and index.info()["bytes"] < size
    files = sorted(path.name for path in index.folder.iterdir())
    assert files[1] == "descriptors-000000.safetensors" and len(files) == 6  # a full shard does not change
    index.compact()
    assert sorted(path.name for path in index.folder.iterdir()) == files


# ---- calibration, vector store and information


def test_a_calibration_and_a_store_stay_when_rows_change(index, tmp_path):
    index.add(*frame(0))
    index.store_calibration({"scale": 1.5})
    index.build_store("bits")
    for lag, change in ((0, lambda: index.flush()), (2, lambda: index.add(*frame(1)) or index.flush())):
        change()
        opened = PlaceIndex.open(tmp_path / "index")
        assert opened.store_is_fresh is (lag == 0)  # the only row was merged with the new one into another file
        assert len(list(index.folder.glob("derived-*.bits"))) == (lag == 0)
        assert opened.calibration == {"scale": 1.5} and opened.compression == "bits" and opened.verify() == []
    index.store_calibration({"scale": 2.5})
    assert PlaceIndex.open(tmp_path / "index").calibration == {"scale": 2.5}
    assert len(list(index.folder.glob("calibration-*"))) == 1


def test_info_counts_rows_shards_and_bytes(index):
    index.add(signs(4, 0), list(KINDS.values()))
    index.flush()
    info = index.info()
    assert (info["count"], info["with_position"], info["shards"], info["removed"]) == (4, 3, 1, 0)
    assert json.loads(json.dumps(info)) == info
    assert info["scanned_bytes"] == {"none": 8 * DIM, "half": 8 * DIM, "int8": 4 * DIM, "bits": DIM // 2}  # of four rows
    sizes = [path.stat().st_size for path in index.folder.iterdir() if path.suffix in (".parquet", ".safetensors")]
    assert info["bytes"] == sum(sizes)


def test_opening_an_incomplete_index_logs_a_warning(index, tmp_path, caplog):
    index.upsert(np.zeros((0, DIM)), [], [], complete=False)
    with caplog.at_level(logging.WARNING):
        assert not PlaceIndex.open(tmp_path / "index").complete
    assert "is not complete" in caplog.text and "`d2vpr index` with the same photos resumes it" in caplog.text


def test_amending_reads_the_paths_once(index, monkeypatch):
    """A table of all paths for each shard of amended rows took as long as the square of their number."""
    for number in range(17):
        index.add(*frame(number))
    index.flush()
    columns, column = [], PlaceRows.column
    monkeypatch.setattr(PlaceRows, "column", lambda rows, name: columns.append(name) or column(rows, name))
    places = [replace(frame(number)[1], heading=9.0) for number in (16, 3, 0, 12, 7, 8, 9, 1, 15, 2, 11)]
    before = {place.path: vector for place, vector in zip(index.places, index.descriptors[:], strict=True)}
    index.amend(places, [PhotoFile()] * len(places))
    assert columns == ["path"]
    assert list(index.places)[-len(places) :] == places
    after = {place.path: vector for place, vector in zip(index.places, index.descriptors[:], strict=True)}
    assert all(np.array_equal(after[path], vector) for path, vector in before.items()) and len(index) == 17


def test_the_manifest_records_a_second_service(tmp_path, monkeypatch):
    """The first service has no entry of its own, as format 2 had only that one; any other must not be read as the first."""
    settings = IndexSettings(None, "bytes", DIM, photo_folder=Path("photos"), runtimes=(Runtime("torch", "fp32"),))
    written = Manifest(settings, store_uri="places.db", service="milvus")
    assert "store_service" not in written.to_text()
    monkeypatch.setattr(manifest, "SERVICES", ("another", "milvus"))
    assert '"store_service": "milvus"' in written.to_text()
    (tmp_path / "manifest.json").write_text(written.to_text())
    assert read_manifest(tmp_path) == written


def test_a_folder_with_another_spelling_opens(tmp_path):
    """Manifests keep the text of the folder, such as `photos/`, which a path does not: they must not count as damaged."""
    begin(tmp_path / "index", photo_folder=Path("photos"))
    file = tmp_path / "index" / "manifest.json"
    values = json.loads(file.read_text()) | {"photos": "photos/"}
    del values["checksum"]
    values["checksum"] = checksum(json.dumps(values, sort_keys=True).encode())
    file.write_text(json.dumps(values, indent=2) + "\n")
    with PlaceIndex.open(tmp_path / "index") as index:
        assert index.settings.photo_folder == Path("photos")
        index.add(*frame(0))
    assert PlaceIndex.open(tmp_path / "index").verify() == []
