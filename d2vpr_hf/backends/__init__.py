"""Backends that run the network: torch, onnxruntime and OpenVINO, behind one protocol."""
