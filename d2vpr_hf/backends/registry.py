"""Open a backend by its name."""

import importlib.util
import tempfile
from pathlib import Path

import torch

from d2vpr_hf.backends.protocol import Backend, check_backend
from d2vpr_hf.backends.torch_backend import TorchBackend, precision_of
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel


def open_backend(model: VPRPreTrainedModel, processor: D2VPRImageProcessor, name: str, precision: str | None = None) -> Backend:
    """Open a backend that runs a model.

    onnxruntime and openvino convert the model first, which takes a quarter of a minute; `d2vpr export` does that once.

    Args:
        model: In eval mode, on the device wanted.
        processor: Says of which size images are.
        name: `"torch"`, `"torch-compiled"`, `"onnxruntime"`, `"openvino"`, or `"auto"`: see [`choose_backend`].
        precision: Of the products; `None` for the type of the model's weights.

    Raises:
        ImportError: If the backend is not installed.
        ValueError: If there is no such backend, or it has no such precision or device.
    """
    name, precision = settle_backend(model, name, precision)
    if name.startswith("torch"):
        return TorchBackend(model, precision, compiled=name == "torch-compiled")
    if model.device.type != "cpu":
        raise ValueError(f"The backend {name} runs on the CPU here, got the device {model.device}. `--device cpu`, or torch.")
    if precision == "int8":
        format_name = "onnx" if name == "onnxruntime" else name
        raise ValueError(
            f"int8 needs photos to be calibrated on: `d2vpr export MODEL OUT --format {format_name} --precision int8 --photos "
            "PHOTOS`, then OUT is the model."
        )
    return _convert(model, processor, name, precision)


def settle_backend(model: VPRPreTrainedModel, name: str, precision: str | None) -> tuple[str, str]:
    """Say which backend runs a model, and in which precision, where `"auto"` or `None` leave that open.

    Raises:
        ValueError: If there is no such backend, or it has no such precision.
    """
    check_backend(name, precision)
    name = choose_backend(model.device, precision) if name == "auto" else name
    check_backend(name, precision)
    return name, precision or (precision_of(model) if name.startswith("torch") else "fp32")


def choose_backend(device: torch.device, precision: str | None = None) -> str:
    """Name the backend for a device: on a CPU OpenVINO, if it is installed and has the precision, and else torch."""
    if device.type == "cpu" and precision != "fp16" and importlib.util.find_spec("openvino"):
        return "openvino"
    return "torch"


def _convert(model: VPRPreTrainedModel, processor: D2VPRImageProcessor, name: str, precision: str) -> Backend:
    """Export a model for this process alone. The runtimes have read the graph when the folder goes."""
    from d2vpr_hf.backends.export_model import ExportOptions, export_model

    with tempfile.TemporaryDirectory() as scratch:
        fixed = processor.do_resize
        options = ExportOptions("onnx" if name == "onnxruntime" else "openvino", precision, "fixed" if fixed else "any-size")
        return export_model(model, processor, Path(scratch) / "model", options).open_backend(name, None)
