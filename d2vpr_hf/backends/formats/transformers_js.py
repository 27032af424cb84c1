"""The layout of transformers.js, the library of the Hub for browsers, Node.js, Deno and Bun.

Its task `image-feature-extraction` decodes a photo, turns it upright, calls the image processor, runs `onnx/model.onnx` and
returns the output `pooler_output` with `pool: true`, and `image_embeds` without it. Photos are resized in the graph, because
canvas and sharp, by which the library resizes, give other pixels.
"""

import json
from pathlib import Path
from typing import Any

from d2vpr_hf.backends.formats.protocol import GraphTask, InputKind
from d2vpr_hf.backends.graph.onnx_graph import OUTPUT, write_onnx
from d2vpr_hf.backends.graph.quantization import quantize_graph
from d2vpr_hf.hub.cards import CARD_MARK
from d2vpr_hf.hub.model_cards import graph_license, untrained_remark
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig
from d2vpr_hf.utils.optional_imports import import_extra

FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
OUTPUTS = ("pooler_output", "image_embeds")
_DTYPES = {"fp32": "fp32", "int8": "q8"}  # the library's words; it looks for q8 in browsers if nothing is said
# a type that the library has: it warns about others, and loads them as it loads this one
_LIBRARY_CONFIG = {"architectures": ["Dinov2Model"], "model_type": "dinov2"}
_PROCESSOR = "ViTImageProcessor"  # it adds no step to those of the library's base class

_README = """---
library_name: transformers.js
pipeline_tag: image-feature-extraction
tags:
- visual-place-recognition
---

{mark}

# Descriptors of places, for transformers.js

Photos of the same place have descriptors that lie close together.
{untrained_remark}
```js
import {{ pipeline }} from '@huggingface/transformers';

const describe = await pipeline('image-feature-extraction', 'USER/NAME'); // id of this folder on the Hub
const descriptor = await describe('photo.jpg'); // a path, URL, Blob or RawImage; gives a Tensor of [1, {width}] numbers
```

From a folder on the disk, `models/my-d2vpr` here, without a network:

```js
import {{ env, pipeline }} from '@huggingface/transformers';

env.allowRemoteModels = false;
env.localModelPath = 'models';
const describe = await pipeline('image-feature-extraction', 'my-d2vpr');
```

- A photo may have any size: it is resized in the graph, not by the library.
- Call `describe` once for each photo. The library stacks the photos of one call without comparing their sizes: photos of
  different sizes in one call get wrong descriptors, often without an error.
- `{{ pool: true }}` gives the same descriptor.
- Weights: {dtypes}. `pipeline(..., {{ dtype: 'fp32' }})` selects them; the default is `{dtype}`.
- `config.json` names a class of the library that runs a graph from `pixel_values`. The network is not a plain DINOv2.
- Made from {source} by `d2vpr export --format transformers-js`, whose descriptors these are.

## Licence

{license_note}
"""


class TransformersJsFormat:
    """`onnx/model.onnx`, for int8 `onnx/model_quantized.onnx` too, with the library's names in the configuration files."""

    name = "transformers-js"
    precisions: tuple[str, ...] = ("fp32", "int8")
    inputs: tuple[InputKind, ...] = ("photos",)
    takes_batches = True
    backends: tuple[str, ...] = ("onnxruntime", "openvino")
    libraries: tuple[str, ...] = ("onnx",)
    config_file = "d2vpr_config.json"

    def graphs(self, precision: str) -> dict[str, str]:
        """Return the paths of the graphs: an int8 export has one in float32 too."""
        return {kind: FILES[kind] for kind in dict.fromkeys((precision, "fp32"))}

    def write(self, task: GraphTask) -> None:
        """Write the graphs, with the output names of the library."""
        (task.folder / "onnx").mkdir()
        plain = task.folder / FILES["fp32"]
        write_onnx(task.network, plain, task.example, task.dynamic_shapes)
        if task.precision == "int8":
            quantize_graph(plain, task.folder / FILES["int8"], task.inputs)
        for path in self.graphs(task.precision).values():
            _name_outputs(task.folder / path)

    def write_configuration(
        self, folder: Path, config: VPRConfig, processor: D2VPRImageProcessor, info: dict[str, Any]
    ) -> None:
        """Write the files of the library, a README, and the configuration of the model for this package."""
        dtype = _DTYPES[info["precision"]]
        config.to_json_file(folder / self.config_file)
        _write_json(folder / "config.json", _LIBRARY_CONFIG | {"transformers.js_config": {"dtype": dtype}})
        fields = {name: value for name, value in processor.to_dict().items() if name != "auto_map"}
        _write_json(folder / "preprocessor_config.json", fields | {"image_processor_type": _PROCESSOR})
        text = _README.format(
            mark=CARD_MARK,
            width=config.descriptor_dim,
            dtypes=", ".join(f"`{_DTYPES[kind]}`" for kind in self.graphs(info["precision"])),
            dtype=dtype,
            source=_source_text(info.get("model")),
            license_note=graph_license(info.get("model"))[1],
            untrained_remark=f"\n{remark}\n" if (remark := untrained_remark(config.untrained_parts)) else "",
        )
        (folder / "README.md").write_text(text, encoding="utf-8")


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


def _source_text(model: str | None) -> str:
    """Return the text that names the model; the path of a folder means nothing to readers of a card."""
    return "a model folder" if model is None or Path(model).exists() else f"`{model}`"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
