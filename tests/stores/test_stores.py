"""Stores are compared with exact search: their results, their masks, and the files that they refuse."""

import json
import math
import shutil
from typing import get_args

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.stores import COMPRESSIONS, SERVICES, STORES, Compression, bits, build_store, estimate, open_store, remote_store
from d2vpr_hf.stores.bits import BitStore, num_candidates
from d2vpr_hf.stores.exact import exact_search


class Shards:
    """Descriptors of which only slices can be read, as of files: an accidental `np.asarray` fails."""

    def __init__(self, values):
        self._values = values
        self.shape, self.dtype = values.shape, values.dtype

    def __len__(self):
        return len(self._values)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._values[rows]

    def take(self, rows):
        return self._values[rows]


def draw(count, width, seed=0, dtype=np.float32):
    """Unit-length descriptors of places with ten photos each, away from the origin as pooled features are."""
    rng = np.random.default_rng(seed)
    places = np.repeat(rng.standard_normal((math.ceil(count / 10), width)), 10, axis=0)[:count]
    values = 0.5 + places + 0.6 * rng.standard_normal((count, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_stores_find_the_rows_of_exact_search(compression, dtype, tmp_path):
    """Distances must be exact, not the codes', and a store that was saved must answer alike."""
    database, queries = draw(6000, 96, dtype=dtype), draw(20, 96, seed=1)
    queries = (queries + 2 * database[:200:10]).astype(np.float32)
    store = build_store(Shards(database), compression)
    distances, rows = store.search(queries, 10)
    expected, expected_rows = exact_search(queries, database, 10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(rows, expected_rows, strict=True)]) >= 9.7
    same = rows == expected_rows
    assert np.array_equal(distances[same], expected[same])
    store.save(tmp_path / "store")
    reopened = open_store(tmp_path / "store", Shards(database))
    assert all(np.array_equal(*pair) for pair in zip(reopened.search(queries, 10), (distances, rows), strict=True))
    assert reopened.info.memory_bytes < 1000 and reopened.info.count == 6000


@pytest.mark.parametrize("compression", COMPRESSIONS)
@settings(max_examples=25)
@given(st.integers(1, 400), st.integers(1, 40), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.integers(0, 99))
def test_filters_act_inside_the_search(compression, count, k, share, seed):
    """Exactly min(k, allowed) rows come, all of them allowed: filtering the top k afterwards would lose some."""
    rng = np.random.default_rng(seed)
    database, allowed = draw(count, 24, seed), rng.random(count) < share
    distances, rows = build_store(database, compression).search(database[:3], k, allowed)
    assert rows.shape == distances.shape == (min(3, count), min(k, allowed.sum()))
    assert allowed[rows].all()
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    if num_candidates(allowed.sum(), 32, k) >= allowed.sum() and compression == "bits":
        assert np.array_equal(rows, exact_search(database[:3], database, k, allowed)[1])


def test_filtered_exact_search_equals_search_of_the_rest():
    database, queries = draw(500, 16), draw(7, 16, seed=3)
    allowed = np.arange(500) % 3 == 1
    distances, rows = exact_search(queries, Shards(database), 5, allowed)
    expected, expected_rows = exact_search(queries, database[allowed], 5)
    assert np.array_equal(distances, expected)
    assert np.array_equal(rows, np.flatnonzero(allowed)[expected_rows])


def test_ties_come_in_the_order_of_rows():
    database = np.repeat(draw(4, 64), 50, axis=0)
    for compression in COMPRESSIONS:
        rows = build_store(database, compression).search(database[100:101], 50)[1]
        assert rows[0].tolist() == list(range(100, 150)), compression


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_thousands_of_equal_rows_come_in_the_order_of_rows(compression, dtype):
    """Black frames between other photos: many more equal rows than candidates, of two kinds, with and without a filter."""
    rng = np.random.default_rng(7)
    kinds = draw(3, 32, seed=5, dtype=dtype)
    numbers = rng.permutation(np.repeat([0, 1, 2], [5000, 900, 100]))
    database = kinds[numbers]
    database[numbers == 2] = draw(100, 32, seed=6, dtype=dtype)
    store, queries = build_store(database, compression), kinds[:2].astype(np.float32)
    for allowed in (None, rng.random(6000) < 0.5, np.arange(6000) % 50 != 3):
        for k in (1, 20, 200):
            expected = exact_search(queries, database, k, allowed)
            found = store.search(queries, k, allowed)
            assert np.array_equal(found[1], expected[1]) and np.array_equal(found[0], expected[0])
    near = np.vstack([kinds[0] + 1e-3, kinds[1] - 1e-3]).astype(np.float32)  # not equal to any row
    assert np.array_equal(store.search(near, 20)[1], exact_search(near, database, 20)[1])


def test_the_rotation_raises_recall():
    """Descriptors that differ in a few numbers only: signs of single numbers, unrotated, could not tell them apart."""
    rng = np.random.default_rng(0)
    database = rng.standard_normal((20_000, 256)).astype(np.float32) * np.float32([30, 20, 10, 5] + [0.01] * 252)
    queries = database[:50] + rng.standard_normal((50, 256)).astype(np.float32) * 0.001
    truth = exact_search(queries, database, 10)[1]
    rotated = BitStore(database).search(queries, 10)[1]
    signs = np.packbits(database - database.mean(axis=0) > 0, axis=1)
    wanted = num_candidates(20_000, 256, 10)
    _, plain = faiss.knn_hamming(np.packbits(queries - database.mean(axis=0) > 0, axis=1), signs, wanted)
    recall, unrotated = (
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, rows, strict=True)]) for rows in (rotated, plain)
    )
    assert recall > 0.9 > unrotated


@pytest.mark.parametrize("forbidden", [1, 30, 400, 2600])
def test_excluding_few_rows_misses_no_neighbour(forbidden, monkeypatch):
    """The nearest by bits are those of the allowed rows alone, also where every nearest one is forbidden."""
    database = draw(3000, 64)
    store, queries = BitStore(database), database[:5]
    allowed = np.ones(3000, bool)
    allowed[store.search(queries[:1], forbidden)[1][0]] = False
    masked = store.search(queries, 10, allowed)
    monkeypatch.setattr(bits, "FEW_FORBIDDEN", 10_000)  # copy the allowed ones
    expected = store.search(queries, 10, allowed)
    assert np.array_equal(masked[0], expected[0]) and allowed[masked[1]].all()


def test_the_number_of_candidates_grows_with_rows_and_fewer_bits():
    assert num_candidates(1_000_000, 512, 10) == 1000
    assert num_candidates(1_000_000, 128, 10) == 8000
    assert num_candidates(10_000, 4096, 10) == 100
    assert num_candidates(50, 512, 10) == 50


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_store_of_other_descriptors_is_refused(compression, tmp_path):
    """With other descriptors a store would find wrong rows."""
    build_store(draw(300, 32), compression).save(tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        open_store(tmp_path, draw(301, 32))
    with pytest.raises(ValueError, match="does not fit"):
        open_store(tmp_path, draw(300, 24))


def test_bits_of_other_descriptors_are_refused(tmp_path):
    build_store(draw(300, 64), "bits").save(tmp_path)
    with pytest.raises(ValueError, match="not those of the descriptors"):
        open_store(tmp_path, draw(300, 64, seed=9))


@pytest.mark.parametrize("compression", ["half", "int8", "bits"])
def test_damaged_files_are_named(compression, tmp_path):
    database = draw(300, 64)
    build_store(database, compression).save(tmp_path / "whole")
    for file in (tmp_path / "whole").iterdir():
        cut, missing = tmp_path / "cut", tmp_path / "missing"
        for copy in (cut, missing):
            shutil.copytree(tmp_path / "whole", copy)
        (cut / file.name).write_bytes(file.read_bytes()[:20])
        (missing / file.name).unlink()
        with pytest.raises(ValueError, match=r"Build the store again"):
            open_store(cut, database)
        with pytest.raises(FileNotFoundError, match=r"again"):
            open_store(missing, database)
        shutil.rmtree(cut), shutil.rmtree(missing)


def test_another_format_is_refused(tmp_path):
    build_store(draw(10, 8)).save(tmp_path)
    file = tmp_path / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 2}))
    with pytest.raises(ValueError, match="has format 2, this package reads format 1"):
        open_store(tmp_path, draw(10, 8))


def test_no_rows_or_no_queries_give_empty_results():
    for compression in COMPRESSIONS:
        empty = build_store(np.empty((0, 16), np.float32), compression)
        assert empty.search(draw(2, 16), 5)[1].shape == (2, 0), compression
        assert build_store(draw(20, 16), compression).search(np.empty((0, 16), np.float32), 5)[0].shape == (0, 5), compression


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_arguments_that_do_not_fit_are_refused(compression):
    store = build_store(draw(20, 16), compression)
    with pytest.raises(ValueError, match="one descriptor width"):
        store.search(draw(1, 8), 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        store.search(draw(1, 16), 0)
    with pytest.raises(ValueError, match="one truth value for each of 20 rows"):
        store.search(draw(1, 16), 1, np.ones(19, bool))
    with pytest.raises(ValueError, match="not finite"):
        build_store(np.full((3, 8), np.nan, np.float32), compression).search(draw(1, 8), 1)


def test_estimates_give_the_bytes_of_each_compression():
    """The memory of a million × 512 by hand; compression words that do not exist are named."""
    sizes = {word: estimate(1_000_000, 512, word).scanned_bytes for word in COMPRESSIONS}
    assert sizes == {"none": 1_024_000_000, "half": 1_024_000_000, "int8": 512_000_000, "bits": 64_000_000}
    assert estimate(1_000_000, 512, "bits").latency_seconds < 0.01 < estimate(1_000_000, 512, "none").latency_seconds
    for call in (lambda: estimate(1, 1, "zip"), lambda: build_store(draw(2, 8), "zip")):
        with pytest.raises(ValueError, match="none, half, int8, bits, got 'zip'"):
            call()


def test_every_word_chooses_the_store_of_its_name():
    """A word of the type hints without a store, or a store under another word, would fail only when it is used."""
    assert get_args(Compression) == COMPRESSIONS == tuple(build_store(draw(2, 8), word).compression for word in COMPRESSIONS)
    assert ("faiss", *SERVICES) == STORES and tuple(remote_store(word).kind for word in SERVICES) == SERVICES
