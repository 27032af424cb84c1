"""An index from elsewhere acts on no database of ours: it drops no collection, fills none, and gets no token."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from d2vpr_hf.index import IndexSettings, PlaceIndex, manifest, repair_index
from d2vpr_hf.places import Place
from d2vpr_hf.utils import confirmed_names
from tests.index.remote_stores import check_not_contacted, forget_addresses
from tests.index.test_compression import check_exact
from tests.index.test_milvus import collections, with_rows

pymilvus = pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


@pytest.fixture
def mine(tmp_path):
    """Return the path of our database, with a collection of our own."""
    uri = str(tmp_path / "mine.db")
    client = pymilvus.MilvusClient(uri)
    client.create_collection("precious", dimension=4)
    client.insert("precious", [{"id": 1, "vector": [1.0, 2.0, 3.0, 4.0]}])
    client.close()
    return uri


@pytest.fixture
def connections(monkeypatch):
    """Return a list of the addresses and tokens of all connections."""
    entries, client = [], pymilvus.MilvusClient
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda uri, token="": entries.append((uri, token)) or client(uri))
    return entries


def begin(folder):
    with PlaceIndex.create(folder, IndexSettings(None, "f" * 64, 8)) as made:
        for number in range(8):
            made.add(np.eye(8)[number], Place(f"{number}.jpg"))
    return folder


def plant(folder, uri, collection, name="derived-0123456789abcdef.milvus-01234567"):
    (folder / name).mkdir()
    (folder / name / "milvus.json").write_text(json.dumps({"uri": uri, "collection": collection}))
    return name


CHANGES = {
    "remove": lambda folder: PlaceIndex.open(folder).remove(["3.jpg"]),
    "add": lambda folder: PlaceIndex.open(folder).add(np.eye(8)[:1], [Place("new.jpg")]),
    "compact": lambda folder: PlaceIndex.open(folder).compact(),
    "repair": repair_index,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_planted_folder_drops_no_collection(tmp_path, mine, change):
    folder = begin(tmp_path / "index")
    confirmed_names.confirm("addresses", mine)
    plant(folder, mine, "precious")
    plant(folder, mine, "precious", "derived-0123456789abcdef.milvus-01234567.tmp")
    CHANGES[change](folder)
    assert collections(mine) == ["precious"]


def test_a_manifest_of_a_stranger_drops_no_collection_with_other_rows(tmp_path, mine, caplog):
    """Even if it names a collection of another index of ours, at an address that we confirmed."""
    other = with_rows(tmp_path / "other", mine)
    (data,) = manifest.read_manifest(other.folder).service_data
    folder = begin(tmp_path / "index")
    name = plant(folder, mine, f"d2vpr_places_{data.name}")
    forged = manifest.ServiceData(name, "milvus", mine, data.name, "0" * 64)
    (folder / "manifest.json").write_text(replace(manifest.read_manifest(folder), service_data=(forged,)).to_text())
    PlaceIndex.open(folder).remove(["3.jpg"])
    assert set(collections(mine)) == {"precious", f"d2vpr_places_{data.name}"}
    assert "holds other rows" in caplog.text and not (folder / name).exists()


@pytest.mark.parametrize("name", ["../x", "a;drop", "", "A" * 80])
def test_a_manifest_with_an_odd_name_is_refused(name):
    with pytest.raises(ValueError, match="data of a service"):
        manifest.ServiceData("derived-0123456789abcdef.milvus-01234567", "milvus", "a.db", name, "0" * 64)


def test_an_address_of_an_index_from_elsewhere_is_not_contacted(tmp_path, mine, connections, monkeypatch, caplog):
    """Neither for a search nor for a change; the rows are searched exactly, and the message says how to confirm it."""
    folder = with_rows(tmp_path / "index", mine).folder
    before = collections(mine)
    forget_addresses(monkeypatch, tmp_path / "another user")
    monkeypatch.setenv("MILVUS_TOKEN", "root:hush-hush")
    connections.clear()
    check_not_contacted(folder, mine, connections, caplog)
    assert collections(mine) == before


def test_an_address_in_the_environment_is_used_with_the_token(tmp_path, mine, connections, monkeypatch):
    folder = with_rows(tmp_path / "index", mine).folder
    forget_addresses(monkeypatch, tmp_path / "another user")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2VPR_ADDRESSES", "http://localhost:1, mine.db")  # the index records the absolute path
    monkeypatch.setenv("MILVUS_TOKEN", "root:hush-hush")
    connections.clear()
    check_exact(PlaceIndex.open(folder))
    assert set(connections) == {(mine, "root:hush-hush")}


def test_an_address_that_was_given_once_stays_confirmed(tmp_path, mine, connections, monkeypatch):
    """Another process of the same user reads it from the user's file, not from the index."""
    monkeypatch.setenv(confirmed_names.FOLDER_VARIABLE, str(tmp_path / "config"))
    folder = with_rows(tmp_path / "index", mine).folder
    forget_addresses(monkeypatch, tmp_path / "config")
    connections.clear()
    check_exact(PlaceIndex.open(folder))
    assert connections
    shutil.rmtree(tmp_path / "config")
    connections.clear()
    check_exact(PlaceIndex.open(folder))
    assert not connections


def test_a_damaged_file_of_names_confirms_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(confirmed_names.FOLDER_VARIABLE, str(tmp_path))
    for content in ("[" * 100_000, '{"addresses": 3}', "\x00", '["a.db"]'):
        confirmed_names.confirmed_file().write_text(content)
        assert not confirmed_names.is_confirmed("addresses", "b.db")
    assert caplog.text.count("cannot be read") == 4
