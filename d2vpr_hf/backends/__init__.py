"""What runs the network: torch, onnxruntime or OpenVINO, behind one protocol."""
