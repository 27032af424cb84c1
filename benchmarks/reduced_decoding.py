"""Effect and saving of decoding 12-megapixel JPEGs at a fraction of their size, as a Markdown table.

    python benchmarks/reduced_decoding.py [--photos 6] [--image-sizes 112 224] [--work build/reduced_decoding]

Gridtown's photos are enlarged to 4000×3000 with a camera's noise. Descriptors of photos that `open_photo` decodes for the
network's size, and for twice this size, are compared with those of photos that are decoded whole. Changes are shares of the
median distance between places.
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf import PlaceEncoder, load_image_processor, load_model
from d2vpr_hf.gridtown import TEST_SEEDS, simulate
from d2vpr_hf.readers import find_photos, open_photo

_PIXELS = (4000, 3000)
_NOISE = 8.0  # standard deviation, for pixel values from 0 to 255
_ROUNDS = 5


def main() -> None:
    """Render, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--work", type=Path, default=Path("build/reduced_decoding"))
    arguments = parser.parse_args()
    town = arguments.work / str(arguments.photos)
    if not town.exists():
        simulate(town, arguments.photos, TEST_SEEDS[0], image_size=896)
    paths = find_photos(town / "images" / "test" / "database")
    photos = [enlarge(path, seed) for seed, path in enumerate(paths[:: len(paths) // arguments.photos][: arguments.photos])]
    titles = ("network sees", "decoded", "mean change", "largest change", "decoding, against whole")
    print("| " + " | ".join(titles) + " |\n" + "| --- " * len(titles) + "|")
    for size in arguments.image_sizes:
        for cells in compare(photos, size):
            print("| " + " | ".join((f"{size}×{size}", *cells)) + " |", flush=True)


def enlarge(path: Path, seed: int) -> bytes:
    """Return a photo enlarged to a JPEG of 12 megapixels."""
    pixels = np.asarray(open_photo(path).convert("RGB").resize(_PIXELS, Image.Resampling.BICUBIC), np.float32)
    noise = np.random.default_rng(seed).normal(0, _NOISE, (*pixels.shape[:2], 1)).astype(np.float32)
    content = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def compare(photos: list[bytes], size: int) -> list[tuple[str, str, str, str]]:
    """Return table cells that compare both reduced decodings with decoding whole, for one size of the network's input."""
    encoder = PlaceEncoder(load_model(), load_image_processor(size={"height": size, "width": size}))
    whole = encode(encoder, photos, None)
    apart = float(np.median(np.linalg.norm(whole[:, None] - whole, axis=2)[np.triu_indices(len(photos), 1)]))
    rows = []
    for target in ((size, size), (2 * size, 2 * size)):
        changes = np.linalg.norm(encode(encoder, photos, target) - whole, axis=1) / apart
        width, height = open_photo(photos[0], target).size
        share = seconds(photos, target, size) / seconds(photos, None, size)
        rows.append((f"{width}×{height}", f"{100 * changes.mean():.1f} %", f"{100 * changes.max():.1f} %", f"{share:.2f}"))
    return rows


def encode(encoder: PlaceEncoder, photos: list[bytes], target: tuple[int, int] | None) -> NDArray[np.float32]:
    """Encode photos, decoded for a target size or whole."""
    return encoder.encode([open_photo(photo, target) for photo in photos]).descriptors


def seconds(photos: list[bytes], target: tuple[int, int] | None, size: int) -> float:
    """Return the median seconds to decode all photos, for a target size or whole, and to resize them."""

    def once() -> float:
        start = time.perf_counter()
        for photo in photos:
            open_photo(photo, target).resize((size, size), Image.Resampling.BICUBIC)
        return time.perf_counter() - start

    return statistics.median(once() for _ in range(_ROUNDS))


if __name__ == "__main__":
    main()
