"""A vector store only makes searches faster: whatever fails in it, results are those of exact search, and one warning names it.

It is built again at the next change. Otherwise one flipped bit in a file that can be made again would close the whole index.
"""

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.index import PlaceIndex, derived_files, derived_store, shards
from d2vpr_hf.index.derived_store import LazyStore
from d2vpr_hf.stores.bits import BitStore
from d2vpr_hf.stores.exact import exact_search
from d2vpr_hf.stores.int8 import Int8Store
from tests.index.test_compression import named, unit
from tests.index.workers import begin

COUNT = 300
FILES = {"half": ["half.npy"], "int8": ["int8.faiss"], "bits": ["bits.npy", "mean.npy"]}
QUERIES = unit(4, 9)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index with a store of each kind, by kind."""
    folders = {}
    for kind in FILES:
        folders[kind] = tmp_path_factory.mktemp("stores") / kind
        with begin(folders[kind], dtype="float32", shard_size=100) as index:
            index.add(unit(COUNT, 0), named("a", COUNT))
            index.build_store(kind)
    return folders


def copy_of(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "index")
    return copied, next(copied.glob("derived-*"))


def search_exactly(index, allowed=None):
    """Search with and without a mask, and compare rows and distances with those of exact search."""
    distances, rows = exact_search(QUERIES, index.descriptors, 5, allowed)
    found = index.nearest(QUERIES, 5, allowed=allowed)
    assert found[1].tolist() == rows.tolist() and np.array_equal(found[0], distances)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "The search is exact" in record.getMessage()]


def check_falls_back(folder, caplog, name):
    """Search several times: one warning names the file. Then change the index: its store is whole again."""
    caplog.clear()
    index = PlaceIndex.open(folder)
    for _ in range(2):
        search_exactly(index)
        search_exactly(index, np.arange(len(index)) % 3 > 0)
    (warning,) = warnings_of(caplog)
    assert name in warning and str(folder) in warning and "build the store again" in warning
    assert index.store_is_fresh is False and index.info()["store_is_fresh"] is False
    index.remove(["a7.jpg"])
    for opened in (index, PlaceIndex.open(folder)):
        assert opened.store_is_fresh is True and opened.info()["store_lag"] == 0
        search_exactly(opened)
    assert warnings_of(caplog) == [warning] and len(list(folder.glob("derived-*"))) == 1


def flip(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.unlink()  # readers of the same file keep it
    path.write_bytes(content)


def replaced_by(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    "flipped in the header": lambda path: flip(path, 10),
    "flipped in the numbers": lambda path: flip(path, -3, 5),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 7),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "empty": replaced_by(lambda path: path.touch()),
    "gone": lambda path: path.unlink(),
    "a folder": replaced_by(lambda path: path.mkdir()),
    "a link": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "a pipe": replaced_by(lambda path: os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FILES.items() for name in names])
def test_a_damaged_file_of_a_store_never_decides(built, tmp_path, caplog, kind, name, damage):
    folder, store = copy_of(built[kind], tmp_path)
    DAMAGES[damage](store / name)
    check_falls_back(folder, caplog, name)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["shards.json", "store.json", "checksums.json"])
def test_a_damaged_description_never_decides(built, tmp_path, caplog, name, damage):
    """Without the list of shards a store is of unknown rows, and with a wrong list of other rows."""
    folder, store = copy_of(built["bits"], tmp_path)
    DAMAGES[damage](store / name)
    if name == "checksums.json" and damage == "gone":  # as in a store of an earlier version, which is used and then replaced
        index = PlaceIndex.open(folder)
        search_exactly(index)
        assert index.store_is_fresh and warnings_of(caplog) == []
        index.build_store()
        assert (store / name).exists()
    else:
        check_falls_back(folder, caplog, store.name)


@pytest.mark.parametrize("changed", [{"rows": 99}, {"rows": -1}, {"rows": 10**12}, {"removed": [3]}, {"removed": [-1]}])
def test_rows_that_a_store_cannot_have_are_refused(built, tmp_path, caplog, changed):
    """A store of an earlier version has no checksums: its list of shards is compared with the manifest and the store's size."""
    folder, store = copy_of(built["int8"], tmp_path)
    (store / "checksums.json").unlink()
    shards = json.loads((store / "shards.json").read_text())
    (store / "shards.json").write_text(json.dumps([{**shards[0], **changed}, *shards[1:]]))
    index = PlaceIndex.open(folder)
    search_exactly(index)
    assert index.store_is_fresh is False


@pytest.mark.parametrize(("kind", "name"), [("int8", "int8.faiss"), ("bits", "bits.npy"), ("bits", "mean.npy")])
def test_flipped_bits_in_a_store_without_checksums_raise_nothing(built, tmp_path, kind, name):
    """Each byte of the header is parsed by another library, which raises errors of many types or none."""
    folder, store = copy_of(built[kind], tmp_path)
    (store / "checksums.json").unlink()
    content = (store / name).read_bytes()
    for byte in range(0, 128, 5):
        (store / name).write_bytes(content)
        flip(store / name, byte, byte % 8)
        index = PlaceIndex.open(folder)
        found = index.nearest(QUERIES, 5)[1]
        assert found.shape == (4, 5) and found.min() >= 0 and found.max() < COUNT
        if index.store_is_fresh is False:
            search_exactly(index)


def junk(change):
    """Return a search that changes the result of a store."""

    def search(store, queries, k, allowed=None):
        distances, rows = exact_search(queries, store._descriptors, k, allowed)
        return change(distances.copy(), rows.copy())

    return search


def with_first(distances, rows, row):
    rows[0, 0] = row
    return distances, rows


def raising(error):
    def change(distances, rows):
        raise error

    return change


JUNK = {
    "no row": lambda d, r: with_first(d, r, -1),
    "beyond the end": lambda d, r: with_first(d, r, COUNT),
    "twice": lambda d, r: with_first(d, r, r[0, 1]),
    "not finite": lambda d, r: (np.full_like(d, np.nan), r),
    "descending": lambda d, r: (d[:, ::-1].copy(), r),
    "too few": lambda d, r: (d[:, :2], r[:, :2]),
    "of other queries": lambda d, r: (d[:1], r[:1]),
    "not whole": lambda d, r: (d, r + 0.5),
    "IndexError": raising(IndexError("row -1")),
    "RuntimeError": raising(RuntimeError("in faiss")),
}


@pytest.mark.parametrize("change", JUNK)
def test_impossible_results_of_a_store_are_not_returned(built, tmp_path, caplog, monkeypatch, change):
    """Results are checked at search time too: files can be damaged after they were mapped."""
    folder, store = copy_of(built["int8"], tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Int8Store, "search", junk(JUNK[change]))
        index = PlaceIndex.open(folder)
        for _ in range(3):
            search_exactly(index)
        (warning,) = warnings_of(caplog)
        assert "int8.faiss" in warning and store.name in warning
    assert index.store_is_fresh is False
    index.add(unit(1, 5), named("b", 1))
    index.flush()
    assert index.store_is_fresh and PlaceIndex.open(folder).store_is_fresh
    search_exactly(index)


def test_rows_that_a_search_excludes_are_not_returned(built, tmp_path, monkeypatch):
    folder, _ = copy_of(built["int8"], tmp_path)
    monkeypatch.setattr(Int8Store, "search", lambda store, queries, k, allowed: exact_search(queries, store._descriptors, k))
    search_exactly(PlaceIndex.open(folder), np.arange(COUNT) % 2 == 0)


def test_candidates_of_a_store_are_rows_of_its_descriptors(monkeypatch):
    """FAISS returns -1 for no neighbour, which numpy takes for the last row."""
    descriptors = unit(COUNT, 0)
    store = Int8Store(descriptors)
    for row in (-1, COUNT, 0):
        with monkeypatch.context() as patched:

            class Damaged:
                def search(self, queries, k, params=None, row=row):
                    return np.zeros((len(queries), k), np.float32), np.full((len(queries), k), row, np.int64)

            patched.setattr(store, "_index", Damaged())
            with pytest.raises(ValueError, match=r"Expected rows from 0 to 299|found twice"):
                store.search(QUERIES, 3)


def test_a_store_that_cannot_be_read_is_not_used(built, tmp_path, caplog, monkeypatch):
    """A user without the permission to read it can search all the same."""
    folder, store = copy_of(built["bits"], tmp_path)

    def forbidden(folder, file):
        raise PermissionError(13, "Permission denied", str(folder / file.name))

    with monkeypatch.context() as patched:
        patched.setattr(derived_files, "content_problem", forbidden)
        index = PlaceIndex.open(folder)
        search_exactly(index)
    (warning,) = warnings_of(caplog)
    assert "Permission denied" in warning and store.name in warning


PASSING = {
    "too many open files": OSError(errno.EMFILE, "Too many open files"),
    "too little memory": MemoryError(),
    "no connection": ConnectionError("no answer"),
}


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("part", ["sizes", "opening", "searching"])
def test_a_store_is_used_again_after_an_error_that_passes(built, tmp_path, caplog, monkeypatch, part, error):
    """A robot runs for days: one error must neither turn its store off for good nor make a writer build it again."""
    folder, store = copy_of(built["bits"], tmp_path)
    before = store.stat().st_ino
    with monkeypatch.context() as patched:

        def failing(*arguments):
            raise PASSING[error]

        places = {"sizes": (derived_store, "check_store_sizes"), "opening": (derived_store, "open_store")}
        patched.setattr(*places.get(part, (BitStore, "search")), failing)
        index = PlaceIndex.open(folder)
        for _ in range(2):
            search_exactly(index)
        with index:
            index.add(unit(1, 5), named("b", 1))
        (warning,) = warnings_of(caplog)
        assert "The next search tries the store again" in warning and store.name in warning
    monkeypatch.setattr(BitStore, "search", junk(lambda distances, rows: (distances + 1, rows)))
    assert (index.nearest(index.descriptors[:1], 1)[0] >= 1).all() and index.store_is_fresh  # the store searched
    assert store.stat().st_ino == before


def test_a_store_that_another_process_built_again_is_used(built, tmp_path, monkeypatch):
    """The damage that a reader has seen is not that of the new store in the same folder."""
    folder, store = copy_of(built["bits"], tmp_path)
    flip(store / "bits.npy", 10)
    reader, writer = PlaceIndex.open(folder), PlaceIndex.open(folder)
    search_exactly(reader)
    writer.build_store()
    assert reader.store_is_fresh and next(folder.glob("derived-*")) == store
    search_exactly(reader)


def test_many_changes_with_a_store_that_cannot_be_built_warn_once(built, tmp_path, caplog, monkeypatch):
    """A robot stores each frame: its log must not fill with the same line, and each frame is stored."""
    folder, store = copy_of(built["bits"], tmp_path)
    flip(store / "bits.npy", 10)
    with PlaceIndex.open(folder) as index:
        for number in range(20):
            index.add(unit(1, 100 + number), named(f"b{number}", 1))
            index.flush()
            search_exactly(index)
        assert len(warnings_of(caplog)) == 1
        monkeypatch.setattr(BitStore, "save", lambda store, path: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert len(PlaceIndex.open(folder)) == COUNT + 20
    assert "could not be built again" in caplog.text


@pytest.mark.parametrize("place", ["a file", "a link"])
def test_something_else_in_the_place_of_a_store_is_replaced(built, tmp_path, place, caplog):
    """A link is removed, and the folder that it leads to stays unchanged."""
    folder, store = copy_of(built["bits"], tmp_path)
    elsewhere = shutil.move(store, tmp_path / "elsewhere")
    store.write_text("no folder") if place == "a file" else store.symlink_to(elsewhere)
    index = PlaceIndex.open(folder)
    search_exactly(index)
    assert len(warnings_of(caplog)) == (1 if place == "a file" else 0)
    if place == "a link":
        flip(elsewhere / "bits.npy", 10)
    PlaceIndex.open(folder).build_store()
    assert PlaceIndex.open(folder).store_is_fresh and store.is_dir() and not store.is_symlink()
    assert len(list(elsewhere.iterdir())) == 5


def test_a_store_that_a_writer_replaces_while_it_is_opened_is_no_damage(built, tmp_path, caplog, monkeypatch):
    """The reader searches exactly once, and then opens the new store."""
    folder, store = copy_of(built["bits"], tmp_path)
    index = PlaceIndex.open(folder)

    def replaced(path):
        shutil.move(store, tmp_path / "old")
        raise FileNotFoundError(store / "bits.npy")

    with monkeypatch.context() as patched:
        patched.setattr(shards, "file_checksum", replaced)
        search_exactly(index)
    shutil.move(tmp_path / "old", store)
    search_exactly(index)
    assert index.store_is_fresh and warnings_of(caplog) == []


def test_a_service_that_answers_again_is_used_again(caplog):
    """A failed connection is not damage: the next search tries the store again, and one warning is logged until then."""

    class Service:
        answers = False

        def search(self, queries, k, allowed=None):
            if not self.answers:
                raise ConnectionError("no answer")
            return exact_search(queries, unit(9, 0), k, allowed)

    class Store(LazyStore):
        vectors = Service()

    store = Store(Path(), unit(9, 0))
    with caplog.at_level(logging.WARNING):
        assert store.search(QUERIES, 3, None) is None and store.search(QUERIES, 3, None) is None
        assert len(warnings_of(caplog)) == 1 and store.error is None
        Store.vectors.answers = True
        assert store.search(QUERIES, 3, None) is not None


@pytest.mark.parametrize("kind", ["bits", "int8"])
def test_a_store_that_is_cut_while_it_is_in_use_is_not_read(built, tmp_path, caplog, kind):
    """Reading the missing part of a mapped file ends the process."""
    folder, store = copy_of(built[kind], tmp_path)
    index = PlaceIndex.open(folder)
    search_exactly(index)
    (file,) = store.glob(f"{kind}.*")
    os.truncate(file, file.stat().st_size // 2)
    caplog.clear()
    search_exactly(index)
    (warning,) = warnings_of(caplog)
    assert "while it was in use" in warning and "search is exact" in warning
