"""ExecuTorch: torch's runtime for phones and small devices."""

import logging
import warnings
from pathlib import Path
from typing import Any

from d2vpr_hf.backends.formats.protocol import GraphTask, InputKind, save_configuration
from d2vpr_hf.backends.graph.mobile_network import trace
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig
from d2vpr_hf.utils.optional_imports import import_extra


class ExecuTorchFormat:
    """`model.pte`, a program for one normalised image.

    Args:
        name: Word for the format.
        uses_xnnpack: Whether XNNPACK runs the operations that it has. Without it, all are portable kernels, which every
            device has, and which are slower.
    """

    precisions: tuple[str, ...] = ("fp32",)
    inputs: tuple[InputKind, ...] = ("fixed",)
    takes_batches = False
    backends: tuple[str, ...] = ("executorch",)
    libraries: tuple[str, ...] = ("executorch",)
    config_file = "config.json"

    def __init__(self, name: str, uses_xnnpack: bool) -> None:
        self.name, self.uses_xnnpack = name, uses_xnnpack

    def graphs(self, precision: str) -> dict[str, str]:
        """Return the path of the only program."""
        return {precision: "model.pte"}

    def write(self, task: GraphTask) -> None:
        """Write the program."""
        exir = import_extra("executorch.exir", "executorch")
        xnnpack = import_extra("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        partitioners = [xnnpack.XnnpackPartitioner()] if self.uses_xnnpack else None
        logging.getLogger("torch.export").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about the library's internals
            program = trace(task.network, task.example)
            lowered = exir.to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch()
        (task.folder / "model.pte").write_bytes(lowered.buffer)

    def write_configuration(
        self, folder: Path, config: VPRConfig, processor: D2VPRImageProcessor, info: dict[str, Any]
    ) -> None:
        """Write configuration and image processor."""
        save_configuration(folder, config, processor)
