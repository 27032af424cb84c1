"""What a store will take, before it is built."""

from dataclasses import dataclass

from d2vpr_hf.stores.bits import num_candidates
from d2vpr_hf.stores.protocol import COMPRESSIONS

_SCAN_SECONDS_PER_BYTE = {"none": 2.5e-10, "half": 2.5e-10, "int8": 1.7e-10, "bits": 0.4e-10}
_RESCORE_SECONDS_PER_NUMBER = 2.5e-9
_OVERHEAD_SECONDS = 0.001


@dataclass(frozen=True)
class Estimate:
    """What a store takes, of N descriptors of D numbers that are stored as float16.

    Attributes:
        compression: The word that chooses it.
        stored_bytes: The descriptors themselves, on disk.
        scanned_bytes: What each search reads: it should fit into memory, as mapped pages or as the store's own.
        latency_seconds: One query, warm, for 10 neighbours on two free cores, from what docs/search.md measured; expect twice
            or half.
    """

    compression: str
    stored_bytes: int
    scanned_bytes: int
    latency_seconds: float


def estimate(count: int, descriptor_dim: int, compression: str) -> Estimate:
    """Estimate memory and latency of a store.

    Raises:
        ValueError: If there is no such compression.
    """
    if compression not in COMPRESSIONS:
        raise ValueError(f"Expected a compression of {', '.join(COMPRESSIONS)}, got {compression!r}.")
    num_bits = 1 << max(3, (descriptor_dim - 1).bit_length())  # the rotation's width is a power of two
    scanned = {"none": 2 * descriptor_dim, "half": 2 * descriptor_dim, "int8": descriptor_dim, "bits": num_bits // 8}
    scanned_bytes = count * scanned[compression]
    rescored = {"bits": num_candidates(count, num_bits, 10), "int8": 42}.get(compression, 10) * descriptor_dim
    seconds = _OVERHEAD_SECONDS + scanned_bytes * _SCAN_SECONDS_PER_BYTE[compression] + rescored * _RESCORE_SECONDS_PER_NUMBER
    return Estimate(compression, 2 * count * descriptor_dim, scanned_bytes, seconds)
