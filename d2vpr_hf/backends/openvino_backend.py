"""Run an exported graph by OpenVINO, on the CPU."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.utils.optional_imports import import_extra
from d2vpr_hf.utils.threads import num_cores

_TYPES = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}  # number type of the operations that are not quantised


class OpenVinoBackend:
    """A graph in OpenVINO.

    Args:
        path: The `.xml` or `.onnx` file.
        precision: Number type of the products. bf16 runs an fp32 graph.
        output_name: Name of the output that holds the descriptors; `None` for the first.

    Raises:
        ImportError: If openvino is not installed.
    """

    def __init__(self, path: Path, precision: str, output_name: str | None = None) -> None:
        openvino = import_extra("openvino", "openvino")
        self.name, self.precision = "openvino", precision
        settings = {
            "INFERENCE_PRECISION_HINT": _TYPES[precision],  # the default is bf16 on CPUs that have it
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_cores(),
        }
        self._network = openvino.Core().compile_model(path, "CPU", settings)
        self._output = self._network.output(0 if output_name is None else output_name)
        self._lock = threading.Lock()  # OpenVINO has one buffer for the results, and refuses a second call meanwhile

    def encode(self, pixel_values: Any) -> NDArray[np.float32]:
        """Map images (B, 3, height, width) to descriptors (B, D)."""
        with self._lock:
            descriptors: NDArray[np.float32] = self._network([np.asarray(pixel_values)])[self._output]
        return descriptors


def convert_to_openvino(source: Path, target: Path) -> None:
    """Write an ONNX graph as OpenVINO's `.xml` and `.bin`, in float32.

    Raises:
        ImportError: If openvino is not installed.
    """
    openvino = import_extra("openvino", "openvino")
    openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)
