"""The choices of options. They repeat the library's lists, which cannot be imported without torch."""

from typing import Literal

AnswerFormat = Literal["table", "json", "jsonl", "geojson", "csv", "gpx", "kml"]
Backend = Literal["torch", "torch-compiled", "onnxruntime", "openvino", "executorch", "auto"]
Compression = Literal["none", "half", "int8", "bits"]
DescriptorFormat = Literal["h5"]
Dtype = Literal["float16", "float32"]
ExportFormat = Literal["onnx", "openvino", "transformers-js", "coreml", "executorch", "executorch-portable"]
ExportInput = Literal["fixed", "any-size", "photos"]
ExportPrecision = Literal["fp32", "bf16", "int8"]
KnownKind = Literal["own", "transformers", "onnx", "torch-hub"]
IndexTarget = Literal["parquet", "lancedb", "qdrant", "geojson", "gpx", "kml"]
Layout = Literal["at-names", "gsv-cities"]
ModelKind = Literal["student", "cricavpr"]
PairFormat = Literal["hloc", "colmap"]
Pool = Literal["cls", "mean", "gem", "cls+gem", "pooler", "regions"]
PositionSource = Literal["csv", "names", "exif"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
Store = Literal["faiss", "milvus"]
TestTime = Literal["resize", "five-crops", "nearest-crop"]
Tier = Literal["easy", "standard", "all"]
