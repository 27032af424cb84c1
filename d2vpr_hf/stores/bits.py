"""One bit for each number: signs after a random rotation, compared by counting bits, and exact distances of the nearest rows.

The rotation spreads the information of a few numbers of a descriptor over all bits. Without it recall@10 of a million hard
descriptors of 512 numbers does not exceed 0.87 (docs/search.md).
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, float32_blocks, rescore, rescore_all_ties
from d2vpr_hf.stores.files import map_array, save_array
from d2vpr_hf.stores.protocol import StoreInfo, check_description, write_description
from d2vpr_hf.utils.threads import map_on_cores, num_cores

if TYPE_CHECKING:
    import faiss

SEED = 12_345  # the default of FAISS
SCAN_BYTES = 32 << 20  # bytes of bits that one thread compares at once; bounds the copies of filtered rows
SMALL_SCAN = 2 << 20  # bytes of bits; fewer are not worth a second core
FEW_FORBIDDEN = 8  # a mask that excludes at most one row in eight is applied after the search
CANDIDATES_OF_EACH = 10  # minimum number of candidates for each neighbour
MEAN_ROWS = 10_000  # number of rows whose mean is computed
_BITS, _MEAN = "bits.npy", "mean.npy"
_PROBES = 16  # rows that are checked when a store is opened
_NEVER = np.iinfo(np.int32).max


class BitStore:
    """Signs of rotated descriptors; a search compares the signs of all rows.

    Args:
        descriptors: (N, D) the stored descriptors, whose distances decide among the candidates.
        bits: (N, B) uint8, the signs that `save` wrote; `None` to make them.
        mean: (D,) the mean that is subtracted before the rotation; `None` to compute it.
    """

    compression: ClassVar[str] = "bits"
    scan_seconds_per_byte: ClassVar[float] = 0.4e-10

    def __init__(
        self,
        descriptors: Descriptors,
        bits: NDArray[np.uint8] | None = None,
        mean: NDArray[np.float32] | None = None,
    ) -> None:
        self._descriptors = descriptors
        self._rotation = _rotation(descriptors.shape[1])
        self._mean = _mean(descriptors) if mean is None else mean
        self._bits = self._encode_all() if bits is None else bits

    @property
    def info(self) -> StoreInfo:
        """The size of the store."""
        mapped = self._bits.nbytes if isinstance(self._bits, np.memmap) else 0
        memory = self._mean.nbytes + self._bits.nbytes - mapped
        return StoreInfo("bits", len(self._descriptors), self._descriptors.shape[1], memory, mapped)

    @staticmethod
    def row_bytes(descriptor_dim: int) -> int:
        """Return the bytes of one bit for each rotated number, at least one byte."""
        return max(8, _rotated_dim(descriptor_dim)) // 8

    @staticmethod
    def num_rescored(count: int, descriptor_dim: int, k: int) -> int:
        """Return the number of candidates."""
        return num_candidates(count, max(8, _rotated_dim(descriptor_dim)), k)

    def search(
        self, queries: NDArray[np.floating], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest rows of each query (Q, D): squared distances and row numbers (Q, k)."""
        check_search(queries, self._descriptors, k, allowed)
        count = len(self._bits) if allowed is None else int(allowed.sum())
        wanted = num_candidates(count, self._bits.shape[1] * 8, k)
        if count <= wanted or not len(queries):  # every row is a candidate
            rows = np.arange(count) if allowed is None else np.flatnonzero(allowed)
            candidates = np.broadcast_to(rows, (len(queries), count))
            return rescore(queries, self._descriptors, candidates, min(k, count))

        def nearest(queries: NDArray[np.floating], wanted: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
            return self._nearest_allowed(map_on_cores(self._encode, [queries])[0], wanted, count, allowed)

        return rescore_all_ties(queries, self._descriptors, nearest, k, wanted, count)

    def save(self, path: Path) -> None:
        """Write bits and mean."""
        path.mkdir(parents=True, exist_ok=True)
        save_array(path / _BITS, self._bits)
        save_array(path / _MEAN, self._mean)
        write_description(path, self.info)

    @classmethod
    def open(cls, path: Path, descriptors: Descriptors) -> Self:
        """Open a folder that `save` wrote, and check some rows: another version of FAISS may rotate differently."""
        bits, mean = cls._map(path, descriptors)
        if not np.isfinite(mean).all():
            raise ValueError(f"{path / _MEAN} is damaged: a number is not finite. Build the store again from the descriptors.")
        store = cls(descriptors, bits, np.array(mean))
        for row in range(0, len(bits), max(1, len(bits) // _PROBES)):
            descriptor = descriptors[row : row + 1]
            differing = np.bitwise_count(store._encode(descriptor)[0] ^ bits[row]).sum()
            # a number close to 0 may round to the other sign; a row of zeros stands for a row whose file was removed
            if descriptor.any() and differing > bits.shape[1] * 8 // 100:
                raise ValueError(f"The bits in {path} are not those of the descriptors (row {row}). Build the store again.")
        return store

    @classmethod
    def check(cls, path: Path, descriptors: Descriptors) -> None:
        """Check the description and the sizes of bits and mean."""
        cls._map(path, descriptors)

    @classmethod
    def _map(cls, path: Path, descriptors: Descriptors) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        check_description(path, "bits", descriptors)
        width = descriptors.shape[1]
        bits = map_array(path / _BITS, np.uint8, (len(descriptors), cls.row_bytes(width)))
        return bits, map_array(path / _MEAN, np.float32, (width,))

    def _encode_all(self) -> NDArray[np.uint8]:
        bits = np.empty((len(self._descriptors), self.row_bytes(self._descriptors.shape[1])), np.uint8)
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
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the `wanted` of `count` allowed rows that share the most bits with codes (Q, B), as [`_nearest_bits`] does."""
        if allowed is None:
            return self._nearest_bits(codes, wanted, None)
        forbidden = len(allowed) - count
        # with few forbidden rows, as after removals, more candidates cost less than a copy of the allowed rows
        if forbidden <= len(allowed) // FEW_FORBIDDEN:
            differing, rows = self._nearest_bits(codes, min(len(allowed), wanted + min(forbidden, wanted)), None)
            usable = allowed[rows]
            if (usable.sum(axis=1) >= wanted).all():
                return _smallest(np.where(usable, differing, _NEVER), rows, wanted)
        return self._nearest_bits(codes, wanted, np.flatnonzero(allowed))

    def _nearest_bits(
        self, codes: NDArray[np.uint8], wanted: int, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the numbers of different bits and the rows (Q, wanted), unordered; `rows` of `None` stands for all rows."""
        import faiss

        count = len(self._bits) if rows is None else len(rows)
        size = count * self._bits.shape[1] * (1 + len(codes) // 8)
        parts = max(min(num_cores(), 1 + size // SMALL_SCAN), math.ceil(count * self._bits.shape[1] / SCAN_BYTES))
        bounds = [count * part // parts for part in range(parts + 1)]

        def scan(part: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
            start, stop = bounds[part], bounds[part + 1]
            bits = self._bits[start:stop] if rows is None else self._bits[rows[start:stop]]
            # variant "mc" counts the rows of each distance instead of keeping a heap of 1,000 candidates
            differing, nearest = faiss.knn_hamming(codes, bits, min(wanted, len(bits)), variant="mc")
            return differing, nearest + start if rows is None else rows[start:stop][nearest]

        results = map_on_cores(scan, range(parts))
        differing = np.concatenate([part_differing for part_differing, _ in results], axis=1)
        return _smallest(differing, np.concatenate([part_rows for _, part_rows in results], axis=1), wanted)


def num_candidates(count: int, num_bits: int, k: int) -> int:
    """Return the number of rows whose exact distances are computed: at least 10 for each neighbour, and more for many rows.

    The number grows with the square root of the number of rows. It is larger for fewer bits, because more rows then differ in
    the same number of bits: 1,000 candidates for a million rows of 512 bits, 8,000 for 128 bits, 125 for 2,048 bits. It was
    fitted to a recall@10 of 0.97 on the hard data of `benchmarks/compact_search.py`.
    """
    return min(count, max(CANDIDATES_OF_EACH * k, int(count**0.5 * (512 / num_bits) ** 1.5)))


def _smallest(
    differing: NDArray[np.int32], rows: NDArray[np.int64], wanted: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the `wanted` entries of each query (Q, n) with the fewest different bits, unordered."""
    best = np.argpartition(differing, wanted - 1, axis=1)[:, :wanted]
    return np.take_along_axis(differing, best, axis=1), np.take_along_axis(rows, best, axis=1)


def _rotation(descriptor_dim: int) -> "faiss.HadamardRotation":
    import faiss

    return faiss.HadamardRotation(descriptor_dim, SEED)


def _rotated_dim(descriptor_dim: int) -> int:
    """Return the width of rotated descriptors: the next power of two."""
    return 1 << (descriptor_dim - 1).bit_length()


def _mean(descriptors: Descriptors) -> NDArray[np.float32]:
    """Return the mean (D,) of rows spread over the descriptors; signs of differences from it are more distinctive."""
    step = max(1, len(descriptors) // MEAN_ROWS)
    total = np.zeros(descriptors.shape[1])
    for start in range(0, len(descriptors), step):
        total += descriptors[start : start + 1][0]
    return (total / max(1, len(range(0, len(descriptors), step)))).astype(np.float32)
