"""OpenVINO's own format."""

from d2vpr_hf.backends.formats.export_format import ExportFormat, GraphTask
from d2vpr_hf.backends.formats.onnx_format import write_graph
from d2vpr_hf.backends.openvino_backend import convert_to_openvino


class OpenVinoFormat(ExportFormat):
    """`model.xml`, with weights in `model.bin`."""

    name = "openvino"
    graph = "model.xml"
    precisions = ("fp32", "bf16", "int8")
    inputs = ("fixed", "any-size", "photos")
    takes_batches = True
    backends = ("openvino",)
    libraries = ("onnx",)

    def write(self, task: GraphTask) -> None:
        """Write an ONNX graph, and convert it."""
        plain = task.folder / "plain.onnx"
        write_graph(task, plain)
        convert_to_openvino(plain, task.folder / self.graph)
        plain.unlink()
