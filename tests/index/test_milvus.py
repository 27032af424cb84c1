"""An index whose rows Milvus searches finds the rows of exact search, after any change of the index or its collection."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.index import PlaceIndex, derived_store
from d2vpr_hf.index.manifest import read_manifest
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos, remove_photos
from d2vpr_hf.stores import milvus
from d2vpr_hf.stores.milvus import MilvusStore
from d2vpr_hf.utils.confirmed_names import confirm
from tests.index.remote_stores import DAMAGES, check_damage, check_killed_build, record_searches, redirect
from tests.index.test_compression import check_exact, named, unit
from tests.index.workers import SHARD, BytesEncoder, begin, write_photos

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


@pytest.fixture
def searches(monkeypatch):
    return record_searches(monkeypatch, MilvusStore)


def collections(uri):
    return pymilvus.MilvusClient(str(uri)).list_collections()


def with_rows(folder, uri, count=23):
    index = begin(folder)
    index.add(unit(count, 0), named("a", count))
    index.build_store(store="milvus", uri=str(uri))
    return index


def test_milvus_finds_the_rows_of_exact_search(tmp_path, searches, monkeypatch):
    """With and without a mask, opened again, with pending rows, after removals, with a lagging collection and a new one."""
    uri = tmp_path / "places.db"
    with_rows(tmp_path / "index", uri)
    opened = PlaceIndex.open(tmp_path / "index")
    check_exact(opened)
    check_exact(opened, np.arange(23) % 3 > 0)
    assert len(searches) == 2
    opened.add(unit(SHARD - 2, 1), named("b", SHARD - 2))  # pending
    check_exact(opened)
    opened.remove(["a3.jpg", "b1.jpg"])
    assert opened.store_is_fresh and opened.info()["store_lag"] == 1 + SHARD - 3
    check_exact(opened)
    check_exact(PlaceIndex.open(tmp_path / "index"), np.arange(len(opened)) % 3 > 0)
    assert len(searches) == 5
    before = collections(uri)
    monkeypatch.setattr(derived_store, "LAG_ROWS", 1)
    opened.build_store()
    assert opened.info()["store_lag"] == 0 and opened.verify() == []
    check_exact(opened)
    assert len(collections(uri)) == 1 and collections(uri) != before  # the old one is not left there


def test_every_change_of_an_index_keeps_its_collection(tmp_path, searches):
    """Building, adding, removing and updating keep the store that the index records; `d2vpr info` names the store."""
    table, out = write_photos(tmp_path / "photos", 9), tmp_path / "index"
    uri = tmp_path / "places.db"
    run = {"encoder": BytesEncoder(), "shard_size": SHARD}
    assert index_photos(table, out, **run, store="milvus", uri=str(uri))[0].store_is_fresh
    write_photos(tmp_path / "more", 3)
    (tmp_path / "more" / "00.jpg").write_bytes(b"another photo")
    add_photos(out, [tmp_path / "more"], BytesEncoder())
    remove_photos(out, ["03.jpg"])
    check_exact(PlaceIndex.open(out))
    index_photos(table, out, **run)
    check_exact(PlaceIndex.open(out))
    assert len(searches) == 2 and len(collections(uri)) == 1
    found = json.loads(CliRunner().invoke(app, ["info", str(out), "--json"]).stdout)
    assert (found["store"], found["store_uri"], found["store_is_fresh"]) == ("milvus", str(uri), True)


def test_collections_that_are_no_longer_used_are_removed(tmp_path, searches):
    """The folder and the collection of a store that is no longer used are removed."""
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    index = with_rows(tmp_path / "index", first)
    index.build_store(store="milvus", uri=str(second))
    assert index.store_is_fresh and collections(first) == [] and len(collections(second)) == 1
    check_exact(index)
    assert searches == [5]
    index.build_store("bits", store="faiss")
    assert collections(second) == [] and [path.suffix for path in index.folder.glob("derived-*")] == [".bits"]
    check_exact(index)
    assert searches == [5] and index.info()["store"] == "faiss"
    index.build_store("none")
    assert not list(index.folder.glob("derived-*"))


def test_a_manifest_without_milvus_has_no_entry_for_it(tmp_path):
    """Indexes that were written before must still open, and their bytes must not change."""
    index = begin(tmp_path / "index")
    index.add(unit(3, 0), named("a", 3))
    index.flush()
    assert "store_uri" not in json.loads((index.folder / "manifest.json").read_text())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_collection_that_cannot_be_used_is_named_and_filled_again(tmp_path, searches, caplog, damage):
    """A search must not find wrong rows: it is exact and logs that, and the next build fills a collection.

    A collection that holds other rows than the index sent there is not dropped.
    """
    uri = tmp_path / "db" / "places.db"
    uri.parent.mkdir()
    index = with_rows(tmp_path / "index", uri)
    (collection,) = collections(uri)
    if damage == "unreachable":
        redirect(index, "milvus.json", str(tmp_path / "nowhere" / "places.db"), {"collection": collection})
    else:
        client = pymilvus.MilvusClient(str(uri))
        client.drop_collection(collection)
        if damage == "of other rows":
            MilvusStore(unit(5, 3), str(uri), collection)
    check_damage(index, damage, searches, caplog)
    assert len(collections(uri)) == (2 if damage == "of other rows" else 1)
    assert (collection in collections(uri)) == (damage == "of other rows")


def test_without_its_server_an_index_is_searched_exactly(tmp_path, caplog):
    index = with_rows(tmp_path / "index", tmp_path / "places.db")
    client = pymilvus.MilvusClient(str(tmp_path / "places.db"))
    client.drop_collection(client.list_collections()[0])
    with caplog.at_level(logging.WARNING):
        check_exact(index)
    assert "The search is exact" in caplog.text


def test_a_killed_build_leaves_no_collection(tmp_path, monkeypatch):
    """If rows changed meanwhile, the next build fills another collection: the folder must record the unfinished one."""
    uri = str(tmp_path / "places.db")
    check_killed_build(tmp_path / "index", monkeypatch, lambda: collections(uri), store="milvus", uri=uri)


def test_an_index_that_is_replaced_leaves_no_collection(tmp_path):
    """The new manifest must name the data of the old one, or nothing would ever remove them."""
    uri = tmp_path / "places.db"
    with_rows(tmp_path / "index", uri)
    with begin(tmp_path / "index", overwrite=True) as index:
        index.add(unit(3, 1), named("b", 3))
        assert len(collections(uri)) == 1
    assert collections(uri) == []


def test_a_collection_with_the_first_rows_is_removed(tmp_path, caplog):
    """A process that was killed leaves them; the collection is recorded, and nothing else would remove it."""
    uri = tmp_path / "places.db"
    index = with_rows(tmp_path / "index", uri)
    (collection,) = collections(uri)
    pymilvus.MilvusClient(str(uri)).drop_collection(collection)
    MilvusStore(unit(23, 0).astype(np.float16)[:5], str(uri), collection)
    index.build_store("none", store="faiss")
    assert collections(uri) == [] and "other rows" not in caplog.text


def test_data_recorded_by_an_earlier_version_are_removed(tmp_path):
    """Their checksum is one hash of all sampled rows."""
    uri = str(tmp_path / "places.db")
    rows = unit(23, 0)
    MilvusStore(rows, uri, "d2vpr_places_old")
    confirm("addresses", uri)
    MilvusStore.discard(uri, "old", milvus._old_checksum(23, {row: rows[row] for row in milvus.sampled_rows(23)}))
    assert collections(uri) == []


def test_the_present_collection_stays_until_the_new_one_is_complete(tmp_path, monkeypatch):
    """Readers search it meanwhile."""
    uri = tmp_path / "places.db"
    index = with_rows(tmp_path / "index", uri)
    (old,) = collections(uri)
    fill, present = MilvusStore._fill, []
    monkeypatch.setattr(MilvusStore, "_fill", lambda *arguments: present.extend(collections(uri)) or fill(*arguments))
    with index._state.writing():
        index._state.rebuild_store()
    assert present == [old] and len(collections(uri)) == 1 and old not in collections(uri)
    assert len(read_manifest(index.folder).service_data) == 1
    check_exact(index)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--store", "milvus"], "give `--uri places.db` or"),
        (["--uri", "places.db"], "give `--store milvus` or `--store pgvector` with `--uri`"),
        (["--store", "milvus", "--uri", "places"], "Expected a file that ends in .db, or an address"),
        (["--store", "milvus", "--uri", "https://me:hush@host:19530"], "Set MILVUS_TOKEN to `user:password`"),
        (["--store", "milvus", "--uri", "https://host:19530?token=hush"], "Set MILVUS_TOKEN to `user:password`"),
    ],
)
def test_invalid_store_options_are_refused_before_photos_are_encoded(tmp_path, options, match):
    write_photos(tmp_path / "photos", 2)
    result = CliRunner().invoke(app, ["index", str(tmp_path / "photos"), "--out", str(tmp_path / "index"), *options])
    assert isinstance(result.exception, ValueError) and match in str(result.exception)
    assert "hush" not in str(result.exception) and not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("store", "uri", "compression", "match"),
    [
        ("chroma", None, None, "Expected a store of faiss, milvus, pgvector, got 'chroma'"),
        ("milvus", "a.db", "zip", "Expected a compression of none"),
    ],
)
def test_unknown_stores_and_compressions_are_refused(store, uri, compression, match):
    """The command line refuses these words itself; Python callers must not get further with them."""
    with pytest.raises(ValueError, match=match):
        derived_store.check_store(store, uri, compression)


def test_milvus_refuses_a_compression(tmp_path):
    index = with_rows(tmp_path / "index", tmp_path / "places.db")
    with pytest.raises(ValueError, match=r"omit `compression=\"bits\"`, or give `store=\"faiss\"`"):
        index.build_store("bits")


def test_a_token_stays_in_the_environment(tmp_path, monkeypatch):
    """It is passed to the client, and is not in any file of the index."""
    monkeypatch.setenv("MILVUS_TOKEN", "root:hush-hush")
    seen, client = [], pymilvus.MilvusClient
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda uri, token: seen.append(token) or client(uri))
    index = with_rows(tmp_path / "index", tmp_path / "places.db")
    assert set(seen) == {"root:hush-hush"}
    files = [path for path in index.folder.rglob("*") if path.is_file()]
    assert files and not any(b"hush-hush" in path.read_bytes() for path in files)


def test_the_file_of_milvus_is_found_from_any_folder(tmp_path, monkeypatch):
    """A relative path would make an empty database in another current folder."""
    monkeypatch.chdir(tmp_path)
    with_rows(tmp_path / "index", Path("places.db"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert PlaceIndex.open(tmp_path / "index").store_is_fresh
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("row", [-1, 23, 0])
def test_rows_that_a_server_cannot_have_are_not_returned(tmp_path, monkeypatch, caplog, row):
    """No row, a row beyond the end, and a row twice: the search is exact, with one warning, and the next change fills again."""
    index = with_rows(tmp_path / "index", tmp_path / "places.db")
    with monkeypatch.context() as patched:
        patched.setattr(MilvusStore, "_candidates", lambda store, queries, wanted, _: np.full((len(queries), wanted), row))
        check_exact(index)
        check_exact(index)
    assert caplog.text.count("The search is exact") == 1 and index.store_is_fresh is False
    index.remove(["a3.jpg"])
    assert index.store_is_fresh
    check_exact(index)
