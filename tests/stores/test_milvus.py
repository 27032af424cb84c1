"""Milvus and FAISS must give the same answers. Skipped where the embedded server is not installed; no test needs a network."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2vpr_hf.places import Place
from d2vpr_hf.places.filters import within_heading, within_radius
from d2vpr_hf.stores import build_store, open_store
from d2vpr_hf.stores import milvus as milvus_store
from d2vpr_hf.stores.exact import exact_search
from d2vpr_hf.stores.milvus import MilvusStore, row_expression
from d2vpr_hf.utils.confirmed_names import confirm
from tests.stores.drawn_rows import TIES, draw, equal_rows, unit

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """10,000 places on a grid, 10 m apart, that face four ways; every hundredth descriptor is there twice."""
    database = draw(10_000, 64)
    database[1::100] = database[::100]
    spots = [(10.0 * (row % 100), 10.0 * (row // 100), 90.0 * (row % 4)) for row in range(10_000)]
    places = [Place("", utm_east=east, utm_north=north, heading=heading) for east, north, heading in spots]
    store = MilvusStore(database.astype(np.float16), str(tmp_path_factory.mktemp("milvus") / "places.db"))
    yield database.astype(np.float16), places, store
    store.close()


@pytest.mark.parametrize("kind", ["everything", "radius", "heading", "both", "every third", "one", "none"])
def test_milvus_finds_the_same_ten_rows_as_faiss(town, kind):
    """With and without filters, ties included."""
    database, places, store = town
    near = within_radius(places, Place("prior", utm_east=500.0, utm_north=500.0), 120.0)
    facing = within_heading(places, 350.0, 30.0)
    allowed = {
        "everything": None,
        "radius": near,
        "heading": facing,
        "both": near & facing,
        "every third": np.arange(10_000) % 3 == 0,
        "one": np.arange(10_000) == 77,
        "none": np.zeros(10_000, bool),
    }[kind]
    queries = np.concatenate([database[:150:10].astype(np.float32), draw(5, 64, seed=1)])
    distances, rows = store.search(queries, 10, allowed)
    for compression in ("none", "int8"):  # exact search, and FAISS's scalar quantiser with exact distances
        expected, expected_rows = build_store(database, compression).search(queries, 10, allowed)
        assert np.array_equal(rows, expected_rows), compression
        assert np.array_equal(distances, expected), compression


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_expressions_mean_the_mask(mask):
    """Python reads them as Milvus does."""
    expression = row_expression(np.array(mask))
    assert [eval(expression, {"row": row}) for row in range(len(mask))] == mask


def test_a_store_that_is_opened_again_finds_the_same_rows(tmp_path):
    database = draw(200, 16)
    store = MilvusStore(database, str(tmp_path / "places.db"))
    expected = store.search(database[:3], 5)[1]
    store.save(tmp_path / "store")
    store.close()
    confirm("addresses", str(tmp_path / "places.db"))
    again = open_store(tmp_path / "store", database)
    assert np.array_equal(again.search(database[:3], 5)[1], expected)
    assert again.info.count == 200
    again.close()
    with pytest.raises(ValueError, match="does not fit"):
        open_store(tmp_path / "store", database[:100])


def test_a_collection_of_other_rows_is_refused(tmp_path):
    MilvusStore(draw(30, 16), str(tmp_path / "places.db")).close()
    with pytest.raises(ValueError, match="holds 30 rows, the descriptors are 20"):
        MilvusStore(draw(20, 16), str(tmp_path / "places.db"))


def test_a_removed_file_is_filled_again(tmp_path):
    """The server of milvus-lite in this process still had the rows of the removed file."""
    uri = tmp_path / "places.db"
    MilvusStore(draw(30, 16), str(uri)).close()
    while uri.exists():  # the server may still be writing into it
        shutil.rmtree(uri, ignore_errors=True)
    database = draw(20, 16, seed=1)
    store = MilvusStore(database, str(uri))
    assert np.array_equal(store.search(database, 1)[1][:, 0], exact_search(database, database, 1)[1][:, 0])
    store.close()


@pytest.mark.parametrize("kind", TIES)
def test_milvus_closes_ties_as_exact_search_does(tmp_path, kind):
    """Milvus returns any of the rows that are equally near: with more than 16 of them they were not the first rows."""
    database = TIES[kind]()
    queries = np.concatenate(
        [database[50:52], database[7:8], unit(np.random.default_rng(5).standard_normal((1, database.shape[1])))]
    )
    store = MilvusStore(database, str(tmp_path / "places.db"))
    for allowed in (None, np.arange(600) % 3 > 0, np.arange(600) > 80, np.arange(600) == 60):
        for k in (1, 10, 200, 583, 584, 599, 600, 700):
            expected, expected_rows = exact_search(queries, database, k, allowed)
            distances, rows = store.search(queries, k, allowed)
            assert np.array_equal(rows, expected_rows) and np.array_equal(distances, expected), k
    store.close()


def test_ties_beyond_the_limit_of_milvus_are_searched_exactly(tmp_path, monkeypatch):
    """Queries without ties keep their candidates. More neighbours than Milvus returns are searched exactly."""
    requests, search = [], MilvusStore._candidates
    monkeypatch.setattr(MilvusStore, "_candidates", lambda *args: requests.append((len(args[1]), args[2])) or search(*args))
    monkeypatch.setattr(milvus_store, "_MAX_LIMIT", 250)
    database = equal_rows(300)
    store = MilvusStore(database, str(tmp_path / "places.db"))
    queries = database[[3, 50, 9]]
    assert np.array_equal(store.search(queries, 10)[1], exact_search(queries, database, 10)[1])
    assert requests == [(3, 26), (1, 208), (1, 250)]
    assert np.array_equal(store.search(queries, 235)[1], exact_search(queries, database, 235)[1]) and len(requests) == 3
    store.close()
