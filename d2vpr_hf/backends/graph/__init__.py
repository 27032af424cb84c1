"""ONNX graphs of a model: their making, their resizing by matrices, and int8."""
