"""An index whose vector store is a table of PostgreSQL: exact answers after every change, and no surprise for a database."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from d2vpr_hf.index import PlaceIndex, derived_store
from d2vpr_hf.index.manifest import read_manifest
from d2vpr_hf.places import Place
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos, remove_photos
from d2vpr_hf.stores.pgvector import PgVectorStore
from tests.command_line import run
from tests.index.remote_stores import (
    DAMAGES,
    check_damage,
    check_killed_build,
    check_not_contacted,
    forget_addresses,
    record_searches,
    redirect,
)
from tests.index.test_compression import check_exact, named, unit
from tests.index.workers import SHARD, BytesEncoder, begin, write_photos
from tests.postgres_server import running_postgres

psycopg = pytest.importorskip("psycopg")


@pytest.fixture(scope="module")
def server():
    with running_postgres() as server:
        yield server


@pytest.fixture
def uri(server):
    """The address of a database without tables."""
    with psycopg.connect(server.uri, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return server.uri


@pytest.fixture
def searches(monkeypatch):
    return record_searches(monkeypatch, PgVectorStore)


def tables(uri):
    with psycopg.connect(uri) as connection:
        return [
            name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        ]


def with_rows(folder, uri):
    index = begin(folder)
    places = [Place(f"a{number}.jpg", 48.0 + number / 100, 11.0, timestamp=str(1000.0 + number)) for number in range(23)]
    index.add(unit(23, 0), places)
    index.build_store(store="pgvector", uri=uri)
    return index


def test_it_finds_the_rows_of_exact_search_after_every_change(tmp_path, uri, searches, monkeypatch):
    index = with_rows(tmp_path / "index", uri)
    before = tables(uri)
    assert len(before) == 1 and before[0].startswith("d2vpr_places_")
    opened = PlaceIndex.open(index.folder)
    assert opened.store_is_fresh and opened.info()["store"] == "pgvector"
    check_exact(opened)
    check_exact(opened, np.arange(23) % 3 > 0)
    opened.add(unit(SHARD - 2, 1), named("b", SHARD - 2))  # pending
    check_exact(opened)
    opened.remove(["a3.jpg", "b1.jpg"])
    check_exact(opened)
    assert len(searches) == 4
    monkeypatch.setattr(derived_store, "LAG_ROWS", 1)
    opened.build_store()
    assert opened.info()["store_lag"] == 0 and opened.verify() == []
    check_exact(opened)
    assert len(tables(uri)) == 1 and tables(uri) != before  # the old one is dropped
    with psycopg.connect(uri) as connection:
        rows = connection.execute(f"SELECT path, latitude, seconds FROM {tables(uri)[0]} ORDER BY row LIMIT 4").fetchall()
    assert rows == [(f"a{number}.jpg", 48.0 + number / 100, 1000.0 + number) for number in (0, 1, 2, 4)]
    opened.build_store("none", store="faiss")
    assert tables(uri) == [] and not list(index.folder.glob("derived-*"))


def test_photos_are_indexed_added_and_removed(tmp_path, uri, searches):
    table, out = write_photos(tmp_path / "photos", 9), tmp_path / "index"
    assert index_photos(table, out, encoder=BytesEncoder(), shard_size=SHARD, store="pgvector", uri=uri)[0].store_is_fresh
    write_photos(tmp_path / "more", 3)
    (tmp_path / "more" / "00.jpg").write_bytes(b"another photo")
    add_photos(out, [tmp_path / "more"], BytesEncoder())
    remove_photos(out, ["03.jpg"])
    check_exact(PlaceIndex.open(out))
    assert searches == [5] and len(tables(uri)) == 1
    status, text, _ = run("info", out, "--json")
    values = json.loads(text)
    assert status == 0 and (values["store"], values["store_uri"]) == ("pgvector", uri)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_table_that_cannot_be_used_is_named_and_written_again(tmp_path, uri, searches, caplog, damage):
    """A search must not find wrong rows. A table with other rows than the index sent there is not dropped."""
    index = with_rows(tmp_path / "index", uri)
    (table,) = tables(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        if damage == "gone":
            connection.execute(f"DROP TABLE {table}")
        elif damage == "of other rows":
            connection.execute(f"DELETE FROM {table} WHERE row > 4")
            connection.execute(f"UPDATE {table} SET descriptor = l2_normalize(descriptor + descriptor * descriptor)")
    if damage == "unreachable":
        redirect(index, "pgvector.json", uri.replace("host=", "host=/nowhere"), {"table": table})
    check_damage(index, damage, searches, caplog)
    assert (table in tables(uri)) == (damage == "of other rows")


def test_a_server_that_stops_is_reported_once_and_used_again(tmp_path, server, uri, caplog):
    index = with_rows(tmp_path / "index", uri)
    check_exact(index)
    server.stop()
    try:
        with caplog.at_level(logging.WARNING):
            check_exact(index)
            check_exact(index)
        assert caplog.text.count("The search is exact") == 1 and "The next search tries the store again" in caplog.text
    finally:
        server.start()
    assert len(tables(uri)) == 1
    check_exact(index)


def test_a_killed_build_leaves_no_table(tmp_path, uri, monkeypatch):
    check_killed_build(tmp_path / "index", monkeypatch, lambda: tables(uri), store="pgvector", uri=uri)


def test_an_address_of_an_index_from_elsewhere_is_not_contacted(tmp_path, uri, monkeypatch, caplog):
    """Neither for a search nor for a change: a password would reach a stranger's server."""
    folder = with_rows(tmp_path / "index", uri).folder
    before = tables(uri)
    forget_addresses(monkeypatch, tmp_path / "another user")
    connections, connect = [], psycopg.connect
    monkeypatch.setattr(psycopg, "connect", lambda *args, **options: connections.append(args) or connect(*args, **options))
    check_not_contacted(folder, uri, connections, caplog)
    assert tables(uri) == before
    monkeypatch.setenv("D2VPR_ADDRESSES", f"http://localhost:1, {uri}")
    with_store = PlaceIndex.open(with_rows(tmp_path / "second", uri).folder)
    check_exact(with_store)
    assert connections


def test_a_manifest_of_a_stranger_drops_no_table_with_other_rows(tmp_path, uri, caplog):
    other = with_rows(tmp_path / "other", uri)
    (data,) = read_manifest(other.folder).service_data
    index = begin(tmp_path / "index")
    index.add(unit(8, 4), named("c", 8))
    index.flush()
    name = "derived-0123456789abcdef.pgvector-01234567"
    (index.folder / name).mkdir()
    forged = dataclasses.replace(data, folder=name, checksum="0" * 64)
    manifest = dataclasses.replace(read_manifest(index.folder), service_data=(forged,))
    (index.folder / "manifest.json").write_text(manifest.to_text())
    PlaceIndex.open(index.folder).remove(["c3.jpg"])
    assert tables(uri) == [f"d2vpr_places_{data.name}"] and "holds other rows" in caplog.text


def test_the_address_is_checked_before_photos_are_encoded(tmp_path):
    for address, match in (("places.db", "postgresql://USER@HOST/DATABASE"), ("postgresql://me:hush@host/maps", "PGPASSWORD")):
        status, _, err = run("index", tmp_path, "--out", tmp_path / "index", "--store", "pgvector", "--uri", address)
        assert status == 1 and match in err
    status, _, err = run("index", tmp_path, "--out", tmp_path / "index", "--store", "pgvector")
    assert status == 1 and "--uri" in err
