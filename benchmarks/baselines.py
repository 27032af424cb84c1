"""Baselines of the embedded model: hand-made descriptors, and an untrained network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.modeling import D2VPRModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model

Photos = NDArray[np.uint8]  # (N, height, width, 3)
Descriptors = NDArray[np.float32]  # (N, D)
Encode = Callable[[Photos], Descriptors]


def thumbnails(photos: Photos) -> Descriptors:
    """Return grey thumbnails of 32 × 32 pixels, without mean and contrast, as descriptors."""
    small = [np.asarray(Image.fromarray(photo).convert("L").resize((32, 32), Image.Resampling.BOX)) for photo in photos]
    flat = np.stack(small).reshape(len(photos), -1).astype(np.float32)
    return _normalized(flat - flat.mean(axis=1, keepdims=True))


def colours(photos: Photos) -> Descriptors:
    """Return square roots of histograms of 8 × 8 × 8 colours as descriptors."""
    bins = (photos >> 5).astype(np.int64) @ np.array([64, 8, 1])
    counts = np.stack([np.bincount(photo.ravel(), minlength=512) for photo in bins])
    return _normalized(np.sqrt(counts).astype(np.float32))


def gradients(photos: Photos) -> Descriptors:
    """Return histograms of oriented gradients: 16 × 16 cells, 9 orientations, normalised blocks of 2 × 2 cells."""
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
    """Return the descriptors of a D²-VPR like the embedded one, with random weights."""
    torch.manual_seed(0)
    model = D2VPRModel(load_model().config).eval()
    return PlaceEncoder(model, load_image_processor(), batch_size=32).encode(list(photos)).descriptors


def trained(model: Path | None = None) -> Encode:
    """Return a method that encodes with a trained model; by default the embedded one, which was trained on other cities."""
    return lambda photos: PlaceEncoder(model and str(model), batch_size=32).encode(list(photos)).descriptors


def _normalized(descriptors: NDArray[np.floating]) -> Descriptors:
    return (descriptors / (np.linalg.norm(descriptors, axis=1, keepdims=True) + 1e-9)).astype(np.float32)


METHODS: dict[str, Encode] = {
    "grey thumbnails 32 × 32": thumbnails,
    "colour histogram": colours,
    "HOG": gradients,
    "untrained D²-VPR": untrained,
    "embedded D²-VPR": trained(),
}
