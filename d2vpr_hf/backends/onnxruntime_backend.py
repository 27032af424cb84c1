"""Run an exported graph by onnxruntime, on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.graph.graph_names import INPUT
from d2vpr_hf.utils.optional_imports import import_extra
from d2vpr_hf.utils.threads import num_cores


class OnnxRuntimeBackend:
    """A graph in onnxruntime.

    Args:
        path: The `.onnx` file.
        precision: Number type of the graph's products.
        input_name: Name of the graph's input.
        output_name: Name of the output that holds the descriptors; `None` for the first.

    Raises:
        ImportError: If onnxruntime is not installed.
    """

    def __init__(self, path: Path, precision: str, input_name: str = INPUT, output_name: str | None = None) -> None:
        onnxruntime = import_extra("onnxruntime", "onnxruntime")
        self.name, self.precision = "onnxruntime", precision
        self._input_name = input_name
        self._output_names = None if output_name is None else [output_name]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_cores()
        options.log_severity_level = 4  # errors are raised, and need not be printed as well
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave cores free for decoding
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(self, pixel_values: Any) -> NDArray[np.float32]:
        """Map images (B, 3, height, width) to descriptors (B, D)."""
        descriptors: NDArray[np.float32] = self._session.run(self._output_names, {self._input_name: np.asarray(pixel_values)})[
            0
        ]
        return descriptors
