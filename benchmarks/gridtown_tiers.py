"""Recall of hand-made descriptors, of an untrained D²-VPR and of the embedded one on Gridtown's tiers, as a Markdown table.

    python benchmarks/gridtown_tiers.py [--places 350] [--queries 5] [--image-size 224] [--model TEACHER=runs/teacher/best]

The table shows that a tier separates methods: methods that do not see structure should fail, methods that see it without
learning should find some queries, and trained models should find more. Photos are rendered to `build/gridtown` once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from baselines import METHODS, Encode, Photos, trained
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.evaluation import PhotoSet, PositiveRule, evaluate_descriptors
from d2vpr_hf.gridtown import TEST_SEEDS, TierName, simulate
from d2vpr_hf.places import Place
from d2vpr_hf.readers import read_places

RECALL_VALUES = (1, 5, 10)


def load(folder: Path) -> tuple[Photos, list[Place]]:
    """Read a folder's photos and places."""
    table = read_places(folder)
    return np.stack([np.asarray(Image.open(table.photo(place))) for place in table.places]), table.places


def photo_set(places: list[Place]) -> PhotoSet:
    """Return the positions and conditions of photos."""
    positions = np.array([(place.utm_east, place.utm_north) for place in places])
    return PhotoSet(positions, conditions=[place.condition for place in places])


def main() -> None:
    """Render, encode, search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=350)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEST_SEEDS))
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="another model to compare with")
    arguments = parser.parse_args()
    others = (text.split("=", 1) for text in arguments.model)
    methods = METHODS | {name: trained(Path(folder)) for name, folder in others}
    for tier in TierName:
        print(f"\n{tier}\n" + "\n".join(measure(tier, methods, arguments)), flush=True)


def measure(tier: TierName, methods: dict[str, Encode], arguments: argparse.Namespace) -> list[str]:
    """Return the rows of a tier: recall over all cities, and R@1 by condition."""
    hits: dict[str, list[NDArray[np.floating]]] = {name: [] for name in ("chance", *methods)}
    weathers: list[str | None] = []
    for seed in arguments.seeds:
        (database, places), (queries, query_places) = (load(side) for side in render(tier, seed, arguments))
        sides = photo_set(places), photo_set(query_places)
        weathers += sides[1].conditions or []
        hits["chance"].append(chance(PositiveRule().find(*sides), len(places)))
        for name, encode in methods.items():
            evaluation = evaluate_descriptors(encode(database), encode(queries), *sides, recall_values=RECALL_VALUES)
            ranks = np.array([query.first_positive_rank or np.inf for query in evaluation.queries])
            hits[name].append((ranks[:, None] <= RECALL_VALUES).astype(np.float64))
    return table({name: np.concatenate(values) for name, values in hits.items()}, np.array(weathers))


def chance(positives: Sequence[NDArray[np.int64]], size: int) -> NDArray[np.float64]:
    """Return the probabilities (Q, 3) that 1, 5 and 10 photos, drawn from `size`, contain a positive."""
    counts = np.array([len(rows) for rows in positives])
    return 1 - (1 - counts[:, None] / size) ** np.array(RECALL_VALUES)


def render(tier: TierName, seed: int, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Render a city unless its folder exists; return the folders of its database and its queries."""
    folder = Path(f"build/gridtown/{tier}-{seed}-{arguments.places}-{arguments.queries}-{arguments.image_size}")
    if not folder.exists():
        queries, size = arguments.queries, arguments.image_size
        simulate(folder, arguments.places, seed, tier=tier, photos_per_place=queries, image_size=size, workers=2)
    return folder / "images/test/database", folder / "images/test/queries"


def table(hits: dict[str, NDArray[np.floating]], weathers: NDArray[np.str_]) -> list[str]:
    """Return a table of the recall of each method over all queries, and of R@1 over the queries of each weather.

    Args:
        hits: (Q, 3) by method: whether a query has a positive among the first 1, 5 and 10.
        weathers: (Q,) weathers of the queries.
    """
    columns = sorted(set(weathers.tolist()), key=weathers.tolist().count, reverse=True)
    titles = [f"R@{n}" for n in RECALL_VALUES] + [f"R@1: {weather}" for weather in columns]
    lines = [f"| % of {len(weathers)} queries | " + " | ".join(titles) + " |", "| --- " * (1 + len(titles)) + "|"]
    for name, of_method in hits.items():
        shares = [*of_method.mean(axis=0), *(of_method[weathers == weather, 0].mean() for weather in columns)]
        lines.append(f"| {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")
    return lines


if __name__ == "__main__":
    main()
