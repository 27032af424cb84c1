"""ONNX: one file for onnxruntime, OpenVINO and other runtimes."""

from pathlib import Path
from typing import Any

from d2vpr_hf.backends.formats.protocol import GraphTask, InputKind, save_configuration
from d2vpr_hf.backends.graph.onnx_graph import write_onnx
from d2vpr_hf.backends.graph.quantization import quantize_graph
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig


class OnnxFormat:
    """`model.onnx`."""

    name = "onnx"
    precisions: tuple[str, ...] = ("fp32", "int8")
    inputs: tuple[InputKind, ...] = ("fixed", "any-size", "photos")
    takes_batches = True
    backends: tuple[str, ...] = ("onnxruntime", "openvino")
    libraries: tuple[str, ...] = ("onnx",)
    config_file = "config.json"

    def graphs(self, precision: str) -> dict[str, str]:
        """Return the path of the only graph."""
        return {precision: "model.onnx"}

    def write(self, task: GraphTask) -> None:
        """Write the graph."""
        write_graph(task, task.folder / "model.onnx")

    def write_configuration(
        self, folder: Path, config: VPRConfig, processor: D2VPRImageProcessor, info: dict[str, Any]
    ) -> None:
        """Write configuration and image processor."""
        save_configuration(folder, config, processor)


def write_graph(task: GraphTask, target: Path) -> None:
    """Write an ONNX graph in the precision of the task."""
    if task.precision != "int8":
        write_onnx(task.network, target, task.example, task.dynamic_shapes)
        return
    in_float32 = target.with_name("fp32.onnx")
    write_onnx(task.network, in_float32, task.example, task.dynamic_shapes)
    quantize_graph(in_float32, target, task.inputs)
    in_float32.unlink()
