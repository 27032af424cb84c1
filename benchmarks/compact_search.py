"""Memory, latency and recall of the vector stores on drawn descriptors, as a Markdown table, a JSON file and a figure.

    python benchmarks/compact_search.py [--scratch FOLDER] [--quick]

The descriptors are drawn from a fixed seed: places of ten photos each, 100 places an area, ten areas a city; numbers fall off
as a power law; the noise of a photo has three levels, by the cosine that two photos of a place have: 0.9, 0.78, and the hard
0.64. Queries are eleventh photos of places. Descriptors lie in a temporary file of float16, which is mapped as an index's are.

Each store is built and saved, then opened and searched, one query at a time, by a fresh process. Memory is that process's, as
Linux counts it: its largest anonymous memory, which the interpreter and its libraries share, and beside it the pages of mapped
files, which the system may take back at any time. "Processor" is what a query takes of all cores together: it tells more than
the time on the clock where other work shares the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from d2vpr_hf.search import exact_search
from d2vpr_hf.stores import build_store, open_store

PHOTOS, PLACES_OF_AREA, AREAS_OF_CITY = 10, 100, 10
SHARES = (0.15, 0.15, 0.7)  # of a place's variance: its city's, its area's, its own
FALL = 0.5  # standard deviations of numbers fall as this power of their rank
QUERIES = 500
SECONDS = 20  # of searching, after which what was found so far is judged
NEIGHBOURS = 10


def draw(path: Path, count: int, width: int, cosine: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Write descriptors (count, width) to a file; return queries (Q, width) and the places they belong to (Q,)."""
    rng = np.random.default_rng(seed)
    scale = (np.arange(1, width + 1) ** -FALL).astype(np.float32)
    scale /= np.linalg.norm(scale)
    noise = np.float32((1 / cosine - 1) ** 0.5)
    places = count // PHOTOS
    asked = np.sort(rng.choice(places, min(QUERIES, places), replace=False))
    queries = np.empty((len(asked), width), np.float32)
    written = open_memmap(path, "w+", np.float16, (count, width))
    for start in range(0, places, PLACES_OF_AREA * AREAS_OF_CITY):  # a city at a time
        stop = min(start + PLACES_OF_AREA * AREAS_OF_CITY, places)
        photos = _draw_photos(rng, _draw_city(rng, stop - start, width) * scale, noise * scale)
        written[start * PHOTOS : stop * PHOTOS] = photos[:, :PHOTOS].reshape(-1, width)
        here = (asked >= start) & (asked < stop)
        queries[here] = photos[asked[here] - start, PHOTOS]
    written.flush()
    return queries, asked


def _draw_city(rng: np.random.Generator, places: int, width: int) -> NDArray[np.float32]:
    """Draw the places of a city (places, width), before numbers fall off."""
    city, areas, own = (rng.standard_normal((n, width), dtype=np.float32) for n in (1, AREAS_OF_CITY, places))
    weights = np.sqrt(np.float32(SHARES))
    return weights[0] * city + weights[1] * areas[np.arange(places) // PLACES_OF_AREA] + weights[2] * own


def _draw_photos(rng: np.random.Generator, places: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
    """Draw photos (places, 11, width) of unit length."""
    photos = rng.standard_normal((len(places), PHOTOS + 1, places.shape[1]), dtype=np.float32)
    photos = photos * noise + places[:, None]
    return photos / np.linalg.norm(photos, axis=2, keepdims=True)


def measure(data: Path, queries: NDArray[np.float32], asked: NDArray[np.int64], compression: str) -> dict[str, Any]:
    """Build a store, and search it in a process of its own."""
    descriptors = np.load(data, mmap_mode="r")
    start = time.perf_counter()
    store = build_store(descriptors, compression)  # type: ignore[arg-type] # one of COMPRESSIONS
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        store.save(Path(folder))
        built = time.perf_counter() - start
        np.save(Path(folder) / "queries.npy", queries)
        command = [sys.executable, __file__, "--search", folder, "--data", str(data)]
        searched = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rows = np.array(searched.pop("rows"))
    return {"compression": compression, "build_seconds": built} | searched | _judge(rows, descriptors, queries, asked)


def _judge(
    rows: NDArray[np.int64], descriptors: NDArray[np.float16], queries: NDArray[np.float32], asked: NDArray[np.int64]
) -> dict[str, float]:
    queries, asked = queries[: len(rows)], asked[: len(rows)]
    truth = exact_search(queries, descriptors, NEIGHBOURS)[1]
    shared = [len(set(found) & set(right)) for found, right in zip(rows.tolist(), truth.tolist(), strict=True)]
    first = [100 * float((top[:, 0] // PHOTOS == asked).mean()) for top in (rows, truth)]
    return {"recall": float(np.mean(shared)) / NEIGHBOURS, "place_recall": first[0], "place_recall_exact": first[1]}


def search_alone(folder: Path, data: Path) -> None:
    """Search a saved store and print times, rows and memory: what the process of its own does."""
    queries = np.load(folder / "queries.npy")
    before = _memory("RssAnon")
    store = open_store(folder, np.load(data, mmap_mode="r"))
    for query in queries[:20]:  # warm
        store.search(query[None], NEIGHBOURS)
    seconds, processor, rows, anonymous = [], [], [], 0
    end = time.perf_counter() + SECONDS
    for query in queries:
        start = time.perf_counter()
        if start > end:
            break
        used = time.process_time()
        found = store.search(query[None], NEIGHBOURS)[1][0]
        processor.append(time.process_time() - used)
        seconds.append(time.perf_counter() - start)
        rows.append(found.tolist())
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
    """Read a field of this process's memory in bytes; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def run(scratch: Path, cases: list[tuple[int, int, float, list[str]]]) -> list[dict[str, Any]]:
    """Measure stores on each case: count, width, cosine, compressions."""
    results = []
    for count, width, cosine, compressions in cases:
        data = scratch / "descriptors.npy"
        queries, asked = draw(data, count, width, cosine)
        for compression in compressions:
            case = {"count": count, "width": width, "cosine": cosine}
            results.append(case | measure(data, queries, asked, compression))
            print(table(results[-1:]).splitlines()[-1], flush=True)
        data.unlink()
    return results


COLUMNS = (
    *("descriptors", "same place", "compression", "recall@10", "place-R@1 (exact)"),
    *("median", "p95", "processor", "anonymous", "mapped", "build"),
)


def table(results: list[dict[str, Any]]) -> str:
    """Lay out the results."""
    return "\n".join(["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|", *map(_row, results)])


def _row(result: dict[str, Any]) -> str:
    cells = (
        f"{result['count']:,} × {result['width']}",
        f"{result['cosine']}",
        result["compression"],
        f"{result['recall']:.4f}",
        f"{result['place_recall']:.1f} % ({result['place_recall_exact']:.1f} %)",
        *(f"{result[name]:.1f} ms" for name in ("median_ms", "p95_ms", "processor_ms")),
        *(f"{result[name]:,.0f} MB" for name in ("anonymous_mb", "mapped_mb")),
        f"{result['build_seconds']:.1f} s",
    )
    return "| " + " | ".join(cells) + " |"


def plot_growth(results: list[dict[str, Any]]) -> Figure:
    """Draw latency and recall over the number of descriptors of 512 numbers, hard."""
    grown = [result for result in results if result["width"] == 512 and result["cosine"] == 0.64]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for compression in MEASURED:
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


# of stored float16, `half` is `none`
MEASURED = ["none", "int8", "bits"]
CASES: list[tuple[int, int, float, list[str]]] = [
    (10_000, 512, 0.64, MEASURED),
    (30_000, 512, 0.64, MEASURED),
    (100_000, 512, 0.64, MEASURED),
    (300_000, 512, 0.64, MEASURED),
    (1_000_000, 512, 0.64, MEASURED),
    (1_000_000, 512, 0.78, ["bits"]),
    (1_000_000, 512, 0.9, ["bits"]),
    (100_000, 4096, 0.64, MEASURED),
]


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="Folder for temporary files; 2 GB are needed.")
    parser.add_argument("--quick", action="store_true", help="Up to 30,000 descriptors only.")
    parser.add_argument("--out", type=Path, default=Path("build/compact_search"), help="Folder of JSON file and figure.")
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.search:
        search_alone(arguments.search, arguments.data)
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        results = run(Path(scratch), [case for case in CASES if case[0] <= 30_000 or not arguments.quick])
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "compact_search.json").write_text(json.dumps(results, indent=1) + "\n")
    plot_growth(results).savefig(arguments.out / "compact_search.png", dpi=110)
    print("\n" + table(results))


if __name__ == "__main__":
    main()
