"""Time of reading timestamps, and of the consensus of a query's matches.

    python benchmarks/localization_speed.py [--rounds 7]

Times are medians. Texts of times are all different, as in an index of photos; the parser keeps the latest ones.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from d2vpr_hf.index import Match
from d2vpr_hf.localization import estimate_position
from d2vpr_hf.places import Place
from d2vpr_hf.places.place import with_utm
from d2vpr_hf.places.timestamps import to_seconds

NUM_TIMES = 200_000
NUM_ESTIMATES = 500


def timestamps() -> list[str]:
    """Return different texts, half of them in the form of EXIF and half of them seconds."""
    exif = [
        f"2024:{1 + n % 12:02d}:{1 + n % 28:02d} {n % 24:02d}:{n % 60:02d}:{n % 59:02d}.{n:06d}" for n in range(NUM_TIMES // 2)
    ]
    return exif + [f"{1_714_566_600 + n}.25" for n in range(NUM_TIMES // 2)]


def matches() -> dict[str, list[Match]]:
    """Return ten matches of a query, by where their positions are."""
    positions = {
        "in one UTM zone": [(48.1 + 0.0001 * n, 11.5) for n in range(10)],
        "in two UTM zones": [(51.5, 0.0001 * (n - 5)) for n in range(10)],
        "all over the world": [(8.0 * n - 40, 35.0 * n - 170) for n in range(10)],
    }
    places = {name: [with_utm(Place("", *degrees)) for degrees in rows] for name, rows in positions.items()}
    places["in a local frame"] = [Place("", x=float(n), y=0.0, z=0.0) for n in range(10)]
    return {
        name: [Match(n + 1, n, place, Path(), 0.9 - 0.01 * n) for n, place in enumerate(row)] for name, row in places.items()
    }


def seconds(run: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    """Print a table of the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each case")
    rounds = parser.parse_args().rounds
    texts = timestamps()
    print("| task | time |\n| --- | --- |")
    print(f"| reading {NUM_TIMES:,} timestamps | {seconds(lambda: [to_seconds(text) for text in texts], rounds):.2f} s |")
    for name, row in matches().items():
        each = seconds(lambda row=row: [estimate_position(row) for _ in range(NUM_ESTIMATES)], rounds) / NUM_ESTIMATES
        print(f"| consensus of ten matches {name} | {1000 * each:.2f} ms |")


if __name__ == "__main__":
    main()
