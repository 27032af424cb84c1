"""Milvus and FAISS must give the same answers. Skipped where the embedded server is not installed; no test needs a network."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2vpr_hf.places import Place
from d2vpr_hf.places.filters import within_heading, within_radius
from d2vpr_hf.stores import build_store, open_store
from d2vpr_hf.stores.milvus import MilvusStore, row_expression

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")


def draw(count, width, seed=0):
    rng = np.random.default_rng(seed)
    places = np.repeat(rng.standard_normal((math.ceil(count / 10), width)), 10, axis=0)[:count]
    values = places + 0.6 * rng.standard_normal((count, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


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
