"""Files of descriptors, mapped and read as one array."""

import os

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from d2vpr_hf.stores.descriptors import MappedDescriptors, descriptors_to_bytes, map_descriptors, take_rows
from d2vpr_hf.stores.exact import exact_search


def parts_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, (length, 3)).astype(np.float16) for length in lengths]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=5), st.integers(0, 99), st.data())
def test_many_parts_are_one_array(lengths, seed, data):
    """Against the array that numpy makes of the same rows: any slice, any rows, and what was removed is not there."""
    parts = parts_of(lengths, seed)
    removed = [sorted(data.draw(st.sets(st.integers(0, n - 1)))) if n else [] for n in lengths]
    kept = [np.delete(part, rows, axis=0) for part, rows in zip(parts, removed, strict=True)]
    expected = np.concatenate([np.empty((0, 3), np.float16), *kept])
    mapped = MappedDescriptors(parts, removed, descriptor_dim=3, dtype="float16")
    assert (mapped.shape, mapped.dtype, len(mapped)) == (expected.shape, expected.dtype, len(expected))
    start, stop = (data.draw(st.none() | st.integers(-30, 30)) for _ in range(2))
    assert np.array_equal(mapped[start:stop], expected[start:stop]) and mapped[start:stop].dtype == np.float16
    rows = data.draw(st.lists(st.integers(0, len(expected) - 1))) if len(expected) else []
    assert np.array_equal(mapped.take(rows), expected[np.array(rows, np.int64)])
    assert np.array_equal(take_rows(mapped, np.array(rows, np.int64)), take_rows(expected, np.array(rows, np.int64)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_files_are_mapped_and_not_kept_open(tmp_path, dtype):
    """An index of many shards must not run out of files, nor be read before it is searched."""
    part = parts_of([4])[0].astype(dtype)
    (tmp_path / "a.safetensors").write_bytes(descriptors_to_bytes(part))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    mapped = [map_descriptors(tmp_path / "a.safetensors") for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert all(np.array_equal(one, part) and one.dtype == dtype and not one.flags.writeable for one in mapped)
    (tmp_path / "a.safetensors").unlink()
    assert np.array_equal(mapped[0], part)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xff" * 7, "not a safetensors file"),
        (b"\xff" * 40, "not a safetensors file"),
        (descriptors_to_bytes(np.zeros((4, 3), np.float16))[:-1], "promises 4 rows of 3 numbers"),
        (descriptors_to_bytes(np.zeros((4, 3), np.float16)) + b"x", "promises 4 rows of 3 numbers"),
        (safetensors.numpy.save({"other": np.zeros((2, 2), np.float32)}), "not a safetensors file of descriptors"),
        (safetensors.numpy.save({"descriptors": np.zeros((2, 2), np.int32)}), "in float16 or float32"),
        (safetensors.numpy.save({"descriptors": np.zeros(2, np.float32)}), "not a safetensors file of descriptors"),
    ],
)
def test_files_that_do_not_hold_descriptors_are_refused(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        map_descriptors(tmp_path / "a")


def test_rows_that_do_not_exist_are_refused():
    mapped = MappedDescriptors(parts_of([2, 2]), [[0], []], descriptor_dim=3, dtype="float16")
    for rows in ([3], [-1]):
        with pytest.raises(IndexError, match="Expected rows from 0 to 2"):
            mapped.take(rows)
    for rows in (1, slice(0, 3, 2), np.array([0])):
        with pytest.raises(TypeError, match="take"):
            mapped[rows]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
def test_searching_mapped_or_allowed_rows_equals_searching_an_array(count, k, seed):
    """Whole numbers make distances exact and ties common; ties keep the order of the rows also among those allowed."""
    rng = np.random.default_rng(seed)
    parts = parts_of([count, count // 2, 3], seed)
    mapped = MappedDescriptors(parts, [[0], [], [1]], descriptor_dim=3, dtype="float16")
    array, queries = mapped[:].astype(np.float32), rng.integers(-2, 3, (4, 3)).astype(np.float32)
    allowed = rng.random(len(mapped)) < 0.5
    for rows in (None, allowed, np.zeros(len(mapped), bool)):
        chosen = np.arange(len(mapped)) if rows is None else np.flatnonzero(rows)
        distances = ((queries[:, None] - array[chosen]) ** 2).sum(2)
        expected = chosen[np.argsort(distances, axis=1, kind="stable")[:, :k]]
        for database in (mapped, array):
            assert np.array_equal(exact_search(queries, database, k, allowed=rows)[1], expected)


def test_a_mask_of_another_shape_or_type_is_refused():
    for allowed in (np.ones(3, bool), np.ones((2, 1), bool), np.array([0, 1])):
        with pytest.raises(ValueError, match="Expected `allowed` as one truth value for each of 2 rows"):
            exact_search(np.zeros((1, 2)), np.zeros((2, 2)), 1, allowed=allowed)
