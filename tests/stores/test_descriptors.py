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


@settings(max_examples=80)
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
    for rows in (3, -4, [0, 3], np.array([-4]), (3, 0)):
        with pytest.raises(IndexError, match="Expected rows from -3 to 2, got"):
            mapped[rows]
    for mask in ([True], np.ones(4, bool), np.ones((3, 3), bool)):
        with pytest.raises(IndexError, match=r"Expected a mask of shape \(3,\)"):
            mapped[mask]
    for rows in ("a", 1.0, [0.5], None, True, np.array([], float)):
        with pytest.raises(TypeError, match="Expected row"):
            mapped[rows]


INDEXES = (
    *(0, -1, np.int64(2), np.array(1), slice(None, None, 2), slice(5, 1, -1), slice(-3, None), slice(4, 4), ...),
    *([0, -1, 0], [], (0, 1), (-1, slice(1)), np.array([[0, 1], [2, -2]]), np.array([], np.int64), np.uint8([3, 1])),
    *(
        (slice(2, 5), 0),
        (..., 1),
        (0, ...),
        ([0, 2], slice(1, 3)),
        ([0, 2], [1, 0]),
        ([0, 2], 1),
        (np.array([[0], [1]]), [0, 2]),
    ),
    *((), (slice(None), [2, 0]), (np.array([1, 4]), ...)),
)


@pytest.mark.parametrize("lengths", [[7], [3, 0, 4, 2], [1] * 7])
def test_any_index_gives_the_rows_of_an_array(lengths):
    """With rows removed, against numpy's own answer for the same index."""
    parts = parts_of(lengths)
    removed = [[1] if length > 2 else [] for length in lengths]
    mapped = MappedDescriptors(parts, removed, descriptor_dim=3, dtype="float16")
    array = np.concatenate([np.delete(part, rows, axis=0) for part, rows in zip(parts, removed, strict=True)])
    mask = array[:, 0] > 0
    for index in (*INDEXES, mask, mask.tolist(), (mask, 0), (mask, slice(2))):
        taken, expected = mapped[index], array[index]
        assert np.array_equal(taken, expected) and taken.shape == expected.shape and taken.dtype == expected.dtype, index
    assert np.array_equal(list(mapped), list(array)) and len(list(mapped)) == len(mapped)
    assert (mapped.ndim, mapped.size, mapped.shape) == (array.ndim, array.size, array.shape)
    for made in (np.asarray(mapped), np.array(mapped), np.asarray(mapped, np.float32), np.stack([mapped])[0]):
        assert np.array_equal(made, array)
    assert np.array_equal(np.matmul(mapped, array.T), array @ array.T)


def test_one_part_becomes_an_array_without_a_copy():
    part = parts_of([4])[0]
    mapped = MappedDescriptors([part], [[]], descriptor_dim=3, dtype="float16")
    assert np.shares_memory(np.asarray(mapped), part) and np.shares_memory(mapped[1:3], part)
    assert not np.shares_memory(np.array(mapped, copy=True), part)
    with pytest.raises(ValueError, match="copy"):
        np.array(mapped, np.float32, copy=False)


def test_an_index_reads_only_its_rows():
    """A row of a large map must not read the map."""

    class Counting(np.ndarray):
        rows_read = 0

        def __getitem__(self, index):
            taken = super().__getitem__(index)
            Counting.rows_read += len(taken)
            return taken

    parts = [part.view(Counting) for part in parts_of([500, 500])]
    mapped = MappedDescriptors(parts, [[], [3]], descriptor_dim=3, dtype="float16")
    for index, count in ((-1, 1), ([0, 700], 2), (slice(0, 999, 100), 10), ((5, 1), 1)):
        Counting.rows_read = 0
        mapped[index]
        assert Counting.rows_read == count, index


@settings(max_examples=40)
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
