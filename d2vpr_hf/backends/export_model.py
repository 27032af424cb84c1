"""Export a model as a graph for another runtime, and see that it computes what the model does."""

import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from d2vpr_hf.backends.exported_model import FACTS_FILE, FORMAT_VERSION, GRAPHS, ExportedModel
from d2vpr_hf.backends.graph.onnx_graph import DescriptorNetwork, write_onnx
from d2vpr_hf.backends.graph.quantization import quantize_graph
from d2vpr_hf.backends.openvino_backend import convert_to_openvino
from d2vpr_hf.backends.torch_backend import PlainTorchBackend
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel

Format = Literal["onnx", "openvino"]
InputKind = Literal["fixed", "any-size", "photos"]

EXPORT_PRECISIONS = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
# of the norm of a descriptor, what rounding may change; a graph that computes something else differs by more
LARGEST_DIFFERENCES = {"fp32": 1e-3, "bf16": 0.1, "int8": 0.25}
_PHOTO_SIZES = ((96, 120), (480, 640))  # height and width of what a graph that resizes is tried on
_TRIED_PHOTOS = 8


@dataclass(frozen=True)
class ExportOptions:
    """What is exported.

    Attributes:
        format: `"onnx"` or `"openvino"`.
        precision: Of the products.
        input: What the graph takes, any number at once. `"fixed"`: normalised images of the image processor's size.
            `"any-size"`: of any size in whole patches. `"photos"`: upright RGB images of any size in 0..255, which the graph
            resizes and normalises.
    """

    format: Format = "onnx"
    precision: str = "fp32"
    input: InputKind = "fixed"

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        for name, value, allowed in (
            ("format", self.format, get_args(Format)),
            ("input", self.input, get_args(InputKind)),
            ("precision", self.precision, EXPORT_PRECISIONS.get(self.format, ())),
        ):
            if value not in allowed:
                raise ValueError(f"The {name} of an export must be {' or '.join(allowed)}, got {value!r}.")


def export_model(
    model: VPRPreTrainedModel,
    processor: D2VPRImageProcessor,
    out: Path,
    options: ExportOptions,
    photos: list[torch.Tensor] | None = None,
    facts: dict[str, Any] | None = None,
) -> ExportedModel:
    """Write a folder that [`PlaceEncoder`] takes as a model: graph, configuration, processor, `export.json`.

    Args:
        model: In eval mode, in float32, on the CPU.
        processor: Of the model.
        out: The folder; missing or empty.
        options: What is exported.
        photos: Upright RGB images (3, height, width) in 0..255, by which int8 is calibrated and the graph is tried; without any
            it is tried on noise.
        facts: What `export.json` shall hold besides.

    Raises:
        FileExistsError: If `out` is not free.
        ImportError: If what writes or runs the graph is not installed.
        ValueError: If int8 is wanted without photos, or descriptors of the graph are not those of the model; then nothing is
            left at `out`.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder. Give another one.")
    if options.precision == "int8" and not photos:
        raise ValueError("int8 is calibrated on photos like those to come: give `--photos PHOTOS`.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        inputs = _inputs(processor, options, photos)
        _write_graph(model, processor, folder, options, inputs)
        model.config.save_pretrained(folder)
        remaining_processor(processor, options).save_pretrained(folder)
        exported = ExportedModel(folder, _facts(options) | (facts or {}))
        difference = _difference(model, processor, exported, inputs)
        _check(difference, options)
        (folder / FACTS_FILE).write_text(json.dumps(exported.facts | {"relative_difference": difference}, indent=1) + "\n")
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return ExportedModel.open(out)


def remaining_processor(processor: D2VPRImageProcessor, options: ExportOptions) -> D2VPRImageProcessor:
    """Make the processor that does what the graph does not."""
    if options.input != "photos":
        return processor
    return type(processor)(**processor.to_dict() | dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False))


def _inputs(processor: D2VPRImageProcessor, options: ExportOptions, photos: list[torch.Tensor] | None) -> list[torch.Tensor]:
    """Make batches (B, 3, height, width) to calibrate and to try a graph on: of photos, or of noise."""
    remaining = remaining_processor(processor, options)
    height, width = processor.size["height"], processor.size["width"]
    sizes = {"photos": _PHOTO_SIZES, "any-size": ((height, width), (height, 2 * width)), "fixed": ((height, width),)}
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randint(0, 256, (count, 3, *size), generator=generator) for size in sizes[options.input] for count in (1, 3)]
    if not photos:
        return [_prepare(batch, processor, options) for batch in noise]
    return [remaining([photo], return_tensors="pt")["pixel_values"] for photo in photos]


def _prepare(noise: torch.Tensor, processor: D2VPRImageProcessor, options: ExportOptions) -> torch.Tensor:
    if options.input == "photos":
        return noise.float()
    mean, spread = (torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
    return (noise / 255 - mean) / spread


def _write_graph(
    model: VPRPreTrainedModel,
    processor: D2VPRImageProcessor,
    folder: Path,
    options: ExportOptions,
    inputs: list[torch.Tensor],
) -> None:
    plain, graph = folder / "plain.onnx", folder / GRAPHS[options.format]
    network = DescriptorNetwork(model, processor if options.input == "photos" else None, options.input == "any-size")
    first = inputs[0]
    write_onnx(network, plain, torch.cat((first, first)), _dynamic_shapes(options.input, model.config.patch_size))
    if options.precision == "int8":
        whole = plain.rename(folder / "whole.onnx")
        quantize_graph(whole, plain, inputs)
        whole.unlink()
    if options.format == "openvino":
        convert_to_openvino(plain, graph)
        plain.unlink()
    else:
        plain.rename(graph)


def _dynamic_shapes(kind: InputKind, patch_size: int) -> dict[int, Any]:
    dim = torch.export.Dim
    sizes: dict[InputKind, dict[int, Any]] = {
        "fixed": {},
        "any-size": {2: patch_size * dim("rows", min=1, max=1024), 3: patch_size * dim("columns", min=1, max=1024)},
        "photos": {2: dim("height", min=2, max=32768), 3: dim("width", min=2, max=32768)},
    }
    return {0: dim("batch", min=1, max=65536)} | sizes[kind]


def _facts(options: ExportOptions) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "format": options.format,
        "precision": options.precision,
        "input": options.input,
        "versions": {name: version(name) for name in ("d2vpr-hf", "torch", "onnx")},
    }


def _difference(
    model: VPRPreTrainedModel, processor: D2VPRImageProcessor, exported: ExportedModel, inputs: list[torch.Tensor]
) -> float:
    """Return the largest norm by which descriptors of the graph differ from the model's, relative to theirs."""
    backend, plain = exported.open_backend("auto", None), PlainTorchBackend(model)
    largest = 0.0
    for batch in inputs[:_TRIED_PHOTOS]:
        photos = exported.facts["input"] == "photos"
        pixels = processor(list(batch), return_tensors="pt")["pixel_values"] if photos else batch
        expected = plain.encode(pixels)
        norms = np.linalg.norm(backend.encode(batch) - expected, axis=1) / np.linalg.norm(expected, axis=1)
        largest = max(largest, float(norms.max())) if np.isfinite(norms).all() else float("inf")
    return largest


def _check(difference: float, options: ExportOptions) -> None:
    limit = LARGEST_DIFFERENCES[options.precision]
    if not difference <= limit:
        raise ValueError(
            f"The exported graph differs from the model by {difference:.2g} of a descriptor's norm, more than the {limit:g} "
            f"that {options.precision} may cost; nothing was written. Take another precision, or for int8 more photos; in fp32 "
            "it is an error of the runtime or of this package: please report it."
        )
