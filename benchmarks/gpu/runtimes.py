"""Part (f): the exported graph by ONNX Runtime, with its providers for CUDA and TensorRT where they are installed."""

import importlib.util
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.part import Setting
from benchmarks.network_timing import alternate, student
from d2vpr_hf.modeling import D2VPRImageProcessor
from tests.networks import tiny_model

PROVIDERS = {"cuda": ("CUDAExecutionProvider", "TensorrtExecutionProvider"), "cpu": ("CPUExecutionProvider",)}
BATCHES = (1, 64)


def measure(setting: Setting) -> None:
    """Measure the providers that are installed."""
    missing = [name for name in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        setting.note("not measured", f"{', '.join(missing)} is not installed")
        return
    import onnxruntime

    wanted = PROVIDERS["cuda" if setting.on_gpu else "cpu"]
    present = [name for name in wanted if name in onnxruntime.get_available_providers()]
    if not present:
        setting.note("not measured", f"ONNX Runtime {onnxruntime.__version__} has no {' or '.join(wanted)}")
        return
    from d2vpr_hf.backends.export_model import ExportOptions, export_model

    side = 70 if setting.tiny else 224
    model, processor = tiny_model() if setting.tiny else student(), D2VPRImageProcessor(size={"height": side, "width": side})
    export_model(model, processor, setting.work / "graph", ExportOptions("onnx", "fp32"), None, {"fingerprint": ""})
    setting.progress("the graph is exported")
    graph = next((setting.work / "graph").glob("*.onnx"))
    for provider in present:
        setting.note(provider, time_provider(graph, provider, side, 1 if setting.tiny else 20))


def time_provider(graph: Any, provider: str, side: int, rounds: int) -> dict[str, Any]:
    """Return times of a provider, from arrays in the CPU's memory to arrays; a provider that fails has a note instead."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(graph), providers=[provider])
        if session.get_providers()[0] != provider:  # ONNX Runtime uses the CPU if it cannot load a provider
            raise RuntimeError(f"ONNX Runtime did not load it and uses {', '.join(session.get_providers())}")
        images = {batch: torch.randn(batch, 3, side, side).numpy() for batch in BATCHES}

        def run(pixels: np.ndarray) -> Any:
            return session.run(None, {"pixel_values": pixels})

        return alternate({f"batch {batch}": lambda b=batch: run(images[b]) for batch in BATCHES}, rounds)
    except Exception as error:  # the libraries of a provider may be missing, which raises errors of several kinds
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
