"""Recall of hand-made descriptors, of an untrained D²-VPR and of the embedded one on Gridtown's tiers, as a Markdown table.

    python benchmarks/gridtown_tiers.py [--places 350] [--queries 5] [--image-size 224] [--seeds 9001 9002 9003]

The table shows that a tier separates methods: what is blind to structure should fail, what sees it without learning should find
some, what has learned should find more. Photos are written to `build/gridtown` once and used again.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.encoder import PlaceEncoder
from d2vpr_hf.evaluation import PhotoSet, PositiveRule, evaluate_descriptors
from d2vpr_hf.gridtown import TEST_SEEDS, TierName, simulate
from d2vpr_hf.loading import load_image_processor, load_model
from d2vpr_hf.modeling import D2VPRModel
from d2vpr_hf.readers import Place, read_places

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
    """Describe by a D²-VPR like the embedded one, with weights from a seed."""
    torch.manual_seed(0)
    model = D2VPRModel(load_model().config).eval()
    return PlaceEncoder(model, load_image_processor(), batch_size=32).encode(list(photos)).descriptors


def embedded(photos: Photos) -> Descriptors:
    """Describe by the embedded D²-VPR, which has learned from other cities."""
    return PlaceEncoder(batch_size=32).encode(list(photos)).descriptors


def _normalized(descriptors: NDArray[np.floating]) -> Descriptors:
    return (descriptors / (np.linalg.norm(descriptors, axis=1, keepdims=True) + 1e-9)).astype(np.float32)


METHODS: dict[str, Callable[[Photos], Descriptors]] = {
    "grey thumbnails 32 × 32": thumbnails,
    "colour histogram": colours,
    "HOG": gradients,
    "untrained D²-VPR": untrained,
    "embedded D²-VPR": embedded,
}


def load(folder: Path) -> tuple[Photos, list[Place]]:
    """Read a folder's photos and places."""
    table = read_places(folder)
    return np.stack([np.asarray(Image.open(table.photo(place))) for place in table.places]), table.places


def photo_set(places: list[Place]) -> PhotoSet:
    """Say where photos were taken, and under which conditions."""
    positions = np.array([(place.utm_east, place.utm_north) for place in places])
    return PhotoSet(positions, conditions=[place.condition for place in places])


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
    found: dict[str, list[NDArray[np.floating]]] = {"chance": []} | {name: [] for name in METHODS}
    weathers: list[str | None] = []
    for seed in arguments.seeds:
        (database, places), (queries, query_places) = (load(side) for side in render(tier, seed, arguments))
        sides = photo_set(places), photo_set(query_places)
        weathers += sides[1].conditions or []
        positives = PositiveRule().find(*sides)
        found["chance"].append(np.array([len(positives[query]) for query in range(len(queries))]) / len(places))
        for name, describe in METHODS.items():
            evaluation = evaluate_descriptors(describe(database), describe(queries), *sides, recall_values=[1])
            found[name].append(np.array([float(query.right) for query in evaluation.queries]))
    return table({name: np.concatenate(values) for name, values in found.items()}, np.array(weathers))


def render(tier: TierName, seed: int, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Write a city once; return the folders of its database and its queries."""
    folder = Path(f"build/gridtown/{tier}-{seed}-{arguments.places}-{arguments.queries}-{arguments.image_size}")
    if not folder.exists():
        options = {"photos_per_place": arguments.queries, "image_size": arguments.image_size, "workers": 2}
        simulate(folder, arguments.places, seed, tier=tier, **options)
    return folder / "images/test/database", folder / "images/test/queries"


def table(right: dict[str, NDArray[np.floating]], weathers: NDArray[np.str_]) -> list[str]:
    """Lay out R@1 of each method, over all queries and over those of each weather."""
    columns = sorted(set(weathers.tolist()), key=weathers.tolist().count, reverse=True)
    masks = [np.ones(len(weathers), bool), *(weathers == weather for weather in columns)]
    header = ["| R@1, % | all | " + " | ".join(columns) + " |", "| --- " * (2 + len(columns)) + "|"]
    rows = [
        f"| {name} | " + " | ".join(f"{100 * hits[mask].mean():.1f}" for mask in masks) + " |" for name, hits in right.items()
    ]
    return [f"{len(weathers)} queries", "", *header, *rows]


if __name__ == "__main__":
    main()
