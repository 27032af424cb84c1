"""The table of export formats."""

from d2vpr_hf.backends.formats.onnx_format import OnnxFormat
from d2vpr_hf.backends.formats.openvino_format import OpenVinoFormat
from d2vpr_hf.backends.formats.protocol import ExportFormat
from d2vpr_hf.backends.formats.transformers_js import TransformersJsFormat

_FORMATS: tuple[ExportFormat, ...] = (OnnxFormat(), OpenVinoFormat(), TransformersJsFormat())
FORMATS: dict[str, ExportFormat] = {entry.name: entry for entry in _FORMATS}
