"""Photos a second that Gridtown renders, as a Markdown table.

    python benchmarks/gridtown_speed.py [--workers 2] [--seconds 10]

Each worker is a process of one thread that renders photos of all conditions into memory; building the town is not counted.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from d2vpr_hf.gridtown import Variation, draw_photo, make_town

SIZES = (224, 112)
PLACES = 60


def count_photos(size: int, seconds: float) -> float:
    """Render for some seconds in a process of one thread; return photos a second."""
    torch.set_num_threads(1)
    town = make_town(1, PLACES)
    photos = [draw_photo(town.city, place, place % 4, 1, Variation()) for place in range(PLACES)]
    town.take(photos[:4], (size, size))
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        town.take([photos[count % PLACES]], (size, size))
        count += 1
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.workers} workers of one thread\n\n| pixels | photos/s |\n| --- | --- |")
    for size in SIZES:
        with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
            rates = pool.map(count_photos, [size] * arguments.workers, [arguments.seconds] * arguments.workers)
        print(f"| {size}×{size} | {sum(rates):.0f} |", flush=True)


if __name__ == "__main__":
    main()
