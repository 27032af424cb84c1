"""ONNX graphs of a model: writing them, resizing by matrices in them, and quantising them to int8."""
