"""Throughput of encoders, and of a bare loop of the same network: a DINOv2-base with random weights, and our models.

    python benchmarks/encoder_overhead.py [--device cuda] [--batch-size 16] [--batches 2] [--rounds 5] [--json OUT]

Rivals alternate in each round, and the figure is the median of the ratios of their times; times do not depend on weights.

- *pixels*: batches of ready pixel values in memory to descriptors in memory. The bare loop moves each batch to the device, runs
  the network, divides the class token by its norm and moves it back.
- *photos*: JPEG files of 640×480 in memory. The bare loop decodes and prepares each photo by the same steps, one after
  another.
- *photos, against ready pixels*: the same photos through the encoder, against the bare loop on ready pixels: above 95 % the
  network hardly waits for photos.

Our own models are compared with their backend, called directly.
"""

import argparse
import io
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from d2vpr_hf import D2VPRConfig, D2VPRImageProcessor, D2VPRModel, PlaceEncoder
from d2vpr_hf.backends.torch_backend import TORCH_TYPES
from d2vpr_hf.model_info.preprocessing import Preprocessing

SIDE = 224


def draw_photos(count: int) -> list[bytes]:
    """Return JPEG files of 640x480 pixels with coarse and fine structure."""
    generator = np.random.default_rng(0)
    photos = []
    for _ in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        pixels = np.asarray(image).astype(np.int16) + generator.integers(-20, 20, (480, 640, 1))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        photos.append(file.getvalue())
    return photos


def compare(rivals: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the times of rivals in seconds, which take turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        names = list(rivals) if number % 2 else list(rivals)[::-1]
        for name in names:
            start = time.perf_counter()
            rivals[name]()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], encoder: str, bare: str) -> float:
    """Return the throughput of the encoder as a share of that of the bare loop."""
    return statistics.median(b / a for a, b in zip(times[encoder], times[bare], strict=True))


class BareLoop:
    """The loop of a plain script: batches of pixels, the network, the class token of unit length."""

    def __init__(self, model: Any, steps: Preprocessing, device: str, precision: str, batch_size: int) -> None:
        self.dtype = TORCH_TYPES[precision]
        self.model, self.steps = model.to(device, self.dtype).eval(), steps
        self.device, self.batch_size = device, batch_size

    @torch.inference_mode()
    def describe(self, pixel_values: np.ndarray) -> np.ndarray:
        """Return the descriptors of a batch of pixel values."""
        inputs = torch.from_numpy(pixel_values).to(self.device, self.dtype)
        tokens = self.model(inputs).last_hidden_state[:, 0].float()
        return torch.nn.functional.normalize(tokens, dim=1).cpu().numpy()

    def encode(self, photos: list[bytes]) -> np.ndarray:
        """Return the descriptors of photos, decoded one by one."""
        batches = []
        for start in range(0, len(photos), self.batch_size):
            images = (Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos[start : start + self.batch_size])
            batches.append(self.describe(np.stack([self.steps(image) for image in images])))
        return np.concatenate(batches)


def measure_dinov2(options: argparse.Namespace, precision: str, photos: list[bytes]) -> dict[str, Any]:
    """Compare the encoder of a DINOv2-base with the bare loop."""
    config = Dinov2Config(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, image_size=518, patch_size=14)
    torch.manual_seed(0)
    model = Dinov2Model(config)
    steps = Preprocessing(size=(SIDE, SIDE), resample="bicubic")
    bare_model = Dinov2Model(config)
    bare_model.load_state_dict(model.state_dict())
    bare = BareLoop(bare_model, steps, options.device, precision, options.batch_size)
    choices: dict[str, Any] = {"device": options.device, "batch_size": options.batch_size, "num_workers": options.workers}
    encoder = PlaceEncoder(model, steps, pool="cls", precision=precision, **choices)
    batches = [
        np.stack([steps(Image.open(io.BytesIO(photo)).convert("RGB")) for photo in photos[start : start + options.batch_size]])
        for start in range(0, len(photos), options.batch_size)
    ]
    difference = float(np.abs(encoder.encode(photos[:8]).descriptors - bare.encode(photos[:8])).max())
    times = compare(
        {
            "pixels, bare": lambda: [bare.describe(batch) for batch in batches],
            "pixels, encoder": lambda: [encoder.descriptor_model.describe(batch) for batch in batches],
            "photos, bare": lambda: bare.encode(photos),
            "photos, encoder": lambda: encoder.encode(photos),
        },
        options.rounds,
    )
    return {
        "largest_difference": difference,
        "photos_per_second": {name: round(len(photos) / statistics.median(seconds), 1) for name, seconds in times.items()},
        "pixels": round(ratio(times, "pixels, encoder", "pixels, bare"), 3),
        "photos": round(ratio(times, "photos, encoder", "photos, bare"), 3),
        "photos, against ready pixels": round(ratio(times, "photos, encoder", "pixels, bare"), 3),
    }


def measure_own(options: argparse.Namespace, name: str, photos: list[bytes]) -> dict[str, Any]:
    """Compare the encoder of a model of this package with its backend."""
    choices: dict[str, Any] = {"device": options.device, "batch_size": options.batch_size, "num_workers": options.workers}
    choices |= {"backend": options.backend, "precision": options.precision, "resize_on_gpu": options.resize_on_gpu}
    if name == "embedded":
        encoder = PlaceEncoder(**choices)
    else:
        torch.manual_seed(0)
        encoder = PlaceEncoder(D2VPRModel(D2VPRConfig()), D2VPRImageProcessor(size={"height": SIDE, "width": SIDE}), **choices)
    pixel_values = torch.randn(options.batch_size, 3, *(encoder.input_size or (SIDE, SIDE)))
    array, backend = pixel_values.numpy(), encoder.backend
    count = max(1, len(photos) // options.batch_size)
    times = compare(
        {
            "backend": lambda: [backend.encode(pixel_values) for _ in range(count)],
            "encoder": lambda: [encoder.descriptor_model.describe(array) for _ in range(count)],
            "photos, encoder": lambda: encoder.encode(photos),
        },
        options.rounds,
    )
    number = count * options.batch_size
    return {
        "runtime": str(encoder.runtime),
        "photos_per_second": {rival: round(number / statistics.median(seconds), 1) for rival, seconds in times.items()},
        "pixels": round(ratio(times, "encoder", "backend"), 3),
        "photos, against ready pixels": round(ratio(times, "photos, encoder", "backend"), 3),
    }


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=None, help="batches in a round; default: 2, on a GPU 12")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None, help="threads that decode; default: 2, on a GPU 12")
    parser.add_argument("--backend", default="torch", help="backend of our own models")
    parser.add_argument("--precision", help="precision of our own models; by default that of the encoder")
    parser.add_argument("--resize-on-gpu", action="store_true", help="a GPU resizes the photos of our own models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    options.batches = options.batches or (12 if on_gpu else 2)
    options.workers = options.workers or (min(12, os.cpu_count() or 2) if on_gpu else 2)
    photos = draw_photos(options.batches * options.batch_size)
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "options": {name: value for name, value in vars(options).items() if name != "json"},
    }
    for precision in ("fp32", "bf16") if on_gpu else ("fp32",):
        results[f"DINOv2-base {precision}"] = measure_dinov2(options, precision, photos)
    for name in ("embedded", "student"):
        results[name] = measure_own(options, name, photos)
    text = json.dumps(results, indent=2, default=str)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
