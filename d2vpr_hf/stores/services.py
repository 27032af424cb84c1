"""Parts that the stores of services share: addresses, recorded connections, checksums of rows, and the search for candidates.

A service finds candidates by distances in float32. The stored descriptors decide, as in every store: exact distances sort the
candidates, and more of them are fetched until no other row can be as near as the k-th one, because a service returns any of
the rows that are equally near.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import check_search, exact_search, relative_rounding, rescore
from d2vpr_hf.utils.atomic_files import write_file
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.confirmed_names import VARIABLES, is_confirmed

EXTRA_CANDIDATES = 16  # in addition to k: rounding swaps neighbours only if they are close
_GROWTH = 8  # factor of the number of candidates where many rows are equally near
_SAMPLED_ROWS = 16  # rows at a service that are compared before its data are removed

# (queries (Q, D) in float32, number of candidates) -> rows (Q, number)
FindCandidates = Callable[[NDArray[np.float32], int], NDArray[np.int64]]


def search_candidates(
    queries: NDArray[np.floating],
    descriptors: Descriptors,
    k: int,
    allowed: NDArray[np.bool_] | None,
    find: FindCandidates,
    *,
    max_candidates: int,
    queries_at_once: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest rows among the candidates of a service, as [`VectorStore.search`] does.

    Args:
        queries: (Q, D).
        descriptors: (N, D), whose distances decide.
        k: Number of neighbours.
        allowed: (N,) mask of the rows that `find` chooses from; `None` for all.
        find: Returns the rows of the nearest candidates.
        max_candidates: The largest number that `find` takes; more are searched exactly, without the service.
        queries_at_once: The largest number of queries that `find` takes.

    Raises:
        ValueError: If arguments do not fit.
    """
    check_search(queries, descriptors, k, allowed)
    count = len(descriptors) if allowed is None else int(allowed.sum())
    wanted, k = min(count, k + EXTRA_CANDIDATES), min(k, count)
    if wanted > max_candidates:
        return exact_search(queries, descriptors, k, allowed)

    def search(part: NDArray[np.floating], wanted: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search among `wanted` candidates, and among more for queries that others may be as near to as the k-th row."""
        candidates = find(np.ascontiguousarray(part, np.float32), wanted)
        ranked, rows = rescore(part, descriptors, candidates, wanted)
        distances, rows = ranked[:, :k].copy(), rows[:, :k].copy()
        unsure = np.flatnonzero(_may_miss(part, ranked, k)) if wanted < count else np.empty(0, np.int64)
        if not len(unsure):
            return distances, rows
        if wanted == max_candidates:
            distances[unsure], rows[unsure] = exact_search(part[unsure], descriptors, k, allowed)
        else:
            distances[unsure], rows[unsure] = search(part[unsure], min(count, max_candidates, _GROWTH * wanted))
        return distances, rows

    distances, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries) if k else 0, queries_at_once):
        part = slice(start, start + queries_at_once)
        distances[part], rows[part] = search(queries[part], wanted)
    return distances, rows


def _may_miss(queries: NDArray[np.floating], ranked: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Return for each query whether a row that is not a candidate may be as near as the k-th nearest candidate.

    The farthest candidate is nearer than all other rows by the service's float32 distances, and by exact ones up to their
    rounding.

    Args:
        queries: (Q, D).
        ranked: (Q, R) exact squared distances of the candidates, ascending.
        k: Number of neighbours.
    """
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    kth, farthest = ranked[:, k - 1].astype(np.float64), ranked[:, -1].astype(np.float64)
    rounding = relative_rounding(queries.shape[1]) * (norms**2 + (norms + np.sqrt(farthest)) ** 2)
    return farthest - kth <= 2 * rounding


def runs_of(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the first and last row of each run of true values (R, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return edges.reshape(-1, 2) - np.array([0, 1])


def check_address(uri: str, service: str, kind: str, key: Callable[[str], str]) -> None:
    """Raise ValueError unless the user gave an address, on the command line, in Python or in the environment.

    Args:
        uri: The address, as an index records it.
        service: Name of the service.
        kind: The word that chooses it.
        key: Returns the recorded form of an address, as of [`RemoteStore.key`].
    """
    if not is_confirmed("addresses", uri, key):
        raise ValueError(
            f"The index names {service} at {uri}, an address that you did not give on this machine, so that it is not used. If "
            f"it is yours, set the environment variable {VARIABLES['addresses']}={uri}, or build the store with "
            f'`store="{kind}"` and `uri="{uri}"`.'
        )


def sampled_rows(count: int) -> list[int]:
    """Return the rows of `count` whose hashes are in a checksum."""
    return sorted(set(np.linspace(0, count - 1, min(count, _SAMPLED_ROWS)).astype(int).tolist()))


def rows_checksum(descriptors: Descriptors) -> str:
    """Return the number of descriptors, and hashes of some of them as float32."""
    rows = sampled_rows(len(descriptors))
    return ":".join([str(len(descriptors)), *(row_hash(row, descriptors[row : row + 1]) for row in rows)])


def is_rows_checksum(checksum: str) -> bool:
    """Return whether a text is in the form of [`rows_checksum`]; the checksums of earlier versions are not."""
    return re.fullmatch(r"\d{1,12}(:[0-9a-f]{16})*", checksum) is not None


def checksum_rows(checksum: str) -> list[int]:
    """Return the rows whose hashes [`rows_checksum`] has written into a checksum."""
    return sampled_rows(int(checksum.partition(":")[0]))


def row_hash(row: int, descriptor: Any) -> str:
    """Return a hash of the number and the descriptor of a row."""
    return hashlib.sha256(f"{row} ".encode() + np.asarray(descriptor, np.float32).tobytes()).hexdigest()[:16]


def fits_checksum(checksum: str, count: int, rows: dict[int, Any]) -> bool:
    """Return whether `count` rows, of which some are given, are those of a checksum or the first of them."""
    recorded_count, *hashes = checksum.split(":")
    sampled = checksum_rows(checksum)
    hash_of = dict(zip(sampled, hashes, strict=False))
    are_equal = all(hash_of.get(row) == row_hash(row, descriptor) for row, descriptor in rows.items())
    return are_equal and count <= int(recorded_count) and rows.keys() >= {row for row in sampled if row < count}


def record_connection(path: Path, name: str, values: dict[str, str]) -> None:
    """Write the address of data at a service into the store's folder, which is created."""
    path.mkdir(parents=True, exist_ok=True)
    write_file(path / name, json.dumps(values, indent=2) + "\n")


def read_connection(path: Path, name: str, keys: tuple[str, str]) -> tuple[str, str]:
    """Read what [`record_connection`] wrote: the values of two keys.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    try:
        connection = parse_json((path / name).read_text(encoding="utf-8"))
        return connection[keys[0]], connection[keys[1]]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path / name} is missing. Build the store again from the descriptors.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / name} is damaged. Build the store again from the descriptors.") from error
