"""Core ML, Apple's format. It is converted on any system, and runs on Apple's only."""

import logging
import warnings
from pathlib import Path
from typing import Any

from d2vpr_hf.backends.formats.protocol import GraphTask, InputKind, save_configuration
from d2vpr_hf.backends.graph.mobile_network import trace
from d2vpr_hf.backends.graph.onnx_graph import INPUT
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRConfig
from d2vpr_hf.utils.optional_imports import import_extra

OUTPUT = "descriptor"


class CoreMlFormat:
    """`model.mlpackage`, a program for one normalised image, for iOS 17, macOS 14 and later."""

    name = "coreml"
    precisions: tuple[str, ...] = ("fp32",)
    inputs: tuple[InputKind, ...] = ("fixed",)
    takes_batches = False
    backends: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ("coremltools",)
    config_file = "config.json"

    def graphs(self, precision: str) -> dict[str, str]:
        """Return the path of the only program."""
        return {precision: "model.mlpackage"}

    def write(self, task: GraphTask) -> None:
        """Convert the network, in float32: in float16 sampling positions would be too inexact."""
        coremltools = import_extra("coremltools", "coreml")
        logging.getLogger("coremltools").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about versions of torch, and the library's internals
            program = trace(task.network, task.example).run_decompositions({})
            package = coremltools.convert(
                program,
                outputs=[coremltools.TensorType(OUTPUT)],
                minimum_deployment_target=coremltools.target.iOS17,
                compute_precision=coremltools.precision.FLOAT32,
            )
        height, width = task.example.shape[2:]
        package.short_description = "A descriptor of the place that a photo shows; near for photos of the same place."
        package.input_description[INPUT] = (
            f"An upright RGB photo, resized to {height}x{width} and normalised as preprocessor_config.json says."
        )
        package.output_description[OUTPUT] = "The descriptor, to compare by L2 distance."
        package.save(str(task.folder / "model.mlpackage"))

    def write_configuration(
        self, folder: Path, config: VPRConfig, processor: D2VPRImageProcessor, info: dict[str, Any]
    ) -> None:
        """Write configuration and image processor."""
        save_configuration(folder, config, processor)
