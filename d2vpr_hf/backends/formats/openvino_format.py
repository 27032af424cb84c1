"""OpenVINO's own format."""

from pathlib import Path
from typing import Any

from d2vpr_hf.backends.formats.onnx_format import write_graph
from d2vpr_hf.backends.formats.protocol import GraphTask, InputKind, save_configuration
from d2vpr_hf.backends.openvino_backend import convert_to_openvino
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig


class OpenVinoFormat:
    """`model.xml`, with weights in `model.bin`."""

    name = "openvino"
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
    inputs: tuple[InputKind, ...] = ("fixed", "any-size", "photos")
    takes_batches = True
    backends: tuple[str, ...] = ("openvino",)
    libraries: tuple[str, ...] = ("onnx",)
    config_file = "config.json"

    def graphs(self, precision: str) -> dict[str, str]:
        """Return the path of the only graph."""
        return {precision: "model.xml"}

    def write(self, task: GraphTask) -> None:
        """Write an ONNX graph, and convert it."""
        plain = task.folder / "plain.onnx"
        write_graph(task, plain)
        convert_to_openvino(plain, task.folder / "model.xml")
        plain.unlink()

    def write_configuration(
        self, folder: Path, config: VPRConfig, processor: D2VPRImageProcessor, info: dict[str, Any]
    ) -> None:
        """Write configuration and image processor."""
        save_configuration(folder, config, processor)
