"""Export a model as a graph for another runtime, and verify that it gives the model's descriptors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf import __version__
from d2vpr_hf.backends.exported_model import (
    ATTRIBUTES,
    ATTRIBUTES_FILE,
    FORMAT_VERSION,
    INFO_FILE,
    ExportedModel,
    info_text,
    with_checksums,
)
from d2vpr_hf.backends.formats.export_format import GraphTask, InputKind
from d2vpr_hf.backends.formats.registry import FORMATS
from d2vpr_hf.backends.graph.onnx_graph import DescriptorNetwork
from d2vpr_hf.backends.graph_source import GraphSource, OwnSource
from d2vpr_hf.backends.protocol import Backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.verification import (
    MAX_DIFFERENCES,
    REFERENCES_FILE,
    Reference,
    Verification,
    check_exported,
    save_references,
    verify_graph,
)
from d2vpr_hf.model_info.encoder_entry import ENCODER_KEY
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.utils.atomic_files import check_free, new_folder, write_file

_PHOTO_SIZES = ((96, 120), (480, 640))  # height and width in pixels of noise images for a graph that resizes
_VERIFIED_INPUTS = 16
_STORED_REFERENCES = 4
_REFERENCE_SIDE = 640  # pixels; photos with a longer side are reduced before they are stored as references


@dataclass(frozen=True)
class ExportOptions:
    """The kind of graph to export.

    Attributes:
        format: A word of [`FORMATS`], such as `"onnx"`, `"openvino"` or `"transformers-js"`.
        precision: Number type of the products: `"fp32"`, `"int8"`, or for OpenVINO also `"bf16"`.
        input: The input of the graph, any number of images at once. `"fixed"`: normalised images of the image processor's size.
            `"any-size"`: normalised images of any size in whole patches. `"photos"`: upright RGB images of any size in 0..255,
            which the graph resizes and normalises. `None` for the default of the format: `"photos"` for `"transformers-js"`,
            otherwise `"fixed"`.
        max_difference: Largest accepted difference between the descriptors of graph and model, as a share of the descriptor's
            norm. Nine of ten images must be within it. `None` for the default of the precision, in
            [`d2vpr_hf.backends.verification.MAX_DIFFERENCES`].
    """

    format: str = "onnx"
    precision: str = "fp32"
    input: InputKind | None = None
    max_difference: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.format not in FORMATS:
            raise ValueError(f"The format of an export must be {_alternatives(FORMATS)}, got {self.format!r}.")
        for name, value, allowed in (
            ("input", self.input_kind, FORMATS[self.format].inputs),
            ("precision", self.precision, FORMATS[self.format].precisions),
        ):
            if value not in allowed:
                choices = _alternatives(allowed)
                raise ValueError(f"The {name} of an export must be {choices}, got {value!r} for the format {self.format}.")
        if self.max_difference is not None and not self.max_difference > 0:
            raise ValueError(f"max_difference must be positive, got {self.max_difference}.")

    @property
    def input_kind(self) -> InputKind:
        """The input of the graph, by default the first of the format."""
        return self.input or FORMATS[self.format].inputs[0]


def _alternatives(words: Iterable[str]) -> str:
    """Join words as in "a, b or c"."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def export_model(
    model: VPRPreTrainedModel,
    processor: D2VPRImageProcessor,
    out: Path,
    options: ExportOptions,
    photos: list[torch.Tensor] | None = None,
    info: dict[str, Any] | None = None,
) -> ExportedModel:
    """Export a model of this package, in eval mode, in float32, on the CPU; the rest is as for [`export_source`]."""
    return export_source(OwnSource(model, processor), out, options, photos, info)


def export_source(
    source: GraphSource,
    out: Path,
    options: ExportOptions,
    photos: list[torch.Tensor] | None = None,
    info: dict[str, Any] | None = None,
) -> ExportedModel:
    """Export a model to a folder that [`PlaceEncoder`] loads: graph, configuration, processor, references, `export.json`.

    Args:
        source: The model.
        out: The folder; missing or empty.
        options: The kind of graph.
        photos: Upright RGB images (3, height, width) in 0..255. int8 is calibrated on all of them, and the graph is verified on
            the first sixteen; `None` verifies it on noise.
        info: More entries for `export.json`.

    Raises:
        FileExistsError: If `out` exists and is not an empty folder.
        ImportError: If a library that writes or runs the graph is not installed.
        ValueError: If int8 is requested without photos, if the model needs batches and the format has none, if the model has no
            graph of this kind, or if descriptors of the graph differ from those of the model by more than
            `options.max_difference`. Nothing is written then.
    """
    check_free(out)
    if source.entry.depends_on_batch and not FORMATS[options.format].takes_batches:
        raise ValueError(
            f"The model lets the photos of a batch attend to each other, but a graph for {options.format} takes one photo at "
            "once. Export to another format, or a model without a cross-image encoder."
        )
    if options.precision == "int8" and not photos:
        raise ValueError("int8 is calibrated on photos like those to come: give photos=PHOTOS.")
    kind = options.input_kind
    if kind == "fixed" and source.entry.model_options.get("keep_aspect"):
        raise ValueError(
            'With `keep_aspect=True` photos have different sizes, and a graph with `input="fixed"` takes one size. Export it '
            'with `input="any-size"`.'
        )
    shapes = _dynamic_shapes(kind, source)
    with new_folder(out) as folder:
        prepared = [source.prepare(photo, kind).unsqueeze(0) for photo in photos or ()]  # (1, 3, height, width)
        inputs = prepared or _noise_inputs(source, kind)
        network = DescriptorNetwork(source.network, source.steps if kind == "photos" else None)
        example = _example(source, kind, inputs[0])
        _write_graph(source, options, GraphTask(network, example, inputs, shapes, options.precision, folder))
        entry = {ENCODER_KEY: source.entry_for(kind).to_dict()}
        exported = ExportedModel(folder, _describe(options) | (info or {}) | entry)
        exported.format.write_configuration(folder, source.config, source.processor(kind), options.precision)
        verifications = _verify(exported, _make_references(source, kind, inputs[:_VERIFIED_INPUTS]), options)
        stored = [_shrink(batch[:1], options) for batch in inputs[:_STORED_REFERENCES]]
        save_references(folder / REFERENCES_FILE, _make_references(source, kind, stored))
        record = {}
        if verifications:
            record = {"relative_difference": verifications[0].largest, "verification": verifications[0].to_dict()}
        write_file(folder / ATTRIBUTES_FILE, ATTRIBUTES)
        write_file(folder / INFO_FILE, info_text(with_checksums(exported.info | record, folder)))
    return ExportedModel.open(out)


def _noise_inputs(source: GraphSource, kind: InputKind) -> list[torch.Tensor]:
    """Return noise as inputs (B, 3, height, width) of the graph, for B of 1 and 3 and for all image sizes to verify."""
    height, width = source.input_size
    sizes = {"photos": _PHOTO_SIZES, "any-size": ((height, width), (height, 2 * width)), "fixed": ((height, width),)}[kind]
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randint(0, 256, (count, 3, *size), generator=generator) for size in sizes for count in (1, 3)]
    if kind == "photos":
        return [batch.float() for batch in noise]
    mean, spread = (torch.tensor(values).view(-1, 1, 1) for values in (source.steps.mean, source.steps.std))
    return [(batch / 255 - mean) / spread for batch in noise]


def _example(source: GraphSource, kind: InputKind, first: torch.Tensor) -> torch.Tensor:
    """Return an input (2, 3, height, width) by which the graph is traced.

    Networks of other libraries skip a step for images of the size that they were trained with, and a trace by such an
    image would fit this size only.
    """
    if kind != "any-size" or isinstance(source, OwnSource) or source.patch_size is None:
        return torch.cat((first, first))
    height, width = (side + number * source.patch_size for number, side in enumerate(source.input_size, start=1))
    return torch.nn.functional.interpolate(torch.cat((first, first)), size=(height, width))


def _write_graph(source: GraphSource, options: ExportOptions, task: GraphTask) -> None:
    """Write the graph in its format.

    Raises:
        ValueError: If the exporter cannot write a network that is not of this package.
    """
    if isinstance(source, OwnSource):
        FORMATS[options.format].write(task)
        return
    try:
        FORMATS[options.format].write(task)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # torch's exporters and converters raise errors of many types
        name, reason = source.entry.facts.title, " ".join(str(error).split())[:300]
        advice = ' Export it with `input="fixed"`.' if options.input_kind != "fixed" else " Another format may be able to."
        raise ValueError(
            f"{name} cannot be written in the format {options.format} with the input {options.input_kind}: "
            f"{type(error).__name__}: {reason}.{advice}"
        ) from error


def _describe(options: ExportOptions) -> dict[str, Any]:
    """Return the entries of `export.json` about a graph."""
    libraries = ("torch", *FORMATS[options.format].libraries)
    return {
        "format_version": FORMAT_VERSION,
        "format": options.format,
        "precision": options.precision,
        "input": options.input_kind,
        "versions": {"d2vpr-hf": __version__} | {name: version(name) for name in libraries},
    }


def _verify(exported: ExportedModel, references: list[Reference], options: ExportOptions) -> list[Verification]:
    """Compare all graphs of an export with the model; the first has the precision of the export.

    Returns:
        Nothing for a format that no backend runs.

    Raises:
        ValueError: If one differs too much.
    """
    verifications = []
    for precision in exported.format.graphs(options.precision):
        if exported.format.backends:
            bound = MAX_DIFFERENCES[precision]
            if precision == options.precision and options.max_difference is not None:
                bound = options.max_difference
            backend = exported.run(Runtime(exported.format.backends[0], precision))
            verifications.append(_verify_graph(backend, references, bound, options))
            check_exported(verifications[-1])
    return verifications


def _verify_graph(backend: Backend, references: list[Reference], max_difference: float, options: ExportOptions) -> Verification:
    """Compare a graph with its model.

    Raises:
        ValueError: If the runtime cannot run the graph.
    """
    try:
        return verify_graph(backend, references, max_difference)
    except Exception as error:  # the runtimes' errors have no common class
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"The graph cannot be run by {backend.name}: {reason}. Nothing was written. Export it with another "
            f"`input` than {options.input_kind!r}, or to another format."
        ) from error


def _dynamic_shapes(kind: InputKind, source: GraphSource) -> dict[int, Any]:
    """Return the axes of the input that may have any length, in the form of `torch.export`.

    Raises:
        ValueError: If the model takes images of one size only.
    """
    dim, patch_size = torch.export.Dim, source.patch_size
    batch = {0: dim("batch", min=1, max=65536)}
    if kind == "fixed":
        return batch
    if kind == "photos":
        return batch | {2: dim("height", min=2, max=32768), 3: dim("width", min=2, max=32768)}
    if patch_size is None:
        raise ValueError(f'{source.entry.facts.title} takes images of one size only. Export it with `input="fixed"`.')
    return batch | {2: patch_size * dim("rows", min=1, max=1024), 3: patch_size * dim("columns", min=1, max=1024)}


def _make_references(source: GraphSource, kind: InputKind, inputs: Sequence[torch.Tensor]) -> list[Reference]:
    """Return inputs of the graph with the descriptors that the model gives for them."""
    return [Reference(batch.float().numpy(), source.describe_inputs(batch, kind)) for batch in inputs]


def _shrink(batch: torch.Tensor, options: ExportOptions) -> torch.Tensor:
    """Reduce large photos, and round images to numbers that references can store."""
    factor = _REFERENCE_SIDE / max(batch.shape[2:])
    if options.input_kind == "photos" and factor < 1:
        batch = torch.nn.functional.interpolate(batch.float(), scale_factor=factor, mode="area").round()
    return batch.half().float()
