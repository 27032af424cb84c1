"""FAISS's inverted files and product quantisers as vector stores, for benchmarks/compact_search.py to compare `bits` with.

Their best candidates get exact distances from the descriptors, as in every store of the library. The package does not contain
this module.
"""

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.bits import num_candidates
from d2vpr_hf.stores.descriptors import Descriptors, take_rows
from d2vpr_hf.stores.exact import float32_blocks, rescore

# compression: factory string of FAISS, and number of lists to read
FACTORIES = {
    "pq64": ("PQ64", 0),
    "ivf-sq8": ("IVF1024,SQ8", 16),
    "ivf-sq8-64": ("IVF1024,SQ8", 64),
    "ivf-pq64": ("IVF1024,PQ64", 64),
    "opq-pq64": ("OPQ64,PQ64", 0),
}
TRAINING_ROWS = 65_536  # 64 for each list
_FILE = "faiss.index"


class FaissStore:
    """A vector store around an index of `faiss.index_factory`.

    Args:
        compression: Key of [`FACTORIES`].
        descriptors: (N, D).
        index: Index that `save` wrote; `None` builds one.
    """

    def __init__(self, compression: str, descriptors: Descriptors, index: faiss.Index | None = None) -> None:
        self._descriptors = descriptors
        self._index = _build(compression, descriptors) if index is None else index
        if FACTORIES[compression][1]:
            faiss.extract_index_ivf(self._index).nprobe = FACTORIES[compression][1]

    def search(self, queries: NDArray[np.floating], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest descriptors of queries (Q, D), with the same number of candidates as `bits`."""
        count = num_candidates(len(self._descriptors), self._descriptors.shape[1], k)
        rows = self._index.search(np.ascontiguousarray(queries, np.float32), count)[1]  # -1 where there are too few
        return rescore(queries, self._descriptors, rows[:, (rows >= 0).all(axis=0)], k)

    def save(self, path: Path) -> None:
        """Write the FAISS index."""
        faiss.write_index(self._index, str(path / _FILE))

    @classmethod
    def open(cls, compression: str, path: Path, descriptors: Descriptors) -> "FaissStore":
        """Open a store that `save` wrote."""
        return cls(compression, descriptors, faiss.read_index(str(path / _FILE), faiss.IO_FLAG_MMAP_IFC))


def _build(compression: str, descriptors: Descriptors) -> faiss.Index:
    index = faiss.index_factory(descriptors.shape[1], FACTORIES[compression][0])
    rows = np.random.default_rng(0).choice(len(descriptors), min(TRAINING_ROWS, len(descriptors)), replace=False)
    index.train(take_rows(descriptors, np.sort(rows)).astype(np.float32))
    for block in float32_blocks(descriptors, 64 << 20):
        index.add(block)
    return index
