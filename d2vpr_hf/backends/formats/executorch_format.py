"""ExecuTorch: torch's runtime for phones and small devices."""

import logging
import warnings

from d2vpr_hf.backends.formats.export_format import ExportFormat, GraphTask
from d2vpr_hf.utils.atomic_files import write_file
from d2vpr_hf.utils.optional_imports import import_extra


class ExecuTorchFormat(ExportFormat):
    """`model.pte`, a program for one normalised image.

    Args:
        name: Word for the format.
        uses_xnnpack: Whether XNNPACK runs the operations that it has. Without it, all are portable kernels, which every
            device has, and which are slower.
    """

    graph = "model.pte"
    backends = ("executorch",)
    libraries = ("executorch",)

    def __init__(self, name: str, uses_xnnpack: bool) -> None:
        self.name, self.uses_xnnpack = name, uses_xnnpack

    def write(self, task: GraphTask) -> None:
        """Write the program."""
        from d2vpr_hf.backends.graph.mobile_network import trace

        exir = import_extra("executorch.exir", "executorch")
        xnnpack = import_extra("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
        partitioners = [xnnpack.XnnpackPartitioner()] if self.uses_xnnpack else None
        logging.getLogger("torch.export").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about the library's internals
            program = trace(task.network, task.example)
            lowered = exir.to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch()
        write_file(task.folder / self.graph, lowered.buffer)
