"""Open a backend by its name."""

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from d2vpr_hf.backends.optimized.optimize import can_prepare
from d2vpr_hf.backends.protocol import Backend, check_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.torch_backend import TorchBackend, precision_of
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel

if TYPE_CHECKING:
    from d2vpr_hf.backends.graph_source import GraphSource

_FORMATS = {"onnxruntime": "onnx", "openvino": "openvino", "executorch": "executorch"}  # that a model is converted to


def open_backend(
    model: VPRPreTrainedModel,
    processor: D2VPRImageProcessor,
    name: str,
    precision: str | None = None,
    *,
    steps: Preprocessing | None = None,
) -> Backend:
    """Open a backend that runs a model.

    For onnxruntime, openvino and executorch the model is converted first, at each call, which takes 15 seconds or more. A model
    that `d2vpr export` wrote is already converted.

    Args:
        model: A model in eval mode, on its device.
        processor: The image processor of the model; the size of the images is read from it.
        name: `"torch"`, `"torch-compiled"`, `"onnxruntime"`, `"openvino"`, `"executorch"`, or `"auto"`: see [`choose_backend`].
        precision: Number type of the products; `None` for [`default_precision`].
        steps: The steps of preprocessing; `None` for those of the image processor.

    Raises:
        ImportError: If the backend is not installed.
        ValueError: If the backend does not exist, does not have the precision or cannot run on the device, or if int8 is
            requested for a model that is not exported.
    """
    runtime = settle_backend(model, name, precision)
    if runtime.backend.startswith("torch"):
        return TorchBackend(model, runtime.precision, compiled=runtime.backend == "torch-compiled")
    if not can_prepare(model):
        raise ValueError(
            f"The backend {runtime.backend} converts models of this package whose weights are neither quantised nor adapted, "
            f'got {type(model).__name__}. Give `backend="torch"`, or load the model from its folder.'
        )
    from d2vpr_hf.backends.graph_source import OwnSource

    return convert(OwnSource(model, processor, steps), runtime, model.device)


def convert(source: "GraphSource", runtime: Runtime, device: torch.device) -> Backend:
    """Convert a model to a graph, and open the graph with a runtime; arguments and errors as for [`open_backend`]."""
    if device.type != "cpu":
        raise ValueError(
            f"The backend {runtime.backend} runs on the CPU here, got the device {device}. "
            'Give `device="cpu"`, or `backend="torch"`.'
        )
    format_name = _FORMATS[runtime.backend]
    if runtime.precision == "int8":
        raise ValueError(
            f"int8 needs photos to be calibrated on: `d2vpr export MODEL OUT --format {format_name} --precision int8 --photos "
            "PHOTOS`, then OUT is the model."
        )
    from d2vpr_hf.backends.export_model import ExportOptions, export_source

    options = ExportOptions(format_name, runtime.precision, "any-size" if source.steps.input_size is None else "fixed")
    with tempfile.TemporaryDirectory() as scratch:  # the runtime reads the whole graph before the folder is removed
        return export_source(source, Path(scratch) / "model", options).open_backend(runtime.backend, None)


def settle_backend(model: VPRPreTrainedModel, name: str, precision: str | None) -> Runtime:
    """Return the runtime of a model: `"auto"` and `None` are replaced by a backend and a precision.

    Raises:
        ValueError: If the backend does not exist, or does not have the precision.
    """
    check_backend(name, precision)
    if name == "auto":
        name = choose_backend(model.device, precision) if can_prepare(model) else "torch"
    check_backend(name, precision)
    return Runtime(name, precision or (default_precision(model) if name.startswith("torch") else "fp32"))


def default_precision(model: VPRPreTrainedModel) -> str:
    """Return the precision that torch runs a model in if none is requested.

    It is bfloat16 on a GPU with matrix units for it, from compute capability 8.0 on, for weights in float32 that can be
    optimized; then only products are rounded. There it is several times as fast (docs/speed.md). Elsewhere it is that of the
    weights.
    """
    is_faster = model.device.type == "cuda" and has_bfloat16_units(model.device)
    return "bf16" if is_faster and model.dtype == torch.float32 and can_prepare(model) else precision_of(model)


def has_bfloat16_units(device: torch.device) -> bool:
    """Return whether a GPU has matrix units for bfloat16; not where the driver does not answer."""
    try:
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    except (RuntimeError, AssertionError):
        return False


def choose_backend(device: torch.device, precision: str | None = None) -> str:
    """Return the backend for a device: on a CPU OpenVINO, if it is installed and has the precision, otherwise torch."""
    if device.type == "cpu" and precision != "fp16" and importlib.util.find_spec("openvino"):
        return "openvino"
    return "torch"
