"""Export a model as a graph for another runtime, and verify that it gives the model's descriptors."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf import __version__
from d2vpr_hf.backends.exported_model import FORMAT_VERSION, INFO_FILE, ExportedModel
from d2vpr_hf.backends.formats.export_format import GraphTask, InputKind
from d2vpr_hf.backends.formats.registry import FORMATS
from d2vpr_hf.backends.graph.onnx_graph import DescriptorNetwork
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.torch_backend import PlainTorchBackend
from d2vpr_hf.backends.verification import (
    MAX_DIFFERENCES,
    REFERENCES_FILE,
    Reference,
    Verification,
    check_exported,
    round_images,
    save_references,
    verify_graph,
)
from d2vpr_hf.encoders.encoder_entry import ENCODER_KEY, EncoderEntry
from d2vpr_hf.encoders.own_models import facts_of, steps_of
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.utils.atomic_files import scratch_folder, set_usual_modes

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
    """Export a model to a folder that [`PlaceEncoder`] loads: graph, configuration, processor, references, `export.json`.

    Args:
        model: A model in eval mode, in float32, on the CPU.
        processor: The image processor of the model.
        out: The folder; missing or empty.
        options: The kind of graph.
        photos: Upright RGB images (3, height, width) in 0..255. int8 is calibrated on all of them, and the graph is verified on
            the first sixteen; `None` verifies it on noise.
        info: More entries for `export.json`.

    Raises:
        FileExistsError: If `out` exists and is not an empty folder.
        ImportError: If a library that writes or runs the graph is not installed.
        ValueError: If int8 is requested without photos, if the model needs batches and the format has none, or if descriptors
            of the graph differ from those of the model by more than `options.max_difference`. Nothing is written then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one.")
    if model.config.use_cross_image_encoder and not FORMATS[options.format].takes_batches:
        raise ValueError(
            f"The model lets the photos of a batch attend to each other, but a graph for {options.format} takes one photo at "
            "once. Export to another format, or a model without a cross-image encoder."
        )
    if options.precision == "int8" and not photos:
        raise ValueError("int8 is calibrated on photos like those to come: give photos=PHOTOS.")
    with scratch_folder(out) as scratch:
        folder = scratch / "model"
        folder.mkdir()
        remaining = remaining_processor(processor, options)
        if photos:
            inputs = [remaining([photo], return_tensors="pt")["pixel_values"] for photo in photos]  # (1, 3, height, width)
        else:
            inputs = _noise_inputs(processor, options)
        FORMATS[options.format].write(_graph_task(model, processor, folder, options, inputs))
        entry = {ENCODER_KEY: _encoder_entry(model, remaining).to_dict()}
        exported = ExportedModel(folder, _describe(options) | (info or {}) | entry)
        exported.format.write_configuration(folder, model.config, remaining, options.precision)
        references = _make_references(model, processor, options, inputs[:_VERIFIED_INPUTS])
        verifications = _verify(exported, references, options)
        stored = [_shrink(batch[:1], options) for batch in inputs[:_STORED_REFERENCES]]
        save_references(folder / REFERENCES_FILE, _make_references(model, processor, options, stored))
        record = {}
        if verifications:
            record = {"relative_difference": verifications[0].largest, "verification": verifications[0].to_dict()}
        (folder / INFO_FILE).write_text(json.dumps(exported.info | record, indent=1) + "\n")
        set_usual_modes(folder.rglob("*"))
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return ExportedModel.open(out)


def remaining_processor(processor: D2VPRImageProcessor, options: ExportOptions) -> D2VPRImageProcessor:
    """Return the image processor for the steps that the graph does not contain."""
    if options.input_kind != "photos":
        return processor
    return type(processor)(**processor.to_dict() | dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False))


def _noise_inputs(processor: D2VPRImageProcessor, options: ExportOptions) -> list[torch.Tensor]:
    """Return noise as inputs (B, 3, height, width) of the graph, for B of 1 and 3 and for all image sizes to verify."""
    height, width = processor.size["height"], processor.size["width"]
    kinds = {"photos": _PHOTO_SIZES, "any-size": ((height, width), (height, 2 * width)), "fixed": ((height, width),)}
    sizes, generator = kinds[options.input_kind], torch.Generator().manual_seed(0)
    noise = [torch.randint(0, 256, (count, 3, *size), generator=generator) for size in sizes for count in (1, 3)]
    if options.input_kind == "photos":
        return [batch.float() for batch in noise]
    mean, spread = (torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
    return [(batch / 255 - mean) / spread for batch in noise]


def _graph_task(
    model: VPRPreTrainedModel,
    processor: D2VPRImageProcessor,
    folder: Path,
    options: ExportOptions,
    inputs: list[torch.Tensor],
) -> GraphTask:
    """Return the network to write, with the steps of the image processor that belong to it."""
    kind = options.input_kind
    network = DescriptorNetwork(model, processor if kind == "photos" else None)
    example = torch.cat((inputs[0], inputs[0]))
    shapes = _dynamic_shapes(kind, model.config.patch_size)
    return GraphTask(network, example, inputs, shapes, options.precision, folder)


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


def _encoder_entry(model: VPRPreTrainedModel, remaining: D2VPRImageProcessor) -> EncoderEntry:
    """Return the values by which the graph of a model is run as an encoder, without the model's configuration."""
    config = model.config
    return EncoderEntry(
        config.descriptor_dim,
        config.projection_dim,
        config.use_cross_image_encoder,
        steps_of(remaining),
        facts_of(model),
    )


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
            verifications.append(verify_graph(backend, references, bound))
            check_exported(verifications[-1])
    return verifications


def _dynamic_shapes(kind: InputKind, patch_size: int) -> dict[int, Any]:
    """Return the axes of the input that may have any length, in the form of `torch.export`."""
    dim = torch.export.Dim
    sizes: dict[InputKind, dict[int, Any]] = {
        "fixed": {},
        "any-size": {2: patch_size * dim("rows", min=1, max=1024), 3: patch_size * dim("columns", min=1, max=1024)},
        "photos": {2: dim("height", min=2, max=32768), 3: dim("width", min=2, max=32768)},
    }
    return {0: dim("batch", min=1, max=65536)} | sizes[kind]


def _make_references(
    model: VPRPreTrainedModel, processor: D2VPRImageProcessor, options: ExportOptions, inputs: Sequence[torch.Tensor]
) -> list[Reference]:
    """Return inputs of the graph with the descriptors that the model gives for them."""
    backend, references = PlainTorchBackend(model), []
    for batch in inputs:
        pixel_values = batch
        if options.input_kind == "photos":
            pixel_values = processor(list(batch), return_tensors="pt")["pixel_values"]
        references.append(Reference(batch, backend.encode(pixel_values)))
    return references


def _shrink(batch: torch.Tensor, options: ExportOptions) -> torch.Tensor:
    """Reduce large photos, and round images to numbers that references can store."""
    factor = _REFERENCE_SIDE / max(batch.shape[2:])
    if options.input_kind == "photos" and factor < 1:
        batch = torch.nn.functional.interpolate(batch.float(), scale_factor=factor, mode="area").round()
    return round_images(batch)
