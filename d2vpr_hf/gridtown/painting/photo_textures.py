"""Textures that are cut from photos, for the walls and the ground of wild places."""

from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.gridtown.painting.textures import GROUND_SIZE
from d2vpr_hf.readers.photos import UnreadablePhotoError, find_photos, open_photo, photo_modes
from d2vpr_hf.readers.skipped import report_skipped

NUM_TEXTURES = 64  # textures of a city
_PHOTO_SIZE = 512  # pixels; larger JPEGs may be decoded smaller
_CUTS = (0.4, 1.0)  # smallest and largest side of a cut, as a share of the photo's shorter side
_TRIES = 3  # cuts of which the one with the most contrast is taken, because skies and nights are flat
_BRIGHTNESS = (0.06, 0.45)  # mean linear light of a texture, as walls and ground reflect it

Textures = NDArray[np.uint8]  # (N, height, width, 3) screen colours


def cut_textures(folder: str | Path, seed: int, count: int = NUM_TEXTURES) -> Textures:
    """Cut textures from the photos in a folder and its subfolders.

    Photos that cannot be decoded are skipped, and a warning counts them. The textures depend on the photos, their names and the
    seed.

    Args:
        folder: Folder of photos of any size. Fewer photos than `count` are cut several times.
        seed: Seed of the city, which chooses photos and cuts.
        count: Number of textures.

    Returns:
        (count, 128, 128, 3) uint8.

    Raises:
        FileNotFoundError, NotADirectoryError: If there is no such folder, or no photo in it.
        ValueError: If no photo can be decoded.
    """
    files = find_photos(Path(folder))
    rng = np.random.default_rng([seed, 24])
    textures: list[NDArray[np.uint8]] = []
    skipped: dict[str, str] = {}
    for number in cycle(rng.permutation(len(files)).tolist()):
        file = files[number]
        try:
            if str(file) not in skipped:
                textures.append(_cut(open_photo(file, (_PHOTO_SIZE, _PHOTO_SIZE)), rng))
        except UnreadablePhotoError as error:
            skipped[str(file)] = str(error)
        if len(textures) == count or len(skipped) == len(files):
            break
    report_skipped(skipped, len(files), strict=False, source=str(folder))
    if not textures:
        raise ValueError(f"No photo in {folder} can be decoded, so no texture can be cut. Give a folder of photos.")
    return np.stack(textures)


def _cut(photo: Image.Image, rng: Generator) -> NDArray[np.uint8]:
    """Cut a square with contrast out of a photo, and bring its mean to that of a wall or ground."""
    rgb = photo_modes.to_rgb_image(photo)
    cuts = [_square(rgb, rng) for _ in range(_TRIES)]
    cut = max(cuts, key=lambda pixels: float(pixels.std(axis=(0, 1)).sum()))
    mean = float((cut**2).mean())  # squares of screen colours are linear light, as in `make_atlas`
    factor = np.sqrt(rng.uniform(*_BRIGHTNESS) / max(mean, 1e-3))
    return np.rint((cut * factor).clip(0, 1) * 255).astype(np.uint8)


def _square(rgb: Image.Image, rng: Generator) -> NDArray[np.float32]:
    """Return a random square of a photo, mirrored or not, as (height, width, 3) in 0..1."""
    shorter = min(rgb.size)
    side = max(1, round(shorter * rng.uniform(*_CUTS)))
    left, top = (int(rng.integers(length - side + 1)) for length in rgb.size)
    square = rgb.resize((GROUND_SIZE, GROUND_SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    pixels = np.asarray(square, np.float32) / np.float32(255)
    return pixels[:, ::-1] if rng.uniform() < 0.5 else pixels
