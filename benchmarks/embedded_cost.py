"""Cost of the embedded model next to an earlier one: multiply-adds, and milliseconds a photo, as a Markdown table.

    python benchmarks/embedded_cost.py EARLIER_MODEL [--rounds 30]

Each model sees photos of its own input size, normalised, as `PlaceEncoder` runs it by default. The models alternate call by
call, so that other work on the machine affects both of them; times are medians. Compare ratios, not times.
"""

import argparse

import torch
from model_cost import count_gmac, time_alternating

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
    backends = {title: TorchBackend(model).encode for title, model in models.items()}
    times = {}
    for batch in BATCH_SIZES:
        images = {title: torch.randn(batch, 3, size, size) for title, size in sizes.items()}
        times[batch] = time_alternating(backends, images, arguments.rounds)
    print("| model | photos of | GMAC | " + " | ".join(f"batch {batch}: ms a photo (ratio)" for batch in BATCH_SIZES) + " |")
    print("| --- | --- | --- | --- | --- |")
    for title, size in sizes.items():
        cells = [f"{times[batch][title]:.2f} ({times[batch][title] / times[batch]['earlier']:.2f})" for batch in BATCH_SIZES]
        print(f"| {title} | {size}×{size} | {count_gmac(models[title], size):.3f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
