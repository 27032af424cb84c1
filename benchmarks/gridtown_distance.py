"""Brightness and features of drawn, wild and real photos, as a Markdown table.

    python -m benchmarks.gridtown_distance --teacher MOBILENET --real DIR [DIR ...] [--textures DIR]

`MOBILENET` is a folder of transformers' MobileNetV2Model. All photos have 112×112 pixels; of each folder of real photos, and of
each kind of drawing, there are 120 at most. The distance is that of Fréchet between descriptors (generalised mean of 576
channels) in the 24 first principal components of the real photos, times 1000.
"""

import argparse
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.real_photos import open_teacher
from d2vpr_hf.gridtown import Photo, Town, Variation, Wildness, cut_textures, draw_photo, make_town, make_wild
from d2vpr_hf.readers import find_photos, open_photo

SIZE = 112
COUNT = 120
SEEDS = (1, 2)  # of the drawn cities
COMPONENTS = 24

Descriptors = NDArray[np.float64]  # (N, D)


def draw(textures: str | None) -> dict[str, list[Image.Image]]:
    """Render photos of all conditions: as drawn, wild with drawn surfaces, and wild with textures if there are any."""
    kinds: dict[str, list[Image.Image]] = defaultdict(list)
    for seed in SEEDS:
        town = make_town(seed, COUNT // len(SEEDS))
        photos = [draw_photo(town.city, place, place % 4, 1, Variation()) for place in range(COUNT // len(SEEDS))]
        wild = [make_wild(town.city, photo, Wildness(share=1.0)) for photo in photos]
        kinds["drawn"] += _take(town, photos)
        kinds["wild, drawn surfaces"] += _take(town, wild)
        if textures is not None:
            paintbox = town.paintbox.with_textures(cut_textures(textures, seed))
            kinds["wild, textures"] += _take(replace(town, paintbox=paintbox), wild)
    return kinds


def _take(town: Town, photos: list[Photo]) -> list[Image.Image]:
    return [Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()) for pixels in town.take(photos, (SIZE, SIZE))]


def read(folder: Path) -> list[Image.Image]:
    """Read random photos of a folder."""
    files = find_photos(folder)
    chosen = random.Random(0).sample(files, min(COUNT, len(files)))
    return [open_photo(file).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC) for file in chosen]


def frechet(first: Descriptors, second: Descriptors) -> float:
    """Return the Fréchet distance of two normal distributions with the means and covariances of descriptors."""
    covariances = [np.cov(descriptors.T) for descriptors in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    gap = float(((first.mean(axis=0) - second.mean(axis=0)) ** 2).sum())
    return gap + float(np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared)


def brightness(images: list[Image.Image]) -> str:
    """Return the medians of the photos' mean brightness and of its standard deviation, as cells of the table."""
    greys = np.stack([np.asarray(image.convert("L"), np.float64) / 255 for image in images])
    return f"{np.median(greys.mean(axis=(1, 2))):.2f} | {np.median(greys.std(axis=(1, 2))):.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--real", type=Path, nargs="+", required=True)
    parser.add_argument("--textures")
    arguments = parser.parse_args()
    encoder = open_teacher(arguments.teacher, SIZE)
    real = {str(folder): read(folder) for folder in arguments.real}
    drawn = draw(arguments.textures)
    described = {name: encoder.encode(images).descriptors.astype(np.float64) for name, images in (real | drawn).items()}
    joined = np.concatenate([described[name] for name in real])
    axes = np.linalg.svd(joined - joined.mean(axis=0), full_matrices=False)[2][:COMPONENTS].T
    print("| photos | mean brightness | its deviation | distance from all real photos |\n| --- | --- | --- | --- |")
    for name, images in (real | drawn).items():
        print(f"| {name} | {brightness(images)} | {1000 * frechet(described[name] @ axes, joined @ axes):.1f} |", flush=True)


if __name__ == "__main__":
    main()
