"""The table of export formats."""

from d2vpr_hf.backends.formats.core_ml import CoreMlFormat
from d2vpr_hf.backends.formats.executorch_format import ExecuTorchFormat
from d2vpr_hf.backends.formats.export_format import ExportFormat
from d2vpr_hf.backends.formats.onnx_format import OnnxFormat
from d2vpr_hf.backends.formats.openvino_format import OpenVinoFormat
from d2vpr_hf.backends.formats.transformers_js import TransformersJsFormat

_FORMATS: tuple[ExportFormat, ...] = (
    OnnxFormat(),
    OpenVinoFormat(),
    TransformersJsFormat(),
    CoreMlFormat(),
    ExecuTorchFormat("executorch", uses_xnnpack=True),
    ExecuTorchFormat("executorch-portable", uses_xnnpack=False),
)
FORMATS: dict[str, ExportFormat] = {entry.name: entry for entry in _FORMATS}
