"""Exact search against the definition."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.stores import exact
from d2vpr_hf.stores.exact import exact_search, similarity


def brute_force(queries, database, k):
    distances = ((queries[:, None].astype(np.float64) - database[None]) ** 2).sum(axis=2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, axis=1), rows


@settings(max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 200),
    st.integers(1, 150),
    st.integers(1, 64),
    st.sampled_from([1, 1 << 22]),
    st.integers(0, 99),
)
def test_exact_search_equals_brute_force_with_ties(num_queries, num_rows, k, chunk, limit, seed):
    """Whole numbers make distances exact and ties common; chunks must not change which row wins a tie."""
    rng = np.random.default_rng(seed)
    queries, database = (rng.integers(0, 3, (count, 4)).astype(np.float32) for count in (num_queries, num_rows))
    with mock.patch.object(exact, "BLOCK_BYTES", chunk * 16), mock.patch.object(exact, "CANDIDATE_LIMIT", limit):
        distances, rows = exact_search(queries, database, k)
    expected_distances, expected_rows = brute_force(queries, database, k)
    assert np.array_equal(distances, expected_distances)
    assert np.array_equal(rows, expected_rows)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.parametrize("num_queries", [1, 40])
def test_numpy_finds_the_same_as_torch(stored, num_queries, monkeypatch):
    """A program without torch searches by numpy, and neither library decides: the exact distances do."""
    rng = np.random.default_rng(num_queries)
    database = rng.standard_normal((3000, 64)).astype(np.float32)
    database[1000:2000] = database[:1000] + 1e-6 * rng.standard_normal((1000, 64))  # nearer to each other than float32 tells
    database = (database / np.linalg.norm(database, axis=1, keepdims=True)).astype(stored)
    queries, allowed = database[:num_queries].astype(np.float32), rng.random(3000) < 0.7
    by_torch = [exact_search(queries, database, 7, mask) for mask in (None, allowed)]
    monkeypatch.setattr(exact, "loaded_torch", lambda: None)
    monkeypatch.setattr(exact, "_to_tensor", None)
    for mask, (distances, rows) in zip((None, allowed), by_torch, strict=True):
        result = exact_search(queries, database, 7, mask)
        assert np.array_equal(result[0], distances) and np.array_equal(result[1], rows)


@pytest.mark.parametrize(("width", "num_rows"), [(16, 40_000), (512, 5000), (10_752, 300)])
@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_blocks_are_bounded_in_bytes_and_do_not_change_results(width, num_rows, stored, monkeypatch):
    """By rows alone, wide descriptors would take 21 times the room of those of 512 numbers; short tables the same of narrow."""
    rng = np.random.default_rng(width)
    queries = rng.standard_normal((600, width)).astype(np.float32)
    database = rng.standard_normal((num_rows, width)).astype(stored)
    seen = []
    squared_norms = exact._squared_norms
    monkeypatch.setattr(exact, "_squared_norms", lambda block: seen.append(block.shape) or squared_norms(block))
    distances, rows = exact_search(queries, database, 10)
    blocks = [shape for shape in seen if shape != queries.shape]
    assert sum(count for count, _ in blocks) == num_rows
    assert max(count * width * 4 for count, _ in blocks) <= exact.BLOCK_BYTES
    assert max(count * len(queries) * 4 for count, _ in blocks) <= exact.TABLE_BYTES
    monkeypatch.setattr(exact, "BLOCK_BYTES", 1 << 40)
    monkeypatch.setattr(exact, "TABLE_BYTES", 1 << 40)
    monkeypatch.setattr(exact, "num_cores", lambda: 1)
    seen.clear()
    whole_distances, whole_rows = exact_search(queries, database, 10)
    assert (num_rows, width) in seen
    assert np.array_equal(rows, whole_rows) and np.array_equal(distances, whole_distances)


def test_real_valued_descriptors_give_the_rows_of_brute_force():
    rng = np.random.default_rng(0)
    queries, database = (rng.standard_normal((count, 64)).astype(np.float32) for count in (5, 3000))
    distances, rows = exact_search(queries, database, 10)
    expected_distances, expected_rows = brute_force(queries, database, 10)
    assert np.array_equal(rows, expected_rows)
    assert np.allclose(distances, expected_distances, rtol=1e-4)


def test_a_half_precision_database_is_searched():
    database = np.eye(4, dtype=np.float16)
    assert exact_search(np.eye(4, dtype=np.float32), database, 1)[1].ravel().tolist() == [0, 1, 2, 3]


def test_similarity_is_the_cosine():
    """Equal, orthogonal and opposite unit vectors."""
    distances, rows = exact_search(np.float32([[1, 0]]), np.float32([[0, 1], [-1, 0], [1, 0]]), 3)
    assert rows.tolist() == [[2, 0, 1]]
    assert similarity(distances).tolist() == [[1.0, 0.0, -1.0]]


def test_more_neighbours_than_rows_return_all_rows():
    """FAISS alone would fill up with row -1."""
    distances, rows = exact_search(np.zeros((2, 3), np.float32), np.ones((4, 3), np.float32), 9)
    assert distances.shape == rows.shape == (2, 4)
    assert rows.tolist() == [[0, 1, 2, 3]] * 2


def test_a_database_that_is_not_finite_is_refused():
    """FAISS would answer with row -1, which Python takes for the last one."""
    with pytest.raises(ValueError, match="database descriptor is not finite"):
        exact_search(np.zeros((1, 2), np.float32), np.float32([[0, 1], [np.nan, 0]]), 2)


def test_no_rows_or_no_queries_give_empty_results():
    assert exact_search(np.zeros((2, 3)), np.zeros((0, 3)), 5)[1].shape == (2, 0)
    assert exact_search(np.zeros((0, 3)), np.zeros((4, 3)), 5)[1].shape == (0, 4)


@pytest.mark.parametrize(
    ("queries", "database", "k", "message"),
    [
        (np.zeros((1, 3)), np.zeros((4, 2)), 1, r"one descriptor width, got \(1, 3\) and \(4, 2\)"),
        (np.zeros(3), np.zeros((4, 3)), 1, "Expected queries"),
        (np.zeros((1, 3)), np.zeros((4, 3)), 0, "k must be at least 1, got 0"),
        (np.full((1, 3), np.nan), np.zeros((4, 3)), 1, "not finite"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(queries, database, k, message):
    with pytest.raises(ValueError, match=message):
        exact_search(queries, database, k)
