"""Memory and time of evaluating descriptors: of an array, of a mapped file, or of an index with millions of photos.

    python benchmarks/evaluation_memory.py [--database 100000] [--queries 1000] [--dim 4096] [--mapped FOLDER]
    python benchmarks/evaluation_memory.py --database 2800000 --dim 512 --queries 250 --query-sets 4 --index FOLDER

Descriptors are random unit vectors. Each query is a noisy copy of a database row 3 m away, so that the correct match is known:
R@1 must be 100. The first peak is that of the whole process; the descriptors alone take 1.64 GB as float32. `--mapped` stores
them in half precision in a file in that folder and maps it; its pages count as long as the system keeps them in memory.

`--index` makes an index of mock photos in half precision in a new folder, in another process, and evaluates query sets in it as
`d2vpr evaluate --database INDEX` does, with an encoder that returns the queries. Its peak is that of anonymous memory: pages of
the mapped descriptors do not count, because the system drops them when it needs memory.
"""

import argparse
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peak_memory import peak_gigabytes

from d2vpr_hf import PhotoSet, Place, PlaceIndex, evaluate_descriptors
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders import EncodedPhotos
from d2vpr_hf.evaluation import evaluate_query_sets
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.readers.data_sets import QuerySet
from d2vpr_hf.retrieval.compatibility import index_settings

_CHUNK = 4096  # rows drawn at once
_SHARD = 1 << 16  # rows of the index that are added at once
_SIDE = 1700  # places on a side of the grid of the mock photos


class _Queries:
    """Returns noisy copies of the rows of an index, by the numbers in the names of photos."""

    model_name, fingerprint = "mock", "0" * 64
    projection_dim = None
    batch_size, depends_on_batch = 1, False
    runtime = Runtime("torch", "fp32")

    def __init__(self, descriptor_dim: int, index: PlaceIndex | None = None) -> None:
        self.descriptor_dim, self.index = descriptor_dim, index
        self.count = 0

    def encode(self, photos, progress=None, *, order=None):
        """Return noisy rows."""
        assert self.index is not None
        rows = [int(photo.stem) for photo in photos]
        self.count += len(rows)
        return EncodedPhotos(noisy_copies(self.index.descriptors.take(rows)), np.arange(len(rows)), {})


class AnonymousMemory:
    """The largest anonymous memory of this process while the block runs, in GB (1e9 bytes), looked up every 5 ms."""

    def __enter__(self) -> "AnonymousMemory":
        self.peak, self._has_ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._has_ended.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.peak = max(self.peak, int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e9)


def fill(descriptors: NDArray[np.floating], rng: np.random.Generator) -> None:
    """Draw unit vectors in place, chunk by chunk, so that drawing needs no further memory."""
    for start in range(0, len(descriptors), _CHUNK):
        rows = rng.standard_normal((min(_CHUNK, len(descriptors) - start), descriptors.shape[1]), dtype=np.float32)
        descriptors[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)


def noisy_copies(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows of unit length near other ones."""
    noise = np.random.default_rng(1).standard_normal(rows.shape, dtype=np.float32) * np.float32(0.01)
    queries = rows.astype(np.float32) + noise
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def allocate(shape: tuple[int, int], folder: Path | None) -> NDArray[np.floating]:
    """Allocate the database, in memory or in a file."""
    if folder is None:
        return np.empty(shape, np.float32)
    return np.lib.format.open_memmap(folder / "database_descriptors.npy", mode="w+", dtype=np.float16, shape=shape)


def mock_place(number: int, path: str, step: float = 0.0) -> Place:
    """Return the place of a mock photo, on a grid of 30 m in one UTM zone."""
    row, column = divmod(number, _SIDE)
    east, north = 500_000 + 30.0 * column + step, 4_150_000 + 30.0 * row
    return Place(path, utm_east=east, utm_north=north, utm_zone="10S", heading=float(number % 360), timestamp="2018-04")


def make_index(folder: Path, count: int, descriptor_dim: int) -> None:
    """Make an index of mock photos."""
    rng = np.random.default_rng(0)
    with PlaceIndex.create(folder, index_settings(_Queries(descriptor_dim))) as index:
        for start in range(0, count, _SHARD):
            numbers = range(start, min(start + _SHARD, count))
            descriptors = np.empty((len(numbers), descriptor_dim), np.float32)
            fill(descriptors, rng)
            paths = (
                f"{number // 1000:05d}/@{number:012d}@37.70098@-122.49646@kPnABhWJ1kA61eMNPLs1vQ@.jpg" for number in numbers
            )
            index.add(descriptors, [mock_place(number, path) for number, path in zip(numbers, paths, strict=True)])


def evaluate_index(folder: Path, num_queries: int, num_sets: int) -> None:
    """Evaluate query sets in an index, measure and print."""
    with AnonymousMemory() as memory:
        start = time.perf_counter()
        index = PlaceIndex.open(folder)
        encoder = _Queries(index.descriptors.shape[1], index)
        rng = np.random.default_rng(2)
        query_sets = []
        for number in range(num_sets):
            rows = np.sort(rng.choice(len(index), num_queries, replace=False)).tolist()
            places = [mock_place(row, f"{row}.jpg", step=3.0) for row in rows]
            query_sets.append(QuerySet(f"queries_v{number + 1}", PlaceTable(Path("queries"), places, "names")))
        evaluations = evaluate_query_sets(index, query_sets, encoder)
        recalls = [evaluation.to_dict()["recall"]["recall@1"]["recall"] for evaluation in evaluations]
        seconds = time.perf_counter() - start
    print(f"{num_sets} x {num_queries:,} queries, an index of {len(index):,} x {encoder.descriptor_dim}, {seconds:.1f} s")
    print(f"R@1: {', '.join(f'{100 * recall:.1f}' for recall in recalls)}, peak anonymous memory {memory.peak:.2f} GB")
    print(f"{encoder.count:,} photos were encoded; with file pages, the peak is {peak_gigabytes():.2f} GB")


def evaluate_array(arguments: argparse.Namespace) -> None:
    """Evaluate descriptors of an array, measure and print."""
    rng = np.random.default_rng(0)
    database = allocate((arguments.database, arguments.dim), arguments.mapped)
    fill(database, rng)
    chosen = np.sort(rng.choice(len(database), arguments.queries, replace=False))
    queries = noisy_copies(database[chosen])
    places = np.arange(len(database))[:, None] * [100.0, 0.0]
    start = time.perf_counter()
    evaluation = evaluate_descriptors(database, queries, PhotoSet(places), PhotoSet(places[chosen] + [3.0, 0.0]))
    report = evaluation.to_dict()
    seconds = time.perf_counter() - start
    print(
        f"{arguments.queries:,} queries, {arguments.database:,} x {arguments.dim} database, {database.dtype}, {seconds:.1f} s"
    )
    print(f"R@1: {100 * report['recall']['recall@1']['recall']:.1f}, peak memory {peak_gigabytes():.2f} GB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--dim", type=int, default=4_096)
    parser.add_argument("--mapped", type=Path)
    parser.add_argument("--index", type=Path, help="folder of a mock index, which is made if it does not exist")
    parser.add_argument("--query-sets", type=int, default=4, help="with --index")
    arguments = parser.parse_args()
    if arguments.index is None:
        evaluate_array(arguments)
        return
    if not arguments.index.exists():
        maker = multiprocessing.get_context("spawn").Process(
            target=make_index, args=(arguments.index, arguments.database, arguments.dim)
        )
        maker.start()
        maker.join()
    evaluate_index(arguments.index, arguments.queries, arguments.query_sets)


if __name__ == "__main__":
    main()
