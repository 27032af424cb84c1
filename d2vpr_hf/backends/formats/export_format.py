"""An export format: the files that it consists of, and the backends that run them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from d2vpr_hf.backends.graph.onnx_graph import DescriptorNetwork
    from d2vpr_hf.modeling import D2VPRImageProcessor

InputKind = Literal["fixed", "any-size", "photos"]


@dataclass(frozen=True)
class GraphTask:
    """A network to write as a graph.

    Attributes:
        network: The network.
        example: An input (B, 3, height, width) of at least two images, by which the graph is traced.
        inputs: Inputs on which int8 is calibrated.
        dynamic_shapes: The axes of the input that may have any length, in the form of `torch.export`.
        precision: Number type of the products.
        folder: An existing folder for the files.
    """

    network: DescriptorNetwork
    example: torch.Tensor
    inputs: Sequence[torch.Tensor]
    dynamic_shapes: dict[int, Any]
    precision: str
    folder: Path


class ExportFormat(ABC):
    """A format of exported models. A class of its own states its attributes and writes its graph.

    Attributes:
        name: Word for the format, as in `--format`.
        graph: Path of the graph in the folder of the export.
        precisions: Number types of the products that it can have.
        inputs: Kinds of input that it can have; the first is the default.
        takes_batches: Whether its graph takes any number of images at once, not only one.
        backends: Backends of this package that run its graph; the first is the default. Without any, a graph is not verified.
        libraries: Python libraries that write it; their versions are recorded.
        config_file: File with the configuration of the model.
    """

    name: str
    graph: str
    precisions: tuple[str, ...] = ("fp32",)
    inputs: tuple[InputKind, ...] = ("fixed",)
    takes_batches = False
    backends: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    config_file = "config.json"

    def graphs(self, precision: str) -> dict[str, str]:
        """Return the paths of the graphs in the folder, by their precision; the first has the precision of the export."""
        return {precision: self.graph}

    @abstractmethod
    def write(self, task: GraphTask) -> None:
        """Write the graphs.

        Raises:
            ImportError: If a library that the format needs is not installed.
        """

    def write_configuration(
        self, folder: Path, config: PreTrainedConfig | None, processor: D2VPRImageProcessor | None, precision: str
    ) -> None:
        """Write the configuration of the model, the image processor, and other files that users of the format expect.

        Args:
            folder: The folder of the graphs.
            config: The configuration, which is written to the file `config_file`; `None` for a model without one.
            processor: The image processor for the steps that the graph does not contain; `None` for a model with another one.
            precision: Number type of the products.
        """
        if config is not None:
            config.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
