"""Run a program of ExecuTorch by its runtime for Python, on the CPU."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.utils.optional_imports import import_extra


class ExecuTorchBackend:
    """A program for one image at once.

    Args:
        path: The `.pte` file.
        precision: Number type of the products.

    Raises:
        ImportError: If executorch is not installed.
    """

    def __init__(self, path: Path, precision: str) -> None:
        runtime = import_extra("executorch.runtime", "executorch")
        self.name, self.precision = "executorch", precision
        self._program = runtime.Runtime.get().load_program(path.read_bytes())  # kept: the method reads its memory
        self._method = self._program.load_method("forward")
        self._lock = threading.Lock()  # the method has one buffer for its results

    def encode(self, pixel_values: Any) -> NDArray[np.float32]:
        """Map images (B, 3, height, width) to descriptors (B, D), one by one."""
        import torch

        images = torch.as_tensor(pixel_values).float()
        with self._lock:
            rows = [self._method.execute([image.contiguous()])[0].numpy().copy() for image in images.split(1)]
        return np.concatenate(rows)
