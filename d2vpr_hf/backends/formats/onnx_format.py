"""ONNX: one file for onnxruntime, OpenVINO and other runtimes."""

from pathlib import Path

from d2vpr_hf.backends.formats.export_format import ExportFormat, GraphTask


class OnnxFormat(ExportFormat):
    """`model.onnx`."""

    name = "onnx"
    graph = "model.onnx"
    precisions = ("fp32", "int8")
    inputs = ("fixed", "any-size", "photos")
    takes_batches = True
    backends = ("onnxruntime", "openvino")
    libraries = ("onnx",)

    def write(self, task: GraphTask) -> None:
        """Write the graph."""
        write_graph(task, task.folder / self.graph)


def write_graph(task: GraphTask, target: Path) -> None:
    """Write an ONNX graph in the precision of the task."""
    from d2vpr_hf.backends.graph.onnx_graph import write_onnx
    from d2vpr_hf.backends.graph.quantization import quantize_graph

    if task.precision != "int8":
        write_onnx(task.network, target, task.example, task.dynamic_shapes)
        return
    in_float32 = target.with_name("fp32.onnx")
    write_onnx(task.network, in_float32, task.example, task.dynamic_shapes)
    quantize_graph(in_float32, target, task.inputs)
    in_float32.unlink()
