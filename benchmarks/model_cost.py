"""Parameters, arithmetic and time of the models and of transformers' bare Dinov2-small, as a Markdown table.

    python benchmarks/model_cost.py [--rounds 30] [--image-size 224]

Weights are random, because cost does not depend on them. Multiply-adds are counted once, attention products included. The
models alternate call by call, so that other work on the machine affects all of them; times are medians. Compare ratios, not
times.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

from d2vpr_hf import CricaVPRConfig, CricaVPRModel, D2VPRConfig, D2VPRModel, load_model

BASELINE = "transformers Dinov2-small, bare"
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    BASELINE: lambda: Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)),
    "D²-VPR student": lambda: D2VPRModel(D2VPRConfig()),
    "D²-VPR student with cross-image encoder": lambda: D2VPRModel(D2VPRConfig(use_cross_image_encoder=True)),
    "CricaVPR": lambda: CricaVPRModel(CricaVPRConfig()),
    "embedded small model": load_model,
}


def count_gmac(model: torch.nn.Module, size: int) -> float:
    """Return the multiply-adds of one image, in billions, with math attention: torch's counter does not see fused kernels."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2e9


def time_alternating(models: dict[str, Callable[[Any], Any]], images: dict[str, torch.Tensor], rounds: int) -> dict[str, float]:
    """Return the median milliseconds an image of each model, after one round of warming up; each has images of its own."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model(images[name])
            times[name].append((time.perf_counter() - start) * 1e3 / len(images[name]))
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    models = {name: make().eval() for name, make in MODELS.items()}
    times = {}
    for batch in (1, 8):
        images = torch.randn(batch, 3, arguments.image_size, arguments.image_size)
        times[batch] = time_alternating(models, dict.fromkeys(models, images), arguments.rounds)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {arguments.image_size} px, median of")
    print(f"{arguments.rounds} alternating rounds, ms an image (ratio to the first row)\n")
    print("| model | parameters | GMAC | batch 1 | batch 8 |\n| --- | --- | --- | --- | --- |")
    for name, model in models.items():
        parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
        cells = [f"{times[batch][name]:.0f} ({times[batch][name] / times[batch][BASELINE]:.2f}x)" for batch in times]
        print(f"| {name} | {parameters:.1f} M | {count_gmac(model, arguments.image_size):.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
