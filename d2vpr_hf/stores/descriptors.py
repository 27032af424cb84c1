"""Descriptors on disk: safetensors files that are mapped into memory and seen as one array."""

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
_SIZE_BYTES = 8  # of the number that says how long the header is


class Descriptors(Protocol):
    """What can be searched, (N, D): an array, [`MappedDescriptors`], or what else has rows to slice and a `take(rows)`."""

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
    """Several arrays of descriptors, mapped or not, seen as one (N, D), without the rows that were removed.

    Nothing is read before it is asked for.

    Args:
        parts: Arrays (n, D) of one type.
        removed: For each part its rows, ascending, that must not be seen.
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
        self._kept = [kept_rows(len(part), rows) if len(rows) else None for part, rows in zip(parts, removed, strict=True)]
        lengths = [len(part) - len(rows) for part, rows in zip(parts, removed, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self.shape = (int(self._starts[-1]), descriptor_dim)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Return rows [a:b] as an array (b - a, D): a view that cannot be written to where they lie in one part."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"Expected a slice of neighbouring rows such as [0:10], got {rows!r}; take() reads any rows.")
        start, stop, _ = rows.indices(len(self))
        pieces = [self._read(part, begin, end) for part, begin, end in self._spans(start, stop)]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty((0, self.shape[1]), self.dtype), *pieces])

    def take(self, rows: ArrayLike) -> NDArray[Any]:
        """Return any rows (M,) in the order given, as an array (M, D)."""
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
        """Yield the parts that rows [start:stop] lie in, and which of the rows seen of each."""
        for part in range(int(np.searchsorted(self._starts, start, side="right")) - 1, len(self._parts)):
            first, end = int(self._starts[part]), int(self._starts[part + 1])
            if first >= stop:
                return
            if end > start:
                yield part, max(start, first) - first, min(stop, end) - first

    def _read(self, part: int, start: int, stop: int) -> NDArray[Any]:
        kept = self._kept[part]
        return self._parts[part][start:stop] if kept is None else self._parts[part][kept[start:stop]]

    def _local(self, part: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        kept = self._kept[part]
        return rows if kept is None else kept[rows]


def take_rows(descriptors: Descriptors, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return any rows of descriptors, whatever holds them, (M, D). An array's own `take` would flatten it."""
    return descriptors[rows] if isinstance(descriptors, np.ndarray) else descriptors.take(rows)  # type: ignore[attr-defined]


def kept_rows(count: int, removed: Sequence[int]) -> NDArray[np.int64]:
    """Return the rows of `count` that were not removed, ascending."""
    return np.delete(np.arange(count, dtype=np.int64), np.asarray(removed, np.int64))


def descriptors_to_bytes(descriptors: NDArray[np.floating]) -> bytes:
    """Return the contents of a safetensors file of descriptors (N, D)."""
    return safetensors.numpy.save({TENSOR: np.ascontiguousarray(descriptors)})


def map_descriptors(path: Path) -> NDArray[Any]:
    """Map a safetensors file of descriptors into memory, (N, D); nothing but its header is read.

    Raises:
        ValueError: If it is no such file, or not whole.
    """
    buffer = map_file(path)
    dtype, shape, start = _read_header(buffer)
    if start + dtype.itemsize * shape[0] * shape[1] != buffer.size:
        raise ValueError(f"its header promises {shape[0]} rows of {shape[1]} numbers, which {buffer.size} bytes do not hold")
    return np.frombuffer(buffer, dtype, offset=start).reshape(shape)


def map_file(path: Path) -> pa.Buffer:
    """Map a file into memory. No file stays open, so that an index may have any number of them.

    Raises:
        ValueError: If it is empty.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()  # keeps the mapping alive by itself


def _read_header(buffer: pa.Buffer) -> tuple[np.dtype[Any], tuple[int, int], int]:
    """Return type and shape of the tensor in a safetensors file, and where its numbers begin."""
    try:
        start = _SIZE_BYTES + int.from_bytes(buffer[:_SIZE_BYTES].to_pybytes(), "little")
        tensor = json.loads(buffer[_SIZE_BYTES:start].to_pybytes())[TENSOR]
        dtype = np.dtype(next(name for name, code in DTYPES.items() if code == tensor["dtype"]))
        rows, width = (int(number) for number in tensor["shape"])
        if tensor["data_offsets"][0] != 0 or min(rows, width) < 0:
            raise ValueError("the numbers do not begin behind the header")
    except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise ValueError(f"it is no safetensors file of {TENSOR} (N, D) in {' or '.join(DTYPES)}") from error
    return dtype, (rows, width), start
