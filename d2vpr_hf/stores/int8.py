"""Eight bits for each number: a search by FAISS's scalar quantiser, and exact distances of the nearest rows."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, float32_blocks, rescore_all_ties
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.utils.atomic_files import store_file
from d2vpr_hf.utils.threads import map_on_cores, num_cores

if TYPE_CHECKING:
    import faiss

EXTRA_CANDIDATES = 32  # in addition to k: for k = 10 no neighbour of a million hard descriptors was missed (docs/search.md)
_FILE = "int8.faiss"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Int8Store:
    """Descriptors rounded to 256 steps between the smallest and the largest value of each of their D numbers.

    Args:
        descriptors: (N, D) the stored descriptors, whose distances decide.
        index: The FAISS index that `save` wrote; `None` to build it.
    """

    compression: ClassVar[str] = "int8"
    scan_seconds_per_byte: ClassVar[float] = 1.7e-10

    def __init__(self, descriptors: Descriptors, index: "faiss.Index | None" = None) -> None:
        self._descriptors = descriptors
        self._mapped = index is not None
        self._index = _quantise(descriptors) if index is None else index

    @property
    def info(self) -> StoreInfo:
        """The size of the store."""
        count, width = self._descriptors.shape
        sizes = (0, count * width) if self._mapped else (count * width, 0)
        return StoreInfo("int8", count, width, *sizes)

    @staticmethod
    def row_bytes(descriptor_dim: int) -> int:
        """Return one byte for each number."""
        return descriptor_dim

    @staticmethod
    def num_rescored(count: int, descriptor_dim: int, k: int) -> int:
        """Return k and the extra candidates."""
        return k + EXTRA_CANDIDATES

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest rows of each query (Q, D): squared distances and row numbers (Q, k)."""
        check_search(queries, self._descriptors, k, allowed)
        count = len(self._descriptors) if allowed is None else int(allowed.sum())
        if not count or not len(queries):
            return np.empty((len(queries), min(k, count)), np.float32), np.empty((len(queries), min(k, count)), np.int64)
        parameters = None if allowed is None else _select(allowed)
        wanted = min(count, k + EXTRA_CANDIDATES)

        def nearest(queries: NDArray[np.floating], wanted: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            parts = np.array_split(np.ascontiguousarray(queries, np.float32), min(num_cores(), len(queries)))
            results = map_on_cores(lambda part: self._index.search(part, wanted, params=parameters), parts)
            return np.concatenate([distances for distances, _ in results]), np.concatenate([rows for _, rows in results])

        return rescore_all_ties(queries, self._descriptors, nearest, min(k, count), wanted, count)

    def save(self, path: Path) -> None:
        """Write the FAISS index."""
        store_file(path / _FILE, self._write)
        write_description(path, self.info)

    def _write(self, scratch: Path) -> None:
        import faiss

        try:
            faiss.write_index(self._index, str(scratch))
        except RuntimeError as error:  # the number of the system's error is lost, its text is not
            number = next((number for number in _FULL if os.strerror(number) in str(error)), errno.EIO)
            raise OSError(number, f"FAISS could not write it: {error}", str(scratch)) from error

    @classmethod
    def check(cls, path: Path, descriptors: Descriptors) -> None:
        """Check the description, and that the FAISS index is not shorter than its numbers."""
        check_description(path, "int8", descriptors)
        file = path / _FILE
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing. Build the store again from the descriptors.")
        if file.stat().st_size < len(descriptors) * descriptors.shape[1]:
            raise ValueError(f"{file} is damaged. Build the store again from the descriptors.")

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote."""
        import faiss

        cls.check(path, descriptors)
        file = path / _FILE
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except MemoryError:
            raise
        except Exception as error:  # FAISS reads sizes from the file: RuntimeError and others
            number = next((number for number in (errno.EMFILE, errno.ENFILE) if os.strerror(number) in str(error)), None)
            if number is not None:  # the file may be undamaged
                raise OSError(number, f"FAISS could not open it: {error}", str(file)) from error
            raise ValueError(f"{file} is damaged ({error}). Build the store again from the descriptors.") from error
        count, width = descriptors.shape
        if (index.ntotal, index.d) != (count, width):
            expected = f"{count} × {width}"
            raise ValueError(f"Expected {expected} numbers in {file}, found {index.ntotal} × {index.d}. Build the store again.")
        if not _is_whole(index, count, width):
            raise ValueError(f"{file} is damaged: its parts do not fit together. Build the store again from the descriptors.")
        return cls(descriptors, index)


def _quantise(descriptors: Descriptors) -> "faiss.Index":
    """Return a FAISS index of the rounded rows; the range of each of the D numbers is that of all rows."""
    import faiss

    index = faiss.IndexScalarQuantizer(descriptors.shape[1], faiss.ScalarQuantizer.QT_8bit)
    low, high = np.full(descriptors.shape[1], np.inf, np.float32), np.full(descriptors.shape[1], -np.inf, np.float32)
    for block in float32_blocks(descriptors):
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    index.train(np.stack([low, high]) if len(descriptors) else np.zeros((2, descriptors.shape[1]), np.float32))
    for block in float32_blocks(descriptors):
        index.add(block)
    return index


def _is_whole(index: Any, count: int, width: int) -> bool:
    """Return whether a FAISS index has the parts of [`_quantise`]: FAISS does not check their sizes before it reads them."""
    import faiss

    if not isinstance(index, faiss.IndexScalarQuantizer) or index.metric_type != faiss.METRIC_L2:
        return False
    quantizer = index.sq
    sizes = (quantizer.d, quantizer.code_size, index.code_size, quantizer.trained.size(), index.codes.size())
    ranges = faiss.vector_to_array(quantizer.trained)
    is_quantizer = quantizer.qtype == faiss.ScalarQuantizer.QT_8bit
    return bool(is_quantizer and sizes == (width, width, width, 2 * width, count * width) and np.isfinite(ranges).all())


def _select(allowed: NDArray[np.bool_]) -> "faiss.SearchParameters":
    import faiss

    bitmap: Any = np.packbits(allowed, bitorder="little")  # FAISS's type hints describe its C++ arguments only
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))  # type: ignore[call-arg]
