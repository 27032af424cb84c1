"""Recall of hand-made descriptors and of an untrained D²-VPR on Gridtown's tiers, as a Markdown table.

    python benchmarks/gridtown_tiers.py [--places 350] [--queries 5] [--image-size 224] [--seeds 9001 9002 9003]

The table shows that a tier separates methods before anything is trained: what is blind to structure should fail, what sees
structure without learning should find some. Photos are written to `build/gridtown` once and used again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.encoder import PlaceEncoder
from d2vpr_hf.gridtown import TEST_SEEDS, TierName, simulate
from d2vpr_hf.readers import Place, read_places
from d2vpr_hf.search import exact_search

Photos = NDArray[np.uint8]  # (N, height, width, 3)
Descriptors = NDArray[np.float32]  # (N, D)


def thumbnails(photos: Photos) -> Descriptors:
    """Describe by grey thumbnails of 32 × 32 pixels, mean and contrast taken out."""
    small = [np.asarray(Image.fromarray(photo).convert("L").resize((32, 32), Image.Resampling.BOX)) for photo in photos]
    flat = np.stack(small).reshape(len(photos), -1).astype(np.float32)
    return _normalized(flat - flat.mean(axis=1, keepdims=True))


def colours(photos: Photos) -> Descriptors:
    """Describe by a histogram of 8 × 8 × 8 colours, its square root taken."""
    bins = (photos >> 5).astype(np.int64) @ np.array([64, 8, 1])
    counts = np.stack([np.bincount(photo.ravel(), minlength=512) for photo in bins])
    return _normalized(np.sqrt(counts).astype(np.float32))


def gradients(photos: Photos) -> Descriptors:
    """Describe by histograms of oriented gradients: 16 × 16 cells, 9 orientations, blocks of 2 × 2 cells normalised."""
    return _normalized(np.stack([_gradients(photo) for photo in photos]))


def _gradients(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = np.asarray(Image.fromarray(photo).convert("L").resize((128, 128), Image.Resampling.BOX), dtype=np.float32)
    down, across = np.gradient(np.sqrt(grey))
    turn = (np.arctan2(down, across) % np.pi) / np.pi * 9
    low = np.floor(turn)
    cell = (np.arange(128) // 8)[:, None] * 16 + np.arange(128) // 8
    strength = np.hypot(down, across)
    histogram = np.zeros(16 * 16 * 9, np.float32)
    for orientation, share in ((low % 9, 1 - (turn - low)), ((low + 1) % 9, turn - low)):
        index = (cell * 9 + orientation.astype(np.int64)).ravel()
        histogram += np.bincount(index, (strength * share).ravel(), minlength=len(histogram)).astype(np.float32)
    cells = histogram.reshape(16, 16, 9)
    blocks = np.concatenate([cells[y : 15 + y, x : 15 + x] for y in (0, 1) for x in (0, 1)], axis=2)
    return (blocks / (np.linalg.norm(blocks, axis=2, keepdims=True) + 1e-3)).clip(max=0.3).ravel()


def untrained(photos: Photos) -> Descriptors:
    """Describe by the embedded D²-VPR, which was never trained."""
    return PlaceEncoder(batch_size=32).encode(list(photos)).descriptors


def _normalized(descriptors: NDArray[np.floating]) -> Descriptors:
    return (descriptors / (np.linalg.norm(descriptors, axis=1, keepdims=True) + 1e-9)).astype(np.float32)


METHODS: dict[str, Callable[[Photos], Descriptors]] = {
    "grey thumbnails 32 × 32": thumbnails,
    "colour histogram": colours,
    "HOG": gradients,
    "untrained D²-VPR": untrained,
}


def load(folder: Path) -> tuple[Photos, list[Place]]:
    """Read a folder's photos and places."""
    table = read_places(folder)
    return np.stack([np.asarray(Image.open(table.photo(place))) for place in table.places]), table.places


def find_positives(database: list[Place], queries: list[Place]) -> NDArray[np.bool_]:
    """Tell which photos lie within 25 m of each query, (queries, database)."""
    here, there = (np.array([(p.utm_east, p.utm_north) for p in places]) for places in (queries, database))
    return np.linalg.norm(here[:, None] - there[None], axis=2) <= 25


def main() -> None:
    """Render, describe, search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=350)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEST_SEEDS))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    for tier in TierName:
        print(f"\n{tier}\n" + "\n".join(measure(tier, arguments)), flush=True)


def measure(tier: TierName, arguments: argparse.Namespace) -> list[str]:
    """Return the rows of a tier: R@1 over all cities, and by condition."""
    found: dict[str, list[NDArray[np.bool_]]] = {"chance": []} | {name: [] for name in METHODS}
    weathers: list[str] = []
    for seed in arguments.seeds:
        folder = Path(f"build/gridtown/{tier}-{seed}-{arguments.places}-{arguments.queries}-{arguments.image_size}")
        if not folder.exists():
            options = {"photos_per_place": arguments.queries, "image_size": arguments.image_size, "workers": 2}
            simulate(folder, arguments.places, seed, tier=tier, **options)
        (database, places), (queries, query_places) = (load(folder / "images/test" / side) for side in ("database", "queries"))
        positives = find_positives(places, query_places)
        weathers += [place.condition or "" for place in query_places]
        found["chance"].append(positives.mean(axis=1))
        for name, describe in METHODS.items():
            _, rows = exact_search(describe(queries), describe(database), 1)
            found[name].append(positives[np.arange(len(rows)), rows[:, 0]])
    columns = sorted(set(weathers), key=weathers.count, reverse=True)
    header = ["| R@1, % | all | " + " | ".join(columns) + " |", "| --- " * (2 + len(columns)) + "|"]
    masks = [np.ones(len(weathers), bool), *(np.array(weathers) == weather for weather in columns)]
    joined = {name: np.concatenate(values) for name, values in found.items()}
    rows = [
        f"| {name} | " + " | ".join(f"{100 * right[mask].mean():.1f}" for mask in masks) + " |"
        for name, right in joined.items()
    ]
    return [f"{len(weathers)} queries", "", *header, *rows]


if __name__ == "__main__":
    main()
