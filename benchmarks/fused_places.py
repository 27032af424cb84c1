"""Recall of fused places against the rows that are kept, and at equal bytes, as a Markdown table.

    d2vpr simulate build/drives --places 300 --seed 9111 --photos-per-place 8
    d2vpr index build/drives/images/test --out build/drives-index
    python benchmarks/fused_places.py build/drives-index [--drives 6]

Photos of Gridtown have the number of their visit in their names: 0 for the database, 1 to 8 for the queries. In four folds, two
visits are the queries, and the map has visit 0 and the first `--drives` of the others. Intervals are those of a paired
bootstrap over the places.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf import Place, PlaceGrid, PlaceIndex, exact_search, fuse_places
from d2vpr_hf.evaluation.recall import bootstrap_interval
from d2vpr_hf.readers.group_places import number_places

RADIUS = 25.0  # metres
RECALLS = (1, 5)
GRIDS = ((10, 30), (10, 60), (10, 90), (10, 360), (20, 90))  # metres and degrees

Rows = tuple[NDArray[np.float32], NDArray[np.float64], float]  # descriptors, positions and bytes of a row


def name_numbers(place: Place) -> tuple[int, int]:
    """Return the numbers of place and visit in the name of a Gridtown photo."""
    numbers = place.path.rsplit("/", 1)[-1].split("@")[7].split("-")
    return int(numbers[1]), int(numbers[3])


def name_view(place: Place) -> tuple[int, int]:
    """Return the numbers of place and view in the name of a Gridtown photo."""
    numbers = place.path.rsplit("/", 1)[-1].split("@")[7].split("-")
    return int(numbers[1]), int(numbers[2])


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows of unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def positions(places: list[Place]) -> NDArray[np.float64]:
    """Return UTM metres (N, 2)."""
    return np.array([(place.utm_east, place.utm_north) for place in places], np.float64)


def sub_index(index: PlaceIndex, rows: NDArray[np.int64], folder: Path) -> PlaceIndex:
    """Return an index with some rows of another."""
    places = list(index.places)
    with PlaceIndex.create(folder, index.settings) as chosen:
        chosen.add(index.descriptors.take(rows), [places[row] for row in rows.tolist()])
    return PlaceIndex.open(folder)


def by_view(index: PlaceIndex, folder: Path) -> PlaceIndex:
    """Return the index with positions and headings by which each view of a place has a cell and a direction of its own."""
    places = []
    for place in index.places:
        number, view = name_view(place)
        places.append(Place(place.path, x=100.0 * number + 5, y=5.0, frame="views", yaw=90.0 * view + 45))
    with PlaceIndex.create(folder, index.settings) as chosen:
        chosen.add(np.asarray(index.descriptors[:]), places)
    return PlaceIndex.open(folder)


def variants(
    index: PlaceIndex, visits: NDArray[np.int64], grids: tuple[tuple[int, int], ...], scratch: Path
) -> Iterator[tuple[str, Rows, Callable]]:
    """Yield the name of each variant of a map, its rows, and the function that converts queries for it."""
    descriptors, places = np.asarray(index.descriptors[:], np.float32), list(index.places)
    at, width = positions(places), descriptors.shape[1]

    def same(queries: NDArray[np.float32]) -> NDArray[np.float32]:
        return queries

    yield "all rows", (descriptors, at, 2.0 * width), same
    yield "first visit", (descriptors[visits == 0], at[visits == 0], 2.0 * width), same
    yield "all rows, 8 bits", (eight_bits(descriptors), at, 1.0 * width + 2), same
    vectors = np.linalg.eigh(descriptors.T @ descriptors)[1]
    for cell, heading in grids:
        grid = PlaceGrid(cell, heading)
        title = f"{cell} m, {heading}°"
        firsts = np.sort(np.unique(number_places(places, grid)[0], return_index=True)[1])
        yield f"one photo, {title}", (descriptors[firsts], at[firsts], 2.0 * width), same
        for method in ("mean", "hops"):
            fused, _ = fuse_places(index, scratch / f"{method}-{cell}-{heading}", method=method, grid=grid)
            rows = np.asarray(fused.descriptors[:], np.float32)
            yield f"{method}, {title}", (rows, positions(list(fused.places)), 2.0 * width), same
        dim = width * len(firsts) // len(descriptors)
        axes = vectors[:, ::-1][:, :dim]
        reduced = unit(descriptors @ axes)
        yield f"all rows, bytes of {title}", (reduced, at, 2.0 * dim), lambda queries, axes=axes: unit(queries @ axes)
    true_position = {name_numbers(place)[0]: position for place, position in zip(places, at, strict=True)}
    views = by_view(index, scratch / "views")
    for method in ("mean", "hops"):
        fused, _ = fuse_places(views, scratch / f"{method}-views", method=method, grid=PlaceGrid(10, 90))
        spots = np.array([true_position[name_numbers(place)[0]] for place in fused.places])
        yield f"{method}, true views", (np.asarray(fused.descriptors[:], np.float32), spots, 2.0 * width), same


def eight_bits(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows rounded to 8 bits, with a scale for each row."""
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    return unit(np.round(rows / scale) * scale)


def hits(rows: Rows, queries: NDArray[np.float32], truths: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each query is recalled (Q, len(RECALLS))."""
    nearest = exact_search(queries, rows[0], max(RECALLS))[1]
    is_correct = np.linalg.norm(rows[1][nearest] - truths[:, None], axis=2) <= RADIUS
    return np.stack([is_correct[:, :count].any(axis=1) for count in RECALLS], axis=1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--drives", type=int, default=6)
    parser.add_argument("--grid", action="append", metavar="METRES,DEGREES", help="instead of the usual ones")
    options = parser.parse_args()
    grids = tuple(tuple(map(int, text.split(","))) for text in options.grid) if options.grid else GRIDS
    index = PlaceIndex.open(options.index)
    places = list(index.places)
    place_numbers, visits = np.array([name_numbers(place) for place in places]).T
    results: dict[str, list[NDArray[np.bool_]]] = {}
    sizes: dict[str, list[tuple[int, float]]] = {}
    query_places = []
    for fold in range(4):
        held_out = (2 * fold + 1, 2 * fold + 2)
        map_visits = [visit for visit in range(1, 9) if visit not in held_out][: options.drives]
        query_rows = np.flatnonzero(np.isin(visits, held_out))
        map_rows = np.flatnonzero(np.isin(visits, (0, *map_visits)))
        queries = index.descriptors.take(query_rows).astype(np.float32)
        truths = positions([places[row] for row in query_rows.tolist()])
        query_places.append(place_numbers[query_rows])
        with tempfile.TemporaryDirectory() as scratch:
            chosen = sub_index(index, map_rows, Path(scratch) / "map")
            for name, rows, convert in variants(chosen, visits[map_rows], grids, Path(scratch)):
                results.setdefault(name, []).append(hits(rows, convert(queries), truths))
                sizes.setdefault(name, []).append((len(rows[0]), len(rows[0]) * rows[2]))
    numbers = np.concatenate(query_places)
    base = np.concatenate(results["all rows"])
    print(f"{len(numbers)} queries, {options.drives} later drives in the map\n")
    print(
        "| map | rows | share of bytes | R@1 | R@5 | R@1 against all rows | 95 % |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for name, parts in results.items():
        recalled = np.concatenate(parts)
        rows, share = np.mean([size for size, _ in sizes[name]]), np.mean([size for _, size in sizes[name]])
        share /= np.mean([size for _, size in sizes["all rows"]])
        difference = recalled[:, :1].astype(int) - base[:, :1]
        interval = bootstrap_interval(difference, numbers)
        assert interval is not None  # there are many places
        low, high = interval[:, 0]
        recalls = " | ".join(f"{100 * value:.1f}" for value in recalled.mean(axis=0))
        gain = f"{100 * difference.mean():+.1f} | {100 * low:+.1f} to {100 * high:+.1f}"
        print(f"| {name} | {rows:.0f} | {share:.2f} | {recalls} | {gain} |")


if __name__ == "__main__":
    main()
