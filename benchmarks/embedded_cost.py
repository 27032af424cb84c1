"""Cost of the embedded model next to an earlier one: multiply-adds, and milliseconds a photo, as a Markdown table.

    python benchmarks/embedded_cost.py EARLIER_MODEL [--rounds 30]

Each model sees photos of its own input size, normalised, as `PlaceEncoder` runs it by default. The models alternate call by
call, so that other work on the machine affects both of them; times are medians. Compare ratios, not times.
"""

import argparse
import statistics
import time

import torch
from model_cost import count_gmac

from d2vpr_hf import load_model
from d2vpr_hf.backends.torch_backend import TorchBackend
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.pretrained.loading import load_image_processor

BATCH_SIZES = (1, 32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("earlier", help="folder of the earlier model")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    names = {"earlier": arguments.earlier, "embedded": EMBEDDED_NAME}
    sizes = {title: load_image_processor(name).size["height"] for title, name in names.items()}
    models = {title: load_model(name).eval() for title, name in names.items()}
    backends = {title: TorchBackend(model) for title, model in models.items()}
    times = {
        batch: time_in_turn(
            {title: (backend, torch.randn(batch, 3, sizes[title], sizes[title])) for title, backend in backends.items()},
            arguments.rounds,
        )
        for batch in BATCH_SIZES
    }
    print("| model | photos of | GMAC | " + " | ".join(f"batch {batch}: ms a photo (ratio)" for batch in BATCH_SIZES) + " |")
    print("| --- | --- | --- | --- | --- |")
    for title, size in sizes.items():
        cells = [f"{times[batch][title]:.2f} ({times[batch][title] / times[batch]['earlier']:.2f})" for batch in BATCH_SIZES]
        print(f"| {title} | {size}×{size} | {count_gmac(models[title], size):.3f} | {' | '.join(cells)} |")


def time_in_turn(calls: dict[str, tuple[TorchBackend, torch.Tensor]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds an image of each backend, after one round of warming up."""
    times: dict[str, list[float]] = {title: [] for title in calls}
    for _ in range(rounds + 1):
        for title, (backend, images) in calls.items():
            start = time.perf_counter()
            backend.encode(images)
            times[title].append((time.perf_counter() - start) * 1e3 / len(images))
    return {title: statistics.median(values[1:]) for title, values in times.items()}


if __name__ == "__main__":
    main()
