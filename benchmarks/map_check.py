"""Planted faults that `check-map` finds, and its runtime, as Markdown tables.

    python benchmarks/map_check.py INDEX [--seeds 5] [--share 0.02] [--metres 200]
    python benchmarks/map_check.py --rows 100000 [--dim 512] [--noise 0.8 --noise 2]

With an index, a share of its photos is moved by some metres in a random direction, in a copy, for each seed. The table has
the precision and recall of the misplaced photos, counted over all seeds, at several confidences. With `--rows`, drawn
descriptors in groups of eight, each a random look of its place plus noise, are indexed and checked in the same way; seconds,
CPU seconds and peak memory are those of the process.
"""

import argparse
import math
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2vpr_hf import Place, PlaceIndex, check_map
from d2vpr_hf.index import IndexSettings, PhotoFile
from d2vpr_hf.map_check.report import MapReport, wilson_interval
from d2vpr_hf.places import distance_in_metres

CONFIDENCES = (0.5, 0.7, 0.8, 0.9, 0.95)
GROUP = 8  # photos of a drawn place
STEP = 60.0  # metres between drawn places


def plant(index: PlaceIndex, share: float, metres: float, seed: int) -> dict[str, Place]:
    """Move a share of the photos of an index; return their true places by path."""
    rng = np.random.default_rng(seed)
    places = list(index.places)
    rows = rng.choice(len(places), round(share * len(places)), replace=False).tolist()
    moved = []
    for row, turn in zip(rows, rng.uniform(0, 2 * math.pi, len(rows)).tolist(), strict=True):
        place = places[row]
        east, north = place.utm_east + metres * math.cos(turn), place.utm_north + metres * math.sin(turn)
        moved.append(replace(place, latitude=None, longitude=None, utm_east=east, utm_north=north))
    index.amend(moved, [PhotoFile()] * len(moved))
    return {places[row].path: places[row] for row in rows}


def measure_faults(folder: Path, seeds: int, share: float, metres: float) -> str:
    """Return the tables of planted faults."""
    counts = dict.fromkeys(CONFIDENCES, (0, 0))  # correct and all findings
    errors, total = [], 0
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(shutil.copytree(folder, Path(scratch) / "index"))
            index = PlaceIndex.open(copy)
            truths = plant(index, share, metres, seed)
            report = check_map(PlaceIndex.open(copy), min_confidence=min(CONFIDENCES))
        total += len(truths)
        for least in CONFIDENCES:
            sure = [photo for photo in report.misplaced if photo.confidence >= least]
            correct = sum(photo.place.path in truths for photo in sure)
            counts[least] = counts[least][0] + correct, counts[least][1] + len(sure)
        sure = [photo for photo in report.misplaced if photo.confidence >= 0.8 and photo.place.path in truths]
        errors += [distance_in_metres(photo.suggested, truths[photo.place.path]) for photo in sure]
    unmoved = check_map(PlaceIndex.open(folder))
    lines = ["| confidence | findings | precision | 95 % | recall | 95 % |", "| --- | --- | --- | --- | --- | --- |"]
    for least, (correct, findings) in counts.items():
        precision, recall = (_share(correct, number) for number in (findings, total))
        lines.append(f"| {least} | {findings} | {precision} | {recall} |")
    nearest = f"{np.percentile(errors, 50):.1f} and {np.percentile(errors, 90):.1f} m" if errors else "none"
    lines += [
        "",
        f"{total} photos were moved in {seeds} copies. Suggested positions at 0.8, median and 90 %: {nearest} off.",
        f"Without moved photos: {len(unmoved.misplaced)} of {unmoved.checked} called misplaced.",
        "",
        unmoved.to_text().split("\nMisplaced")[0],
    ]
    return "\n".join(lines)


def _share(count: int, total: int) -> str:
    low, high = wilson_interval(count, total)
    return f"{100 * count / max(1, total):.1f} | {100 * low:.1f} to {100 * high:.1f}"


def draw_index(folder: Path, rows: int, dim: int, noise: float, share: float, metres: float) -> set[str]:
    """Write an index of drawn descriptors in groups of eight; return the paths of the moved ones."""
    rng = np.random.default_rng(0)
    side = math.ceil(math.sqrt(rows / GROUP))
    moved: set[str] = set()
    with PlaceIndex.create(folder, IndexSettings("drawn", "0" * 64, dim)) as index:
        for start in range(0, rows, 4096):
            numbers = np.arange(start, min(rows, start + 4096))
            looks = np.stack([np.random.default_rng(place).normal(size=dim) for place in np.unique(numbers // GROUP)])
            drawn = looks[numbers // GROUP - numbers[0] // GROUP] + noise * rng.normal(size=(len(numbers), dim))
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
            corners = [(STEP * (place % side), STEP * (place // side)) for place in (numbers // GROUP).tolist()]
            spots = rng.normal(0, 3, (len(numbers), 2)) + corners
            is_moved = rng.random(len(numbers)) < share
            turns = rng.uniform(0, 2 * math.pi, len(numbers))
            spots += metres * is_moved[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
            moved |= {f"{number}.jpg" for number in numbers[is_moved].tolist()}
            places = [Place(f"{number}.jpg", x=x, y=y) for number, (x, y) in zip(numbers, spots.tolist(), strict=True)]
            index.add(drawn, places)
    return moved


def measure_drawn(rows: int, dim: int, noises: list[float], share: float, metres: float) -> str:
    """Return a table with runtime and findings for drawn descriptors."""
    lines = [
        "| rows | dim | noise | recognised | precision | 95 % | recall | 95 % | seconds | CPU seconds | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for noise in noises:
        with tempfile.TemporaryDirectory() as scratch:
            moved = draw_index(Path(scratch) / "index", rows, dim, noise, share, metres)
            before, started = _cpu_seconds(), time.perf_counter()
            report: MapReport = check_map(PlaceIndex.open(Path(scratch) / "index"))
            seconds, cpu = time.perf_counter() - started, _cpu_seconds() - before
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        correct = sum(photo.place.path in moved for photo in report.misplaced)
        shares = f"{_share(correct, len(report.misplaced))} | {_share(correct, len(moved))}"
        recognised = f"{100 * (report.reliability or 0):.1f} %"
        lines.append(f"| {rows} | {dim} | {noise} | {recognised} | {shares} | {seconds:.1f} | {cpu:.1f} | {megabytes:.0f} |")
    return "\n".join(lines)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--metres", type=float, default=200.0)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--noise", type=float, action="append", help="deviation of noise, relative to that of looks")
    options = parser.parse_args()
    if options.index is not None:
        print(measure_faults(options.index, options.seeds, options.share, options.metres))
    if options.rows is not None:
        print(measure_drawn(options.rows, options.dim, options.noise or [0.8], options.share, options.metres))


if __name__ == "__main__":
    main()
