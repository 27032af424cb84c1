"""Eight bits a number: FAISS's scalar quantiser, and exact distances of the best."""

from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, float32_blocks, rescore
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.utils.atomic_files import store_file
from d2vpr_hf.utils.threads import map_on_cores, num_cores

EXTRA_CANDIDATES = 32  # beyond k: with k of 10 none was missed among a million hard descriptors (docs/search.md)
_FILE = "int8.faiss"


class Int8Store:
    """Descriptors in 256 steps between the least and the largest value of each of their numbers.

    Args:
        descriptors: (N, D) the stored ones, which decide.
        index: The FAISS index that `save` wrote; `None` to make it.
    """

    def __init__(self, descriptors: Descriptors, index: faiss.Index | None = None) -> None:
        self._descriptors = descriptors
        self._mapped = index is not None
        self._index = _quantise(descriptors) if index is None else index

    @property
    def info(self) -> StoreInfo:
        """Say what the store holds."""
        count, width = self._descriptors.shape
        sizes = (0, count * width) if self._mapped else (count * width, 0)
        return StoreInfo("int8", count, width, *sizes)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest of each query (Q, D): squared distances and rows (Q, k)."""
        check_search(queries, self._descriptors, k, allowed)
        count = len(self._descriptors) if allowed is None else int(allowed.sum())
        if not count or not len(queries):
            return np.empty((len(queries), min(k, count)), np.float32), np.empty((len(queries), min(k, count)), np.int64)
        parameters = None if allowed is None else _select(allowed)
        wanted = min(count, k + EXTRA_CANDIDATES)
        parts = np.array_split(np.ascontiguousarray(queries, np.float32), min(num_cores(), len(queries)))
        found = map_on_cores(lambda part: self._index.search(part, wanted, params=parameters)[1], parts)
        return rescore(queries, self._descriptors, np.concatenate(found), min(k, count))

    def save(self, path: Path) -> None:
        """Write the FAISS index."""
        store_file(path / _FILE, lambda scratch: faiss.write_index(self._index, str(scratch)))
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote."""
        check_description(path, "int8", descriptors)
        index = _map_index(path / _FILE)
        if (index.ntotal, index.d) != (len(descriptors), descriptors.shape[1]):
            found = f"{index.ntotal} × {index.d}"
            expected = f"{len(descriptors)} × {descriptors.shape[1]}"
            raise ValueError(f"Expected {expected} numbers in {path / _FILE}, found {found}. Build the store anew.")
        return cls(descriptors, index)


def _quantise(descriptors: Descriptors) -> faiss.Index:
    """Learn the range of each number from all rows, then round them."""
    index = faiss.IndexScalarQuantizer(descriptors.shape[1], faiss.ScalarQuantizer.QT_8bit)
    low, high = np.full(descriptors.shape[1], np.inf, np.float32), np.full(descriptors.shape[1], -np.inf, np.float32)
    for block in float32_blocks(descriptors):
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    index.train(np.stack([low, high]) if len(descriptors) else np.zeros((2, descriptors.shape[1]), np.float32))
    for block in float32_blocks(descriptors):
        index.add(block)
    return index


def _select(allowed: NDArray[np.bool_]) -> faiss.SearchParameters:
    bitmap: Any = np.packbits(allowed, bitorder="little")  # FAISS's hints know its C++ arguments only
    return faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))  # type: ignore[call-arg]


def _map_index(path: Path) -> faiss.Index:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Build the store anew from the descriptors.")
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:  # FAISS's word for everything
        raise ValueError(f"{path} is damaged. Build the store anew from the descriptors.") from error
