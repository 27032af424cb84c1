"""Memory and time of evaluating 100,000 database descriptors of 4,096 numbers, given as an array or mapped from a file.

    python benchmarks/evaluation_memory.py [--database 100000] [--queries 1000] [--dim 4096] [--mapped FOLDER]

Descriptors are random unit vectors. Each query is a noisy copy of a database row 3 m away, so that the correct match is known:
R@1 must be 100. The peak is that of the whole process; the descriptors alone take 1.64 GB as float32. `--mapped` stores them in
half precision in a file in that folder and maps it; its pages count as long as the system keeps them in memory.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peak_memory import peak_gigabytes

from d2vpr_hf import PhotoSet, evaluate_descriptors

_CHUNK = 4096  # rows drawn at once


def fill(descriptors: NDArray[np.floating], rng: np.random.Generator) -> None:
    """Draw unit vectors in place, chunk by chunk, so that drawing needs no further memory."""
    for start in range(0, len(descriptors), _CHUNK):
        rows = rng.standard_normal((min(_CHUNK, len(descriptors) - start), descriptors.shape[1]), dtype=np.float32)
        descriptors[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)


def allocate(shape: tuple[int, int], folder: Path | None) -> NDArray[np.floating]:
    """Allocate the database, in memory or in a file."""
    if folder is None:
        return np.empty(shape, np.float32)
    return np.lib.format.open_memmap(folder / "database_descriptors.npy", mode="w+", dtype=np.float16, shape=shape)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--dim", type=int, default=4_096)
    parser.add_argument("--mapped", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    database = allocate((arguments.database, arguments.dim), arguments.mapped)
    fill(database, rng)
    chosen = np.sort(rng.choice(len(database), arguments.queries, replace=False))
    queries = database[chosen].astype(np.float32)
    queries += rng.standard_normal(queries.shape, dtype=np.float32) * np.float32(0.01)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    places = np.arange(len(database))[:, None] * [100.0, 0.0]
    start = time.perf_counter()
    evaluation = evaluate_descriptors(database, queries, PhotoSet(places), PhotoSet(places[chosen] + [3.0, 0.0]))
    report = evaluation.to_dict()
    seconds = time.perf_counter() - start
    print(
        f"{arguments.queries:,} queries, {arguments.database:,} x {arguments.dim} database, {database.dtype}, {seconds:.1f} s"
    )
    print(f"R@1: {100 * report['recall']['recall@1']['recall']:.1f}, peak memory {peak_gigabytes():.2f} GB")


if __name__ == "__main__":
    main()
