"""Networks with random weights and the timing of calls that take turns, for several benchmarks."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Dinov2Config, Dinov2Model

from d2vpr_hf.modeling import D2VPRConfig, D2VPRModel

GMAC = {"Dinov2-small": 6.12, "D²-VPR": 7.12}  # for one image at 224×224, counted by benchmarks/model_cost.py
Call = Callable[[torch.Tensor], Any]


def student() -> D2VPRModel:
    """Return a student with random weights."""
    torch.manual_seed(0)
    return D2VPRModel(D2VPRConfig()).eval()


def bare_dinov2(size: str) -> Dinov2Model:
    """Return transformers' DINOv2 of a size with random weights: `"small"`, `"base"`, or `"tiny"`, which has two blocks."""
    width, num_heads, num_layers = {"tiny": (32, 2, 2), "small": (384, 6, 12), "base": (768, 12, 12)}[size]
    config = Dinov2Config(hidden_size=width, num_attention_heads=num_heads, num_hidden_layers=num_layers, image_size=518)
    return Dinov2Model(config).eval()


def bare(size: str, device: str = "cpu") -> Call:
    """Return transformers' DINOv2 with random weights, as a function of pixels."""
    model = bare_dinov2(size).to(device)
    return torch.inference_mode()(lambda pixels: model(pixels).last_hidden_state)


def alternate(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Time calls in turn, after two rounds of warming up, in milliseconds: minimum and median."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    measured = {name: values[2:] for name, values in times.items()}
    return {name: {"min_ms": min(values), "median_ms": statistics.median(values)} for name, values in measured.items()}


def gemm_gflops(dtype: torch.dtype = torch.float32, side: int = 1536, device: str = "cpu") -> float:
    """Return the best speed of products of large matrices, in billions of operations a second."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / alternate({"product": lambda: finished(left @ right)}, 20)["product"]["min_ms"] / 1e6


def finished(value: Any) -> Any:
    """Return a value after the GPU has computed it."""
    if isinstance(value, torch.Tensor) and value.is_cuda:
        torch.cuda.synchronize()
    return value
