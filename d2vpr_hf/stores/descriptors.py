"""Descriptors on disk: safetensors files that are mapped into memory and read as one array."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import ArrayLike, NDArray

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
        self._parts = list(parts)
        self._remaining = [kept_rows(len(part), rows) if len(rows) else None for part, rows in zip(parts, removed, strict=True)]
        lengths = [len(part) - len(rows) for part, rows in zip(parts, removed, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.shape = (int(self._starts[-1]), descriptor_dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return rows [a:b] as an array (b - a, D): a read-only view if they are in one part, else a copy."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"Expected a slice of neighbouring rows such as [0:10], got {rows!r}; take() reads any rows.")
        start, stop, _ = rows.indices(len(self))
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
        tensor = json.loads(buffer[_SIZE_BYTES:start].to_pybytes())[TENSOR]
        dtype = np.dtype(next(name for name, code in DTYPES.items() if code == tensor["dtype"]))
        rows, width = (int(number) for number in tensor["shape"])
        if tensor["data_offsets"][0] != 0 or min(rows, width) < 0:
            raise ValueError("the numbers do not begin directly after the header")
    except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise ValueError(f"it is not a safetensors file of {TENSOR} (N, D) in {' or '.join(DTYPES)}") from error
    return dtype, (rows, width), start
