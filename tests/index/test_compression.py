"""Searches of a compressed index find the rows of exact search, after any change of the index or the store."""

import errno
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.index import PlaceIndex, derived_store
from d2vpr_hf.places import Place
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos
from d2vpr_hf.stores.bits import BitStore
from d2vpr_hf.stores.exact import exact_search
from tests.index.workers import DIM, SHARD, BytesEncoder, begin, write_photos

KINDS = ("half", "int8", "bits")


def unit(count, seed):
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def named(prefix, count):
    return [Place(f"{prefix}{number}.jpg") for number in range(count)]


def check_exact(index, allowed=None):
    """Compare a search with exact search: these few rows are all candidates, so that a store must find the same rows."""
    queries = unit(5, 9)
    _, rows = exact_search(queries, index.descriptors, 7, allowed)
    assert [[match.row for match in matches] for matches in index.search(queries, 7, allowed=allowed)] == rows.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_compressed_search_finds_the_rows_of_exact_search(tmp_path, kind, dtype, monkeypatch):
    """With and without a mask, with pending rows, after removals, with a lagging store and a new one."""
    index = begin(tmp_path / "index", dtype=dtype)
    index.add(unit(23, 0), named("a", 23))
    index.build_store(kind)
    opened = PlaceIndex.open(tmp_path / "index")
    assert opened.store_is_fresh and opened.info()["compression"] == kind
    check_exact(opened)
    opened.add(unit(SHARD - 2, 1), named("b", SHARD - 2))  # pending
    assert opened.store_is_fresh
    check_exact(opened)
    check_exact(opened, np.arange(len(opened)) % 3 > 0)
    check_exact(opened, np.arange(len(opened)) >= 23)
    opened.remove(["a3.jpg", "b1.jpg"])
    assert opened.store_is_fresh and opened.info()["store_lag"] == 1 + SHARD - 3  # a3 is gone, all of b but one came
    check_exact(opened)
    check_exact(PlaceIndex.open(tmp_path / "index"), np.arange(len(opened)) % 3 > 0)
    monkeypatch.setattr(derived_store, "LAG_ROWS", 1)
    assert opened.store_is_fresh is False
    opened.build_store()
    assert opened.store_is_fresh and opened.info()["store_lag"] == 0 and opened.verify() == []
    check_exact(opened)
    opened.compact()
    check_exact(PlaceIndex.open(tmp_path / "index"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_store_is_searched_after_files_it_was_built_of_are_removed(tmp_path, kind, dtype):
    """The last shard of the store is merged with new rows into another file, so that its rows can no longer be read."""
    index = begin(tmp_path / "index", dtype=dtype)
    index.add(unit(2 * SHARD + 2, 0), named("a", 2 * SHARD + 2))
    index.build_store(kind)
    index.add(unit(2, 1), named("b", 2))
    index.flush()
    index.remove(["a0.jpg"])
    for opened in (index, PlaceIndex.open(tmp_path / "index")):
        assert opened.info()["store_lag"] == 1 + 2 + 4  # gone, gone with their file, and the four of the new file
        check_exact(opened)
        check_exact(opened, np.arange(len(opened)) % 2 == 0)


def test_removed_rows_do_not_displace_neighbours(monkeypatch, tmp_path):
    """With many rows, of which bits choose candidates: a search finds the ten rows of a store without the removed rows."""
    vectors = unit(6000, 0)
    index = begin(tmp_path / "index", shard_size=1000)
    index.add(vectors, named("a", 6000))
    index.build_store("bits")
    gone = sorted({match.place.path for matches in index.search(vectors[:40], 60) for match in matches})
    index.remove(gone)
    assert index.store_is_fresh and index.info()["store_lag"] == len(gone) > 500
    lagging = [[match.place.path for match in matches] for matches in index.search(vectors[:40], 10)]
    monkeypatch.setattr(derived_store, "LAG_ROWS", 0)
    index.build_store()
    assert index.info()["store_lag"] == 0
    rebuilt = [[match.place.path for match in matches] for matches in index.search(vectors[:40], 10)]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(lagging, rebuilt, strict=True)]) > 9.8  # the mean is of other rows
    assert not {path for paths in lagging for path in paths} & set(gone)


def test_a_search_uses_the_store(tmp_path, monkeypatch):
    """Every compressed search could be an exact search, which no other test would notice."""
    index = begin(tmp_path / "index")
    index.add(unit(9, 0), named("a", 9))
    index.build_store("bits")
    searches = []
    search = BitStore.search
    monkeypatch.setattr(BitStore, "search", lambda *arguments: searches.append(1) or search(*arguments))
    index.search(unit(1, 1), 3)
    assert searches == [1]


@pytest.mark.parametrize("change", ["added", "removed"])
def test_a_reader_opens_a_replaced_store_only_if_it_covers_the_reader_s_rows(tmp_path, monkeypatch, change):
    """Stores are opened by the first search: the new one is used, but not if it lacks rows that the reader has."""
    index = begin(tmp_path / "index")
    index.add(unit(2 * SHARD, 0), named("a", 2 * SHARD))
    index.build_store("bits")
    reader = PlaceIndex.open(index.folder)
    monkeypatch.setattr(derived_store, "LAG_ROWS", 0)
    monkeypatch.setattr(derived_store, "LAG_SHARE", 0)
    index.add(unit(1, 1), named("b", 1)) if change == "added" else index.remove(["a3.jpg"])
    index.build_store()
    searches, search = [], BitStore.search
    monkeypatch.setattr(BitStore, "search", lambda *arguments: searches.append(1) or search(*arguments))
    check_exact(reader)
    assert searches == ([1] if change == "added" else [])


def test_a_damaged_store_is_not_used_and_is_built_again(tmp_path, caplog):
    index = begin(tmp_path / "index")
    index.add(unit(9, 0), named("a", 9))
    index.build_store("bits")
    store = next(index.folder.glob("derived-*"))
    (store / "bits.npy").write_bytes(b"bits")
    opened = PlaceIndex.open(index.folder)
    assert opened.store_is_fresh is False and "The search is exact" in caplog.text
    check_exact(opened)
    opened.build_store()
    assert PlaceIndex.open(index.folder).store_is_fresh


def test_a_full_disk_leaves_no_incomplete_store(tmp_path, monkeypatch):
    index = begin(tmp_path / "index")
    index.add(unit(9, 0), named("a", 9))
    index.flush()

    def full(store, path):
        path.mkdir()
        (path / "bits.npy").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="The disk is full"):
        patched.setattr(BitStore, "save", full)
        index.build_store("bits")
    assert not list(index.folder.glob("derived-*"))
    check_exact(PlaceIndex.open(index.folder))
    (index.folder / "derived-0123456789abcdef.bits.tmp").mkdir()  # of a run that was killed
    index.build_store()
    assert [path.name[-5:] for path in index.folder.glob("derived-*")] == [".bits"]


def test_another_compression_replaces_the_store(tmp_path):
    index = begin(tmp_path / "index")
    index.build_store("bits")
    assert index.store_is_fresh is None  # of no rows
    index.add(unit(9, 0), named("a", 9))
    for kind in KINDS:
        index.build_store(kind)
        assert [path.suffix for path in index.folder.glob("derived-*")] == [f".{kind}"]
    index.build_store("none")
    assert index.store_is_fresh is None and not list(index.folder.glob("derived-*"))
    with pytest.raises(ValueError, match="Expected a compression of none, half, int8, bits, got 'zip'"):
        index.build_store("zip")


def test_every_change_of_an_index_ends_with_a_fresh_store(tmp_path):
    """Building, updating, adding, removing, compacting, replacing: each ends with a store of its rows."""
    table, out = write_photos(tmp_path / "photos", 9), tmp_path / "index"
    run = {"encoder": BytesEncoder(), "shard_size": SHARD}
    assert index_photos(table, out, **run, compression="int8")[0].store_is_fresh
    write_photos(tmp_path / "more", 3)
    (tmp_path / "more" / "00.jpg").write_bytes(b"another photo")
    add_photos(out, [tmp_path / "more"], BytesEncoder())
    assert PlaceIndex.open(out).store_is_fresh
    commands = (["remove", str(out), "03.jpg"], ["compact", str(out)])
    for command in commands:
        assert CliRunner().invoke(app, command).exit_code == 0
        assert PlaceIndex.open(out).store_is_fresh
    info = json.loads(CliRunner().invoke(app, ["info", str(out), "--json"]).stdout)
    assert (info["compression"], info["store_is_fresh"]) == ("int8", True)
    index_photos(table, out, **run)
    assert PlaceIndex.open(out).compression == "int8" and PlaceIndex.open(out).store_is_fresh
    index_photos(table, out, **run, overwrite=True, compression="bits")
    assert PlaceIndex.open(out).store_is_fresh and len(list(out.glob("derived-*"))) == 1
    check_exact(PlaceIndex.open(out))
    with pytest.raises(ValueError, match="got 'zip'"):
        index_photos(table, tmp_path / "none", **run, compression="zip")
    assert not (tmp_path / "none").exists()
