"""Photos a second that Gridtown renders, as a Markdown table, and the ratio of wild photos to others.

    python benchmarks/gridtown_speed.py [--workers 2] [--seconds 10] [--textures DIR]

Each worker is a process of one thread that renders photos of all conditions into memory; building the town is not counted.
Photos that are not wild and the same photos made wild take turns, and the table has the median of the turns. Without
`--textures` the textures of wild photos are random patterns, which cost the same.
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from d2vpr_hf.gridtown import Variation, Wildness, cut_textures, draw_photo, make_town, make_wild

SIZES = (224, 112)
PLACES = 60
TURN = 10  # photos


def count_photos(size: int, seconds: float, textures: str | None) -> list[float]:
    """Render for some seconds in a process of one thread; return the median photos a second, not wild and wild."""
    torch.set_num_threads(1)
    patterns = np.random.default_rng(0).integers(0, 256, (64, 128, 128, 3), dtype=np.uint8)
    town = make_town(1, PLACES, textures=patterns if textures is None else cut_textures(textures, 1))
    plain = [draw_photo(town.city, place, place % 4, 1, Variation()) for place in range(PLACES)]
    kinds = plain, [make_wild(town.city, photo, Wildness(share=1.0)) for photo in plain]
    town.take(kinds[1][:4], (size, size))
    rates: tuple[list[float], list[float]] = [], []
    start, turn = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        first = turn * TURN % PLACES
        for photos, rates_of_kind in zip(kinds, rates, strict=True):
            before = time.perf_counter()
            town.take(photos[first : first + TURN], (size, size))
            rates_of_kind.append(TURN / (time.perf_counter() - before))
        turn += 1
    return [statistics.median(rates_of_kind) for rates_of_kind in rates]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--textures", metavar="DIR")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {arguments.workers} workers of one thread\n")
    print("| pixels | photos/s | wild photos/s | ratio |\n| --- | --- | --- | --- |")
    for size in SIZES:
        with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
            jobs = [(size, arguments.seconds, arguments.textures)] * arguments.workers
            plain, wild = np.sum(list(pool.map(count_photos, *zip(*jobs, strict=True))), axis=0)
        print(f"| {size}×{size} | {plain:.0f} | {wild:.0f} | {wild / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
