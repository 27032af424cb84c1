"""Memory, latency and recall of the vector stores on drawn descriptors, as a Markdown table, a JSON file and a figure.

    python benchmarks/compact_search.py [--scratch FOLDER] [--quick | --case N ...]
    python benchmarks/compact_search.py --index INDEX --queries INDEX

With `--case` only those rows of CASES are measured; they replace the same rows in the JSON file, so that everything can be
measured step by step, while nothing else runs. With `--index` the descriptors are those of an index, and the queries those of
another index (made by `d2vpr index` or `d2vpr evaluate --save-descriptors`); place-R@1 then counts first matches within 25 m.

Without `--index` descriptors are drawn from a fixed seed: ten photos of each place, 100 places in an area, ten areas in a city.
Their components decrease by a power law. The noise of a photo has three levels, given by the cosine between two photos of a
place: 0.9, 0.78, and 0.64, which is hard. Queries are eleventh photos of places. Descriptors are in a temporary float16 file,
which is mapped like those of an index.

Each store is built and saved, then opened and searched by a new process, one query at a time. Memory is that of this process as
Linux counts it: its largest anonymous memory, including the interpreter and its libraries, and separately the pages of mapped
files, which the system may free at any time. "Processor" is the time of a query over all cores: it is more reliable than the
time on the clock if other work shares the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faiss_stores import FACTORIES, FaissStore
from matplotlib.figure import Figure
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, distance_in_metres
from d2vpr_hf.stores import build_store, open_store
from d2vpr_hf.stores.descriptors import Descriptors
from d2vpr_hf.stores.exact import exact_search

PHOTOS = 10  # of each place, without the query
PLACES_OF_AREA, AREAS_OF_CITY = 100, 10
SHARES = (0.15, 0.15, 0.7)  # of a place's variance: by city, by area, by place
FALL = 0.5  # standard deviations of components decrease with this power of their rank
QUERIES = 500
SECONDS = 20  # of searching; later queries are omitted
NEIGHBOURS = 10


def draw(path: Path, count: int, width: int, cosine: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Write descriptors (count, width) to a file; return queries (Q, width) and their places (Q,)."""
    rng = np.random.default_rng(seed)
    scale = (np.arange(1, width + 1) ** -FALL).astype(np.float32)
    scale /= np.linalg.norm(scale)
    noise = np.float32((1 / cosine - 1) ** 0.5)
    places = count // PHOTOS
    query_places = np.sort(rng.choice(places, min(QUERIES, places), replace=False))
    queries = np.empty((len(query_places), width), np.float32)
    written = open_memmap(path, "w+", np.float16, (count, width))
    for start in range(0, places, PLACES_OF_AREA * AREAS_OF_CITY):  # a city at a time
        stop = min(start + PLACES_OF_AREA * AREAS_OF_CITY, places)
        photos = _draw_photos(rng, _draw_city(rng, stop - start, width) * scale, noise * scale)
        written[start * PHOTOS : stop * PHOTOS] = photos[:, :PHOTOS].reshape(-1, width)
        in_city = (query_places >= start) & (query_places < stop)
        queries[in_city] = photos[query_places[in_city] - start, PHOTOS]
    written.flush()
    return queries, query_places


def _draw_city(rng: np.random.Generator, places: int, width: int) -> NDArray[np.float32]:
    """Draw the places of a city (places, width), before their components are scaled."""
    city, areas, rest = (rng.standard_normal((n, width), dtype=np.float32) for n in (1, AREAS_OF_CITY, places))
    weights = np.sqrt(np.float32(SHARES))
    return weights[0] * city + weights[1] * areas[np.arange(places) // PLACES_OF_AREA] + weights[2] * rest


def _draw_photos(rng: np.random.Generator, places: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Draw photos (places, 11, width) of unit length."""
    photos = rng.standard_normal((len(places), PHOTOS + 1, places.shape[1]), dtype=np.float32)
    photos = photos * noise + places[:, None]
    return photos / np.linalg.norm(photos, axis=2, keepdims=True)


class Data(NamedTuple):
    """Descriptors to search, and queries with their correct rows.

    Attributes:
        path: A numpy file, or an index folder.
        queries: (Q, D) float32.
        is_correct: Whether the row of a descriptor shows the place of a query; takes the numbers of query and row.
    """

    path: Path
    queries: NDArray[np.float32]
    is_correct: Callable[[int, int], bool]

    def open(self) -> Descriptors:
        """Return the mapped descriptors (N, D)."""
        return open_descriptors(self.path)


def open_descriptors(path: Path) -> Descriptors:
    """Return mapped descriptors (N, D) of a file or of an index."""
    return PlaceIndex.open(path).descriptors if path.is_dir() else np.load(path, mmap_mode="r")


def drawn_data(path: Path, count: int, width: int, cosine: float) -> Data:
    """Draw descriptors into a file; the correct rows of a query are those of its place."""
    queries, query_places = draw(path, count, width, cosine)
    return Data(path, queries, lambda query, row: bool(row // PHOTOS == query_places[query]))


def real_data(index: Path, queries: Path) -> Data:
    """Take the descriptors of an index, and as queries those of another one; correct rows are within 25 m of the query."""
    opened = PlaceIndex.open(queries)
    rows = np.sort(np.random.default_rng(0).permutation(len(opened))[:QUERIES])
    query_places = [opened.places[row] for row in rows]
    places = PlaceIndex.open(index).places

    def is_correct(query: int, row: int) -> bool:
        distance = distance_in_metres(query_places[query], places[row])
        return distance is not None and distance <= POSITIVE_DIST_THRESHOLD

    return Data(index, opened.descriptors.take(rows).astype(np.float32), is_correct)


def measure(data: Data, compression: str, scratch: Path) -> dict[str, Any]:
    """Build a store, and search it in a new process."""
    descriptors = data.open()
    start = time.perf_counter()
    store = FaissStore(compression, descriptors) if compression in FACTORIES else build_store(descriptors, compression)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        store.save(Path(folder))
        built = time.perf_counter() - start
        np.save(Path(folder) / "queries.npy", data.queries)
        command = [sys.executable, __file__, "--search", folder, "--compression", compression, "--data", str(data.path)]
        searched = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = np.array(searched.pop("rows"))
    shape = {"count": len(descriptors), "width": descriptors.shape[1], "compression": compression, "build_seconds": built}
    return shape | searched | _judge(rows, descriptors, data)


def _judge(rows: NDArray[np.int64], descriptors: Descriptors, data: Data) -> dict[str, float]:
    exact_rows = exact_search(data.queries[: len(rows)], descriptors, NEIGHBOURS)[1]
    shared = [len(set(approximate) & set(exact)) for approximate, exact in zip(rows.tolist(), exact_rows.tolist(), strict=True)]
    is_correct = [[data.is_correct(*pair) for pair in enumerate(top[:, 0].tolist())] for top in (rows, exact_rows)]
    place_recall, exact = (100 * float(np.mean(values)) for values in is_correct)
    return {"recall": float(np.mean(shared)) / NEIGHBOURS, "place_recall": place_recall, "place_recall_exact": exact}


def search_alone(folder: Path, compression: str, data: Path) -> None:
    """Search a saved store and print times, rows and memory. `measure` runs this in a new process."""
    queries = np.load(folder / "queries.npy")
    before = _memory("RssAnon")
    descriptors = open_descriptors(data)
    store = FaissStore.open(compression, folder, descriptors) if compression in FACTORIES else open_store(folder, descriptors)
    for query in queries[:20]:  # warm
        store.search(query[None], NEIGHBOURS)
    seconds, processor = [], []
    rows, anonymous = [], 0
    end = time.perf_counter() + SECONDS
    for query in queries:
        start = time.perf_counter()
        if start > end:
            break
        used = time.process_time()
        nearest = store.search(query[None], NEIGHBOURS)[1][0]
        processor.append(time.process_time() - used)
        seconds.append(time.perf_counter() - start)
        rows.append(nearest.tolist())
        anonymous = max(anonymous, _memory("RssAnon"))
    timed = 1000 * np.array(seconds)
    result = {
        "median_ms": float(np.median(timed)),
        "p95_ms": float(np.percentile(timed, 95)),
        "processor_ms": 1000 * float(np.median(processor)),
        "load_average": os.getloadavg()[0],
        "anonymous_mb": anonymous / 1e6,
        "of_it_before_mb": before / 1e6,
        "mapped_mb": _memory("RssFile") / 1e6,
        "rows": rows,
    }
    print(json.dumps(result))


def _memory(field: str) -> int:
    """Return a field of this process's memory in bytes; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def run(scratch: Path, case: "Case") -> list[dict[str, Any]]:
    """Measure the stores of a case, and print each result."""
    data = drawn_data(scratch / "descriptors.npy", case.count, case.width, case.cosine)
    results = [show({"cosine": case.cosine} | measure(data, compression, scratch)) for compression in case.compressions]
    data.path.unlink()
    return results


def show(result: dict[str, Any]) -> dict[str, Any]:
    """Print a result as a row of the table."""
    print(_row(result), flush=True)
    return result


def join(file: Path, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write results to a file, in which they replace results of the same case; return all of the file's results."""
    earlier = json.loads(file.read_text()) if file.exists() else []
    joined = {_key(result): result for result in [*earlier, *results]}
    sorted_by_case = sorted(joined.values(), key=lambda result: (result["width"], -result["cosine"], result["count"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(sorted_by_case, indent=1) + "\n")
    return sorted_by_case


def _key(result: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(result[name] for name in ("count", "width", "cosine", "compression"))


COLUMNS = (
    *("descriptors", "same place", "compression", "recall@10", "place-R@1 (exact)"),
    *("median", "p95", "processor", "anonymous", "mapped", "build"),
)


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    return "\n".join(["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|", *map(_row, results)])


def _row(result: dict[str, Any]) -> str:
    cells = (
        f"{result['count']:,} × {result['width']}",
        f"{result['cosine'] or 'real'}",
        result["compression"],
        f"{result['recall']:.4f}",
        f"{result['place_recall']:.1f} % ({result['place_recall_exact']:.1f} %)",
        *(f"{result[name]:.1f} ms" for name in ("median_ms", "p95_ms", "processor_ms")),
        *(f"{result[name]:,.0f} MB" for name in ("anonymous_mb", "mapped_mb")),
        f"{result['build_seconds']:.1f} s",
    )
    return "| " + " | ".join(cells) + " |"


def plot_growth(results: list[dict[str, Any]]) -> Figure:
    """Draw latency and recall over the number of descriptors, for hard ones of 512 numbers."""
    grown = [result for result in results if result["width"] == 512 and result["cosine"] == 0.64]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for compression in COMPARED:
        line = sorted((r for r in grown if r["compression"] == compression), key=lambda r: r["count"])
        counts = [result["count"] for result in line]
        drawn = axes[0].plot(counts, [result["median_ms"] for result in line], "o-", markersize=4, label=compression)
        axes[0].plot(counts, [result["p95_ms"] for result in line], ":", color=drawn[0].get_color())
        axes[1].plot(counts, [result["recall"] for result in line], "o-", markersize=4, label=compression)
    axes[0].set(xscale="log", yscale="log", xlabel="descriptors", ylabel="one query / ms (dotted: 95 %)")
    axes[1].set(xscale="log", ylim=(0.9, 1.003), xlabel="descriptors", ylabel="recall@10 against exact search")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    return figure


class Case(NamedTuple):
    """Drawn descriptors, and the compressions to measure on them.

    Attributes:
        count, width: Number of descriptors, and of the numbers in each.
        cosine: Cosine between two photos of a place.
        compressions: Compressions of the library, or keys of [`FACTORIES`].
    """

    count: int
    width: int
    cosine: float
    compressions: list[str]


COMPARED = ["none", "int8", "bits"]  # descriptors are stored as float16, so `half` equals `none`
CASES: list[Case] = [
    Case(10_000, 512, 0.64, COMPARED),
    Case(30_000, 512, 0.64, COMPARED),
    Case(100_000, 512, 0.64, COMPARED),
    Case(300_000, 512, 0.64, COMPARED),
    Case(1_000_000, 512, 0.64, ["bits"]),
    Case(1_000_000, 512, 0.64, ["int8"]),
    Case(1_000_000, 512, 0.64, ["none"]),
    Case(3_000_000, 512, 0.64, ["bits"]),
    Case(10_000_000, 512, 0.64, ["bits"]),
    Case(1_000_000, 512, 0.78, ["bits"]),
    Case(1_000_000, 512, 0.9, ["bits"]),
    Case(100_000, 4096, 0.64, ["bits"]),
    Case(100_000, 4096, 0.64, ["int8"]),
    Case(100_000, 4096, 0.64, ["none"]),
    *(Case(1_000_000, 512, 0.64, [compression]) for compression in FACTORIES),
]


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="Folder for temporary files; 11 GB (2 GB without the largest case).")
    parser.add_argument("--quick", action="store_true", help="Up to 30,000 descriptors only.")
    parser.add_argument("--case", type=int, nargs="+", help=f"Numbers of the cases, from 0 to {len(CASES) - 1}.")
    parser.add_argument("--index", type=Path, help="Measure the descriptors of this index instead of drawn ones.")
    parser.add_argument("--queries", type=Path, help="With --index: an index of query photos.")
    parser.add_argument("--out", type=Path, default=Path("build/compact_search"), help="Folder of JSON file and figure.")
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--compression", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write and draw."""
    arguments = parse()
    if arguments.search:
        search_alone(arguments.search, arguments.compression, arguments.data)
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        if arguments.index:
            data = real_data(arguments.index, arguments.queries)
            print(table([]))
            for compression in COMPARED:
                show({"cosine": None} | measure(data, compression, Path(scratch)))
            return
        cases = CASES if arguments.case is None else [CASES[number] for number in arguments.case]
        chosen = [case for case in cases if case.count <= 30_000 or not arguments.quick]
        results = [result for case in chosen for result in run(Path(scratch), case)]
    joined = join(arguments.out / "compact_search.json", results)
    plot_growth(joined).savefig(arguments.out / "compact_search.png", dpi=110)
    print("\n" + table(joined))


if __name__ == "__main__":
    main()
