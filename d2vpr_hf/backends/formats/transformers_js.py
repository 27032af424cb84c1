"""The layout of transformers.js, the library of the Hub for browsers, Node.js, Deno and Bun.

Its task `image-feature-extraction` decodes a photo, turns it upright, calls the image processor, runs `onnx/model.onnx` and
returns the output `pooler_output` with `pool: true`, and `image_embeds` without it. Photos are resized in the graph, because
canvas and sharp, by which the library resizes, give other pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2vpr_hf.backends.formats.export_format import ExportFormat, GraphTask
from d2vpr_hf.backends.graph.graph_names import OUTPUT
from d2vpr_hf.utils.atomic_files import write_file
from d2vpr_hf.utils.optional_imports import import_extra

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from d2vpr_hf.modeling import D2VPRImageProcessor

FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
OUTPUTS = ("pooler_output", "image_embeds")
DTYPES = {"fp32": "fp32", "int8": "q8"}  # the library's words; it looks for q8 in browsers if nothing is said
# a type that the library has: it warns about others, and loads them as it loads this one
_LIBRARY_CONFIG = {"architectures": ["Dinov2Model"], "model_type": "dinov2"}
_PROCESSOR = "ViTImageProcessor"  # it adds no step to those of the library's base class


class TransformersJsFormat(ExportFormat):
    """`onnx/model.onnx`, for int8 `onnx/model_quantized.onnx` too, with the library's names in the configuration files."""

    name = "transformers-js"
    graph = FILES["fp32"]
    precisions = ("fp32", "int8")
    inputs = ("photos",)
    takes_batches = True
    backends = ("onnxruntime", "openvino")
    libraries = ("onnx",)
    config_file = "d2vpr_config.json"

    def graphs(self, precision: str) -> dict[str, str]:
        """Return the paths of the graphs: an int8 export has one in float32 too."""
        return {kind: FILES[kind] for kind in dict.fromkeys((precision, "fp32"))}

    def write(self, task: GraphTask) -> None:
        """Write the graphs, with the output names of the library."""
        from d2vpr_hf.backends.graph.onnx_graph import write_onnx
        from d2vpr_hf.backends.graph.quantization import quantize_graph

        (task.folder / "onnx").mkdir()
        plain = task.folder / self.graph
        write_onnx(task.network, plain, task.example, task.dynamic_shapes)
        if task.precision == "int8":
            quantize_graph(plain, task.folder / FILES["int8"], task.inputs)
        for path in self.graphs(task.precision).values():
            _name_outputs(task.folder / path)

    def write_configuration(
        self, folder: Path, config: PreTrainedConfig | None, processor: D2VPRImageProcessor | None, precision: str
    ) -> None:
        """Write the files of the library, and the configuration of the model for this package."""
        if config is not None:
            config.to_json_file(folder / self.config_file)
        from d2vpr_hf.modeling import D2VPRImageProcessor

        processor = processor or D2VPRImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)
        _write_json(folder / "config.json", _LIBRARY_CONFIG | {"transformers.js_config": {"dtype": DTYPES[precision]}})
        fields = {name: value for name, value in processor.to_dict().items() if name != "auto_map"}
        _write_json(folder / "preprocessor_config.json", fields | {"image_processor_type": _PROCESSOR})


def _name_outputs(path: Path) -> None:
    """Rename the output of a graph to the first name that the library reads, and add a copy for each other name."""
    onnx = import_extra("onnx", "export")
    model = onnx.load(path)
    graph = model.graph
    for node in graph.node:
        node.output[:] = [OUTPUTS[0] if name == OUTPUT else name for name in node.output]
        node.input[:] = [OUTPUTS[0] if name == OUTPUT else name for name in node.input]
    graph.output[0].name = OUTPUTS[0]
    for name in OUTPUTS[1:]:
        graph.node.append(onnx.helper.make_node("Identity", [OUTPUTS[0]], [name]))
        graph.output.append(graph.output[0])
        graph.output[-1].name = name
    onnx.save(model, path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_file(path, json.dumps(content, indent=2) + "\n")
