"""Core ML, Apple's format. It is converted on any system, and runs on Apple's only."""

import logging
import warnings

from d2vpr_hf.backends.formats.export_format import ExportFormat, GraphTask
from d2vpr_hf.backends.graph.graph_names import INPUT
from d2vpr_hf.utils.optional_imports import import_extra

OUTPUT = "descriptor"


class CoreMlFormat(ExportFormat):
    """`model.mlpackage`, a program for one normalised image, for iOS 17, macOS 14 and later."""

    name = "coreml"
    graph = "model.mlpackage"
    libraries = ("coremltools",)

    def write(self, task: GraphTask) -> None:
        """Convert the network, in float32: in float16 sampling positions would be too inexact."""
        from d2vpr_hf.backends.graph.mobile_network import trace

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
        package.save(str(task.folder / self.graph))
