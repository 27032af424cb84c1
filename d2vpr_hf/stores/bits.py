"""One bit a number: signs after a random rotation, compared by counting bits, and exact distances of the best.

The rotation spreads what a few numbers of a descriptor hold over all bits. Without it recall@10 of a hard million × 512 stalls
at 0.87 (docs/search.md).
"""

import math
from pathlib import Path
from typing import Self

import faiss
import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, float32_blocks, rescore
from d2vpr_hf.stores.files import map_array, save_array
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.utils.threads import map_on_cores, num_cores

SEED = 12_345  # FAISS's own
SCAN_BYTES = 32 << 20  # bits that one thread compares at once, which bounds the copies of filtered rows
SMALL_SCAN = 2 << 20  # bytes of bits that a second core is not worth
FEW_FORBIDDEN = 8  # a mask that forbids less than one row in so many is applied to what was found
CANDIDATES_OF_EACH = 10  # of each neighbour wanted, at least
MEAN_ROWS = 10_000  # rows that the mean is taken of
_BITS, _MEAN = "bits.npy", "mean.npy"
_PROBES = 16
_NEVER = np.iinfo(np.int32).max


class BitStore:
    """Signs of rotated descriptors, flat.

    Args:
        descriptors: (N, D) the stored ones, which decide among the candidates.
        bits: (N, B) uint8, what `save` wrote; `None` to make them.
        mean: (D,) what is taken from descriptors before they are rotated; `None` with `bits`.
    """

    def __init__(
        self,
        descriptors: Descriptors,
        bits: NDArray[np.uint8] | None = None,
        mean: NDArray[np.float32] | None = None,
    ) -> None:
        self._descriptors = descriptors
        self._rotation = faiss.HadamardRotation(descriptors.shape[1], SEED)
        self._mean = _mean(descriptors) if mean is None else mean
        self._bits = self._encode_all() if bits is None else bits

    @property
    def info(self) -> StoreInfo:
        """Say what the store holds."""
        own, mapped = self._mean.nbytes, isinstance(self._bits, np.memmap)
        sizes = (own, self._bits.nbytes) if mapped else (own + self._bits.nbytes, 0)
        return StoreInfo("bits", len(self._descriptors), self._descriptors.shape[1], *sizes)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest of each query (Q, D): squared distances and rows (Q, k)."""
        check_search(queries, self._descriptors, k, allowed)
        count = len(self._bits) if allowed is None else int(allowed.sum())
        wanted = num_candidates(count, self._bits.shape[1] * 8, k)
        if count <= wanted or not len(queries):  # nothing to choose by bits
            everything = np.arange(count) if allowed is None else np.flatnonzero(allowed)
            candidates = np.broadcast_to(everything, (len(queries), count))
            return rescore(queries, self._descriptors, candidates, min(k, count))
        codes = map_on_cores(self._encode, [queries])[0]
        return rescore(queries, self._descriptors, self._nearest_allowed(codes, wanted, count, allowed), k)

    def save(self, path: Path) -> None:
        """Write bits and mean."""
        path.mkdir(parents=True, exist_ok=True)
        save_array(path / _BITS, self._bits)
        save_array(path / _MEAN, self._mean)
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote."""
        check_description(path, "bits", descriptors)
        width = _num_bytes(faiss.HadamardRotation(descriptors.shape[1], SEED))
        bits = map_array(path / _BITS, np.uint8, (len(descriptors), width))
        mean = map_array(path / _MEAN, np.float32, (descriptors.shape[1],))
        store = cls(descriptors, bits, np.array(mean))
        store._check_probes(path)
        return store

    def _encode_all(self) -> NDArray[np.uint8]:
        bits = np.empty((len(self._descriptors), _num_bytes(self._rotation)), np.uint8)
        start = 0
        for block in float32_blocks(self._descriptors):
            bits[start : start + len(block)] = self._encode(block)
            start += len(block)
        return bits

    def _encode(self, descriptors: NDArray[np.floating]) -> NDArray[np.uint8]:
        centred = np.ascontiguousarray(descriptors, np.float32) - self._mean
        return np.packbits(self._rotation.apply(centred) > 0, axis=1)

    def _nearest_allowed(
        self, codes: NDArray[np.uint8], wanted: int, count: int, allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Return the rows (Q, wanted) that share the most bits with codes (Q, B), of `count` allowed ones, in no order."""
        if allowed is None:
            return self._nearest_bits(codes, wanted, None)[1]
        forbidden = len(allowed) - count
        if (
            forbidden <= len(allowed) // FEW_FORBIDDEN
        ):  # as after removals: cheaper to find some too many than to copy the others
            differing, rows = self._nearest_bits(codes, min(len(allowed), wanted + min(forbidden, wanted)), None)
            usable = allowed[rows]
            if (usable.sum(axis=1) >= wanted).all():
                return _smallest(np.where(usable, differing, _NEVER), rows, wanted)[1]
        return self._nearest_bits(codes, wanted, np.flatnonzero(allowed))[1]

    def _nearest_bits(
        self, codes: NDArray[np.uint8], wanted: int, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return how many bits differ, and the rows (Q, wanted), of all rows or of some, in no order."""
        count = len(self._bits) if rows is None else len(rows)
        size = count * self._bits.shape[1] * (1 + len(codes) // 8)
        parts = max(min(num_cores(), 1 + size // SMALL_SCAN), math.ceil(count * self._bits.shape[1] / SCAN_BYTES))
        bounds = [count * part // parts for part in range(parts + 1)]

        def scan(part: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
            start, stop = bounds[part], bounds[part + 1]
            bits = self._bits[start:stop] if rows is None else self._bits[rows[start:stop]]
            differing, found = faiss.knn_hamming(codes, bits, min(wanted, len(bits)), variant="mc")  # counts: no heap of 1,000
            return differing, found + start if rows is None else rows[start:stop][found]

        found = map_on_cores(scan, range(parts))
        differing, numbers = (np.concatenate(columns, axis=1) for columns in zip(*found, strict=True))
        return _smallest(differing, numbers, wanted)

    def _check_probes(self, path: Path) -> None:
        """Make sure that bits and descriptors belong together, and that this FAISS rotates as the one that made them did."""
        step = max(1, len(self._bits) // _PROBES)
        for row in range(0, len(self._bits), step):
            descriptor = self._descriptors[row : row + 1]
            differing = np.bitwise_count(self._encode(descriptor)[0] ^ self._bits[row]).sum()
            # a number that is nearly 0 may round to the other side; a row of zeros is one that is gone
            if descriptor.any() and differing > self._bits.shape[1] * 8 // 100:
                raise ValueError(f"The bits in {path} are not those of the descriptors (row {row}). Build the store anew.")


def num_candidates(count: int, num_bits: int, k: int) -> int:
    """Return how many rows to take the exact distances of: at least 10 a neighbour, growing as the root of the rows.

    The fewer bits there are, the more chance decides between them: 1,000 candidates for a million rows of 512 bits, 8,000 for
    128 bits, 125 for 2,048. Fitted to what recall@10 of 0.97 needs on the hard data of `benchmarks/compact_search.py`.
    """
    return min(count, max(CANDIDATES_OF_EACH * k, int(count**0.5 * (512 / num_bits) ** 1.5)))


def _smallest(
    differing: NDArray[np.int32], rows: NDArray[np.int64], wanted: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the `wanted` entries of each query (Q, n) that differ least, in no order."""
    best = np.argpartition(differing, wanted - 1, axis=1)[:, :wanted]
    return np.take_along_axis(differing, best, axis=1), np.take_along_axis(rows, best, axis=1)


def _num_bytes(rotation: faiss.HadamardRotation) -> int:
    """Return the bytes that the bits of one descriptor take; fewer than eight are filled up."""
    return math.ceil(rotation.d_out / 8)


def _mean(descriptors: Descriptors) -> NDArray[np.float32]:
    """Return the mean (D,) of rows spread over all; signs about it tell more than signs about 0."""
    step = max(1, len(descriptors) // MEAN_ROWS)
    total = np.zeros(descriptors.shape[1])
    for start in range(0, len(descriptors), step):
        total += descriptors[start : start + 1][0]
    return (total / max(1, len(range(0, len(descriptors), step)))).astype(np.float32)
