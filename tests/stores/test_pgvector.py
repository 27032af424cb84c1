"""PostgreSQL with pgvector and exact search must give the same answers. Skipped where there is no such server."""

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from d2vpr_hf.places import Place, PlaceFilter
from d2vpr_hf.stores import open_store
from d2vpr_hf.stores import pgvector as pgvector_store
from d2vpr_hf.stores.exact import exact_search
from d2vpr_hf.stores.pgvector import PgVectorStore, row_condition
from d2vpr_hf.stores.place_sql import place_conditions
from d2vpr_hf.stores.postgres import address_key, connect, has_table, write_table
from d2vpr_hf.utils.confirmed_names import confirm
from tests.postgres_server import running_postgres
from tests.stores.drawn_rows import TIES, draw, unit


@pytest.fixture(scope="module")
def server():
    with running_postgres() as server:
        yield server


def places_table(count):
    return pa.table({"path": [f"{number}.jpg" for number in range(count)]})


def build(server, path, descriptors, name, options=""):
    uri = server.uri + options
    confirm("addresses", uri)
    return PgVectorStore.build(path, descriptors, uri, name, places_table(len(descriptors)))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_it_finds_the_rows_of_exact_search(server, tmp_path, dtype, monkeypatch):
    """With and without masks, few rows and runs of many."""
    database = draw(3000, 64).astype(dtype)
    database[1::100] = database[::100]
    store = build(server, tmp_path, database, f"rows_{dtype}")
    queries = np.concatenate([database[:150:10].astype(np.float32), draw(5, 64, seed=1)])
    masks = [None, *(np.arange(3000) % 3 == 0, np.arange(3000) > 80, np.arange(3000) == 77, np.zeros(3000, bool))]
    for few in (10_000, 10):
        monkeypatch.setattr(pgvector_store, "_FEW_ROWS", few)
        for allowed in masks:
            expected, expected_rows = exact_search(queries, database, 10, allowed)
            distances, rows = store.search(queries, 10, allowed)
            assert np.array_equal(rows, expected_rows) and np.array_equal(distances, expected)
    store.close()


def test_threads_share_a_store(server, tmp_path):
    """A service or a Space searches from several threads."""
    store = build(server, tmp_path, draw(3000, 64), "threads")
    queries = draw(20, 64, seed=1)
    expected, expected_rows = store.search(queries, 5)
    with ThreadPoolExecutor(4) as pool:
        for distances, rows in pool.map(lambda _: store.search(queries, 5), range(20)):
            assert np.array_equal(rows, expected_rows) and np.array_equal(distances, expected)
    store.close()


@pytest.mark.parametrize("kind", TIES)
def test_it_closes_ties_as_exact_search_does(server, tmp_path, kind):
    database = TIES[kind]()
    queries = np.concatenate(
        [database[50:52], database[7:8], unit(np.random.default_rng(5).standard_normal((1, database.shape[1])))]
    )
    store = build(server, tmp_path, database, f"ties_{list(TIES).index(kind)}")
    for allowed in (None, np.arange(600) % 3 > 0, np.arange(600) == 60):
        for k in (1, 10, 584, 700):
            expected, expected_rows = exact_search(queries, database, k, allowed)
            distances, rows = store.search(queries, k, allowed)
            assert np.array_equal(rows, expected_rows) and np.array_equal(distances, expected), k
    store.close()


@pytest.mark.parametrize("index", ["hnsw", "ivfflat"])
@pytest.mark.parametrize(("dtype", "width"), [("float16", 64), ("float32", 64), ("float32", 2100)])
def test_an_approximate_index_is_used_and_its_candidates_have_exact_distances(server, tmp_path, index, dtype, width):
    database = draw(1000 if width > 64 else 3000, width).astype(dtype)
    name = f"{index}_{dtype}_{width}"
    store = build(server, tmp_path, database, name, f"&index={index}")
    queries = draw(10, width, seed=1)
    expected, expected_rows = exact_search(queries, database, 5)
    distances, rows = store.search(queries, 5)
    assert (rows == expected_rows).mean() > 0.8
    np.testing.assert_array_equal(distances[rows == expected_rows], expected[rows == expected_rows])
    allowed = np.arange(len(database)) % 10 == 3
    assert allowed[store.search(queries, 5, allowed)[1]].all()
    store.close()  # the server counts its scans then
    table = f"d2vpr_places_{name}"
    scans, deadline = 0, time.monotonic() + 20
    with connect(server.uri) as connection:
        statement = "SELECT indexdef, indexname FROM pg_indexes WHERE tablename = %s AND indexdef LIKE %s"
        definition, index_name = connection.execute(statement, [table, f"%{index}%descriptor%"]).fetchone()
        while not scans and time.monotonic() < deadline:
            statement = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s"
            (scans,) = connection.execute(statement, [index_name]).fetchone()
    assert scans > 0 and ("halfvec" in definition) == (dtype == "float16" or width > 2000)


def test_wide_descriptors_are_searched_exactly_with_a_warning(server, tmp_path, caplog):
    database = draw(40, 4100)
    store = build(server, tmp_path, database, "wide", "&index=hnsw")
    assert "take up to 4000 numbers, and the descriptors have 4100" in caplog.text
    assert np.array_equal(store.search(database[:5], 3)[1], exact_search(database[:5], database, 3)[1])
    store.close()
    with pytest.raises(ValueError, match="stores vectors of up to 16000 numbers, and the descriptors have 16001"):
        build(server, tmp_path, np.zeros((2, 16_001), np.float32), "wider")
    with pytest.raises(ValueError, match=r"Omit `\?index=hnsw`"):
        write_table(server.uri, "wide_export", database, places_table(40), metadata={}, index="hnsw")
    with connect(server.uri) as connection:
        assert not has_table(connection, "wide_export")  # a table that failed leaves nothing


def test_a_store_that_is_opened_again_finds_the_same_rows(server, tmp_path):
    database = draw(200, 16)
    store = build(server, tmp_path / "a", database, "again")
    expected = store.search(database[:3], 5)[1]
    store.save(tmp_path / "a")
    store.close()
    again = open_store(tmp_path / "a", database)
    assert np.array_equal(again.search(database[:3], 5)[1], expected) and again.info.count == 200
    again.close()
    with pytest.raises(ValueError, match="does not fit"):
        open_store(tmp_path / "a", database[:100])
    PgVectorStore.discard(server.uri, "again", PgVectorStore.checksum(database))
    with pytest.raises(FileNotFoundError, match="is gone"):
        open_store(tmp_path / "a", database)


def test_only_tables_with_the_rows_that_were_sent_are_dropped(server, tmp_path):
    database = draw(30, 8)
    build(server, tmp_path, database, "mine").close()
    with pytest.raises(ValueError, match="already"):
        build(server, tmp_path, database, "mine")
    with pytest.raises(ValueError, match="holds other rows"):
        PgVectorStore.discard(server.uri, "mine", PgVectorStore.checksum(draw(30, 8, seed=1)))
    with connect(server.uri) as connection:
        connection.execute("CREATE TABLE d2vpr_places_theirs (row bigint, descriptor vector(8))")
        with pytest.raises(ValueError, match="holds other rows"):
            PgVectorStore.discard(server.uri, "theirs", PgVectorStore.checksum(database))
        PgVectorStore.discard(server.uri, "mine", PgVectorStore.checksum(database))
        PgVectorStore.discard(server.uri, "mine", PgVectorStore.checksum(database))  # gone already
        assert has_table(connection, "d2vpr_places_theirs") and not has_table(connection, "d2vpr_places_mine")


def test_a_server_that_was_restarted_is_used_again(server, tmp_path):
    database = draw(50, 8)
    store = build(server, tmp_path, database, "restarted")
    expected = store.search(database[:3], 5)[1]
    server.stop()
    for _ in range(2):
        with pytest.raises(ConnectionError, match="did not answer"):
            store.search(database[:3], 5)
    server.start()
    assert np.array_equal(store.search(database[:3], 5)[1], expected)
    store.close()


@pytest.mark.parametrize(
    ("uri", "match"),
    [
        ("places.db", "Expected an address such as postgresql"),
        ("http://localhost", "Expected an address such as postgresql"),
        ("postgresql://me:hush@host/maps", "Set PGPASSWORD"),
        ("postgresql://host/maps?password=hush", "has the options password"),
        ("postgresql://host/maps?sslkey=a&service=b", "has the options service, sslkey"),
        ("postgresql://host/maps?index=flat", "Expected index=hnsw or index=ivfflat"),
    ],
)
def test_addresses_with_secrets_are_refused(uri, match):
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=match):
        address_key(uri)


def test_conditions_on_rows_mean_the_mask():
    assert row_condition(None) == ("", [])
    assert row_condition(np.array([False, True, True, False, True])) == ("WHERE row = ANY(%s)", [[1, 2, 4]])
    many = np.arange(20_003) % 20_003 > 0
    assert row_condition(many) == ("WHERE row <@ %s::int8multirange", ["{[1,20002]}"])


FILTERS = {
    "near": PlaceFilter(near=(48.0, 11.0, 700.0)),
    "near the date line": PlaceFilter(near=(-16.5, 179.9999, 40_000.0)),
    "near the pole": PlaceFilter(near=(89.99, 45.0, 3000.0)),
    "half the globe": PlaceFilter(near=(10.0, 20.0, 10_000_000.0)),
    "box": PlaceFilter(box=(47.99, 10.99, 48.003, 11.0)),
    "box over the date line": PlaceFilter(box=(-20.0, 179.5, 0.0, -179.5)),
    "box at 180": PlaceFilter(box=(-20.0, 180.0, 0.0, 180.0)),
    "heading": PlaceFilter(heading=(350.0, 30.0)),
    "negative heading": PlaceFilter(heading=(-370.0, 15.5)),
    "all headings": PlaceFilter(heading=(90.0, 180.0)),
    "since": PlaceFilter(since="2024-05-01T12:00:00Z"),
    "time": PlaceFilter(since=1.71e9, until="2024-06-01"),
    "all": PlaceFilter(near=(48.0, 11.0, 900.0), box=(47.9, 10.9, 48.1, 11.1), heading=(90, 100), since=0.0),
    "none": PlaceFilter(),
}


@pytest.fixture(scope="module")
def globe(server):
    """A table of 3,000 places around Munich, the date line, a pole and everywhere, of which some lack fields."""
    rng = np.random.default_rng(3)
    count = 3000
    kind = np.arange(count) % 4
    latitude = np.choose(
        kind,
        [
            48 + 0.01 * rng.standard_normal(count),
            rng.uniform(-17, -16, count),
            rng.uniform(89.9, 90, count),
            rng.uniform(-90, 90, count),
        ],
    )
    longitude = np.choose(
        kind,
        [
            11 + 0.01 * rng.standard_normal(count),
            rng.uniform(179.5, 180.5, count),
            rng.uniform(-180, 180, count),
            rng.uniform(-180, 180, count),
        ],
    )
    longitude = np.where(longitude > 180, longitude - 360, longitude)
    longitude[1:200:4] = 180.0
    longitude[201:400:4] = -180.0
    places = [
        Place(
            f"{row}.jpg",
            None if row % 11 == 0 else float(latitude[row]),
            None if row % 11 == 0 else float(longitude[row]),
            heading=None if row % 5 == 0 else float(rng.integers(360)),
            timestamp=None if row % 6 == 0 else str(float(rng.integers(1_700_000_000, 1_730_000_000))),
        )
        for row in range(count)
    ]
    columns = {name: [getattr(place, name) for place in places] for name in ("path", "latitude", "longitude", "heading")}
    seconds = [None if place.timestamp is None else float(place.timestamp) for place in places]
    table = pa.table({**columns, "seconds": pa.array(seconds, pa.float64())})
    write_table(server.uri, "globe", draw(count, 8), table, metadata={})
    return places


@pytest.mark.parametrize("name", FILTERS)
def test_filters_as_sql_mean_the_filters(server, globe, name, caplog):
    """By another formula on another machine: no place of these is so near to a limit that rounding decides."""
    with caplog.at_level(logging.ERROR):
        allowed = FILTERS[name].allowed(globe)
    condition, values = place_conditions(FILTERS[name])
    with connect(server.uri) as connection:
        rows = [row for (row,) in connection.execute(f"SELECT row FROM globe WHERE {condition} ORDER BY row", values)]
    expected = np.arange(len(globe)) if allowed is None else np.flatnonzero(allowed)
    assert rows == expected.tolist()
    assert name == "box at 180" or rows


def test_filters_that_are_not_valid_are_refused():
    with pytest.raises(ValueError, match="radius must be above 0"):
        place_conditions(PlaceFilter(near=(0.0, 0.0, -1.0)))


def test_an_existing_table_is_replaced_only_if_it_is_of_this_program(server):
    write_table(server.uri, "twice", draw(5, 8), places_table(5), metadata={"fingerprint": "f"})
    write_table(server.uri, "twice", draw(6, 8), places_table(6), metadata={"fingerprint": "g"})
    with connect(server.uri) as connection:
        assert connection.execute("SELECT count(*) FROM twice").fetchone() == (6,)
        comment = connection.execute("SELECT obj_description('twice'::regclass)").fetchone()[0]
        assert json.loads(comment) == {"d2vpr": {"fingerprint": "g"}}
        connection.execute("CREATE TABLE precious (a int)")
        with pytest.raises(FileExistsError, match="did not write"):
            write_table(server.uri, "precious", draw(5, 8), places_table(5), metadata={})
        assert has_table(connection, "precious")


def test_a_password_is_read_from_the_environment(server, monkeypatch):
    """It is not in the address, and not in errors."""
    monkeypatch.setenv("PGPASSWORD", "hush-hush")
    with pytest.raises(ConnectionError) as raised:
        connect(server.uri.replace("host=", "host=/nowhere"))
    assert "hush" not in str(raised.value) and os.environ["PGPASSWORD"]
