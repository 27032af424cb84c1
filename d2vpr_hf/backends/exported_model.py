"""A folder that `d2vpr export` wrote: a graph, and what is known of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor

from d2vpr_hf.backends.onnxruntime_backend import OnnxRuntimeBackend
from d2vpr_hf.backends.openvino_backend import OpenVinoBackend
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig

FACTS_FILE = "export.json"
FORMAT_VERSION = 1
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml"}
_BACKENDS = {"onnx": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True)
class ExportedModel:
    """An exported model.

    Attributes:
        folder: Where it lies.
        facts: What `export.json` holds.
    """

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> "ExportedModel":
        """Read what is known of a folder.

        Raises:
            ValueError: If it is of a form that this version does not know, or damaged.
        """
        path = Path(folder) / FACTS_FILE
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["format_version"] != FORMAT_VERSION or facts["format"] not in GRAPHS:
                raise ValueError(f"its form is {facts['format_version']}, {facts['format']!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error}): export the model anew.") from error
        return cls(Path(folder), facts)

    @property
    def graph(self) -> Path:
        """The graph's file."""
        return self.folder / GRAPHS[self.facts["format"]]

    def config(self) -> VPRConfig:
        """Load the configuration of the model that it was made of."""
        config: VPRConfig = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        return config

    def processor(self) -> D2VPRImageProcessor:
        """Load the image processor that does what the graph does not."""
        processor: D2VPRImageProcessor = AutoImageProcessor.from_pretrained(self.folder, trust_remote_code=False)
        return processor

    def settle_backend(self, name: str, precision: str | None) -> Runtime:
        """Return the runtime of the graph: onnxruntime or OpenVINO for an ONNX graph, OpenVINO for its own format.

        Args:
            name: Of the backend; `"auto"` and `"torch"`, which is the encoder's default, stand for the format's own.
            precision: `None` for the one it was exported in; a graph in fp32 runs in bf16 too, by OpenVINO.

        Raises:
            ValueError: If the backend cannot run this.
        """
        fitting, own = self.facts["format"], self.facts["precision"]
        name = _BACKENDS[fitting] if name in ("auto", "torch") else name
        precision = precision or own
        if not (name == "openvino" or (name, fitting) == ("onnxruntime", "onnx")):
            raise ValueError(f"{self.folder} holds a graph for {_BACKENDS[fitting]}; the backend {name} cannot run it.")
        if precision != own and (own == "int8" or (name, precision) not in (("openvino", "fp32"), ("openvino", "bf16"))):
            raise ValueError(f"{self.folder} was exported in {own}; for {precision} export the model anew.")
        return Runtime(name, precision)

    def open_backend(self, name: str, precision: str | None) -> Backend:
        """Run it, as [`settle_backend`] says.

        Raises:
            ImportError: If the backend is not installed.
            ValueError: If the backend cannot run this.
        """
        runtime = self.settle_backend(name, precision)
        return (OpenVinoBackend if runtime.backend == "openvino" else OnnxRuntimeBackend)(self.graph, runtime.precision)


def is_exported(model: object) -> bool:
    """Tell whether a model's name is a folder that `d2vpr export` wrote."""
    return isinstance(model, str | Path) and (Path(model) / FACTS_FILE).is_file()
