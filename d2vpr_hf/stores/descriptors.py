"""Descriptors on disk: safetensors files that are mapped into memory and read as one array."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

from d2vpr_hf.utils.bounded_files import parse_json

TENSOR = "descriptors"  # the name of the one tensor in a file
DTYPES = {"float16": "F16", "float32": "F32"}  # as numpy and as safetensors name them
_SIZE_BYTES = 8  # size of the number that gives the length of the header


class Descriptors(Protocol):
    """Descriptors (N, D) that can be searched: an array, [`MappedDescriptors`], or a type with slices and `take(rows)`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Rows [a:b], (b - a, D)."""


class MappedDescriptors:
    """Several arrays of descriptors as one array (N, D) without removed rows. Mapped rows are read when they are used.

    It is indexed like a numpy array, which reads only the rows of the index; `np.asarray` reads all of them.

    Args:
        parts: Arrays (n, D) of one type.
        removed: The removed rows of each part, ascending.
        descriptor_dim: D.
        dtype: Type of all parts.
    """

    def __init__(
        self,
        parts: Sequence[NDArray[np.floating]],
        removed: Sequence[Sequence[int]],
        *,
        descriptor_dim: int,
        dtype: str,
    ) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._parts, self._removed = list(parts), [tuple(rows) for rows in removed]
        self._remaining = [kept_rows(len(part), rows) if len(rows) else None for part, rows in zip(parts, removed, strict=True)]
        lengths = [len(part) - len(rows) for part, rows in zip(parts, removed, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.shape = (int(self._starts[-1]), descriptor_dim)

    @property
    def ndim(self) -> int:
        """The number of axes, 2."""
        return 2

    @property
    def size(self) -> int:
        """The number of numbers, N · D."""
        return self.shape[0] * self.shape[1]

    @property
    def parts(self) -> list[NDArray[Any]]:
        """Arrays that are together all rows in order; views of the parts that have no removed rows."""
        return [self[start:stop] for start, stop in pairwise(self._starts.tolist()) if stop > start]

    def shares_rows(self, other: "MappedDescriptors") -> bool:
        """Return whether both are the same rows of the same arrays in memory."""
        parts, other_parts = self._filled_parts(), other._filled_parts()
        return len(parts) == len(other_parts) and all(
            part is other_part and removed == other_removed
            for (part, removed), (other_part, other_removed) in zip(parts, other_parts, strict=True)
        )

    def _filled_parts(self) -> list[tuple[NDArray[Any], tuple[int, ...]]]:
        """Return the parts that have rows, and the removed ones of these."""
        return [(part, removed) for part, removed in zip(self._parts, self._removed, strict=True) if len(part)]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield each row (D,)."""
        return (row for part in range(len(self._parts)) for row in self[self._starts[part] : self._starts[part + 1]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all rows as an array; a read-only view if they are in one part of that type."""
        return np.array(self[:], dtype, copy=copy)

    def __getitem__(self, index: Any) -> Any:
        """Return what an array of all rows gives for an index: a row, a slice, a mask, row numbers, or these and columns.

        A slice [a:b] of rows that are in one part is a read-only view. All else is a copy.

        Raises:
            IndexError: If there is no such row, or a mask is of another length.
            TypeError: If the index is of another kind.
        """
        if isinstance(index, tuple):
            return self._cells(index)
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._slice(start, stop) if step == 1 else self.take(np.arange(start, stop, step))
        if index is Ellipsis:
            return self._slice(0, len(self))
        if index is None or isinstance(index, bool | np.bool_):
            raise TypeError(f"Expected rows, got {index!r}.")
        rows = self._row_numbers(index)
        return self.take(rows.ravel()).reshape(*rows.shape, self.shape[1])

    def _row_numbers(self, index: Any) -> NDArray[np.int64]:
        """Return row numbers from 0 on, of any shape, from a number, a mask (N,) or an array of numbers."""
        numbers = np.asarray(index)
        if numbers.dtype == bool:
            if numbers.shape != (len(self),):
                raise IndexError(f"Expected a mask of shape ({len(self)},), got {numbers.shape}.")
            return np.flatnonzero(numbers)
        if numbers.size == 0 and not isinstance(index, np.ndarray):
            numbers = numbers.astype(np.int64)  # an empty list
        if not np.issubdtype(numbers.dtype, np.integer):
            raise TypeError(f"Expected row numbers, a slice or a mask, got {index!r}.")
        outside = (numbers < -len(self)) | (numbers >= len(self))
        if outside.any():
            raise IndexError(f"Expected rows from {-len(self)} to {len(self) - 1}, got {numbers[outside].flat[0]}.")
        return np.where(numbers < 0, numbers + len(self), numbers).astype(np.int64)

    def _cells(self, index: tuple[Any, ...]) -> Any:
        """Return what an array gives for an index of rows and columns."""
        if not index or index[0] is Ellipsis or isinstance(index[0], slice):
            return self[:][index]
        rows = self[index[0]]
        if isinstance(index[0], int | np.integer):
            return rows[index[1:]]
        if all(isinstance(part, slice) or part is Ellipsis for part in index[1:]):
            return rows[(slice(None),) * (rows.ndim - 1) + index[1:]]
        positions = np.arange(rows.size // max(1, self.shape[1])).reshape(rows.shape[:-1])
        return rows.reshape(-1, self.shape[1])[(positions, *index[1:])]

    def _slice(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows [start:stop]."""
        pieces = [self._read(part, begin, end) for part, begin, end in self._spans(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty((0, self.shape[1]), self.dtype), *pieces])

    def take(self, rows: ArrayLike) -> NDArray[Any]:
        """Return any rows (M,) in the given order, as an array (M, D)."""
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"Expected rows from 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}.")
        order = np.argsort(wanted, kind="stable")
        cuts = np.searchsorted(wanted[order], self._starts)
        taken = np.empty((len(wanted), self.shape[1]), self.dtype)
        for part in np.flatnonzero(np.diff(cuts)).tolist():
            places = order[cuts[part] : cuts[part + 1]]
            taken[places] = self._parts[part][self._local(part, wanted[places] - self._starts[part])]
        return taken

    def _spans(self, start: int, stop: int) -> Iterable[tuple[int, int, int]]:
        """Yield each part that holds some of the rows [start:stop], with the first and last of its rows to read."""
        for part in range(int(np.searchsorted(self._starts, start, side="right")) - 1, len(self._parts)):
            first, end = int(self._starts[part]), int(self._starts[part + 1])
            if first >= stop:
                return
            if end > start:
                yield part, max(start, first) - first, min(stop, end) - first

    def _read(self, part: int, start: int, stop: int) -> NDArray[Any]:
        remaining = self._remaining[part]
        return self._parts[part][start:stop] if remaining is None else self._parts[part][remaining[start:stop]]

    def _local(self, part: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        remaining = self._remaining[part]
        return rows if remaining is None else remaining[rows]


class SelectedDescriptors:
    """Some rows of descriptors, as [`Descriptors`]; they are read when they are used.

    Args:
        descriptors: (N, D).
        rows: (M,) the selected rows.
    """

    def __init__(self, descriptors: Descriptors, rows: NDArray[np.int64]) -> None:
        self._descriptors, self._rows = descriptors, rows
        self.shape = (len(rows), descriptors.shape[1])
        self.dtype = descriptors.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        return take_rows(self._descriptors, self._rows[rows])

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return any rows, (M, D)."""
        return take_rows(self._descriptors, self._rows[rows])


def take_rows(descriptors: Descriptors, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return any rows of descriptors, (M, D). The method `take` of an array would flatten it."""
    return descriptors[rows] if isinstance(descriptors, np.ndarray) else descriptors.take(rows)  # type: ignore[attr-defined]


def kept_rows(count: int, removed: Sequence[int]) -> NDArray[np.int64]:
    """Return the numbers of the `count` rows that were not removed, ascending."""
    return np.delete(np.arange(count, dtype=np.int64), np.asarray(removed, np.int64))


def descriptors_to_bytes(descriptors: NDArray[np.floating]) -> bytes:
    """Return the content of a safetensors file of descriptors (N, D)."""
    return safetensors.numpy.save({TENSOR: np.ascontiguousarray(descriptors)})


def map_descriptors(path: Path) -> NDArray[Any]:
    """Map a safetensors file of descriptors into memory, (N, D); only its header is read.

    Raises:
        ValueError: If it is not such a file, or incomplete.
    """
    buffer = map_file(path)
    dtype, shape, start = _read_header(buffer)
    if start + dtype.itemsize * shape[0] * shape[1] != buffer.size:
        raise ValueError(f"its header promises {shape[0]} rows of {shape[1]} numbers, but it has {buffer.size} bytes")
    return np.frombuffer(buffer, dtype, offset=start).reshape(shape)


def map_file(path: Path) -> pa.Buffer:
    """Map a file into memory and close it, so that an index can have any number of files.

    Raises:
        ValueError: If it is empty.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()  # the buffer keeps the mapping alive


def _read_header(buffer: pa.Buffer) -> tuple[np.dtype[Any], tuple[int, int], int]:
    """Return the type and shape of the tensor in a safetensors file, and the position of its first number."""
    try:
        start = _SIZE_BYTES + int.from_bytes(buffer[:_SIZE_BYTES].to_pybytes(), "little")
        tensor = parse_json(buffer[_SIZE_BYTES:start].to_pybytes())[TENSOR]
        dtype = np.dtype(next(name for name, code in DTYPES.items() if code == tensor["dtype"]))
        rows, width = (int(number) for number in tensor["shape"])
        if tensor["data_offsets"][0] != 0 or min(rows, width) < 0:
            raise ValueError("the numbers do not begin directly after the header")
    except (ValueError, TypeError, LookupError, StopIteration, OverflowError) as error:
        raise ValueError(f"it is not a safetensors file of {TENSOR} (N, D) in {' or '.join(DTYPES)}") from error
    return dtype, (rows, width), start
