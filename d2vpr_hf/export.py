"""Export a model for other runtimes, calibrated on photos, and measure the change of recall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf.backends.export_model import ExportOptions, export_source
from d2vpr_hf.backends.exported_model import INFO_FILE, ExportedModel, info_text
from d2vpr_hf.backends.formats.registry import FORMATS
from d2vpr_hf.encoders.graph_sources import find_graph_source
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Comparison, compare_evaluations, evaluate
from d2vpr_hf.hub.graph_cards import make_graph_card
from d2vpr_hf.modeling.image_processing_d2vpr import pil_to_rgb
from d2vpr_hf.readers import UnreadablePhotoError, find_photos, open_photo
from d2vpr_hf.utils.atomic_files import store_files

CALIBRATION_PHOTOS = 64


@dataclass(frozen=True)
class Export:
    """An exported model, and the change of recall.

    Attributes:
        model: The exported model.
        comparison: Recall of the model and of the export; `None` without labelled photos.
    """

    model: ExportedModel
    comparison: Comparison | None


def export(
    model: Any,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    photos: str | Path | None = None,
    labelled: tuple[str | Path, str | Path] | None = None,
) -> Export:
    """Export a model as a graph with a card, and verify that it gives the model's descriptors.

    Args:
        model: Folder or Hub id of the model, of this package or of transformers; `None` or `"embedded"` for the small one that
            comes with this package. An encoder may be given instead, which was opened with options.
        out: The folder to write; [`PlaceEncoder`] takes it as a model.
        options: The kind of graph; `None` for ONNX in float32.
        photos: A folder of photos like those to come: int8 is calibrated on at most [`CALIBRATION_PHOTOS`] of them.
        labelled: Folders of photos with positions, database and queries, on which model and export are evaluated.

    Raises:
        FileExistsError: If `out` exists and is not an empty folder.
        ImportError: If a library that writes or runs the graph is not installed.
        ValueError: For the reasons of [`export_model`], or if the labelled photos cannot be evaluated.
    """
    options = options or ExportOptions()
    if labelled is not None and not FORMATS[options.format].backends:
        raise ValueError(f"Recall cannot be measured here: this package cannot run the format {options.format}.")
    encoder = model if isinstance(model, PlaceEncoder) else PlaceEncoder(model, device="cpu")
    info: dict[str, Any] = {"model": encoder.model_name, "fingerprint": encoder.fingerprint}
    if encoder.compatible_with:
        info["compatible_with"] = list(encoder.compatible_with)
    prefixes = getattr(encoder.descriptor_model, "trained_prefixes", None)
    if prefixes is not None:
        info["trained_prefixes"] = list(prefixes)
    images = [] if photos is None else _read_some(find_photos(Path(photos)))
    info["calibration_photos"] = len(images) if options.precision == "int8" else 0
    exported = export_source(find_graph_source(encoder.descriptor_model), Path(out), options, images, info)
    make_graph_card(exported).save(exported.folder / "README.md")
    if labelled is None:
        return Export(exported, None)
    before, after = evaluate(*labelled, encoder), evaluate(*labelled, PlaceEncoder(exported.folder))
    comparison = compare_evaluations(before, after)
    _record_recall(exported, comparison)
    return Export(exported, comparison)


def _read_some(paths: Sequence[Path]) -> list[torch.Tensor]:
    """Open photos from all parts of a list, as RGB bytes (3, height, width), and skip those that cannot be read.

    Raises:
        ValueError: If none can be read.
    """
    images = []
    for path in paths[:: math.ceil(len(paths) / CALIBRATION_PHOTOS)]:
        try:
            images.append(pil_to_rgb(open_photo(path)))
        except UnreadablePhotoError:
            continue
    if not images:
        raise ValueError(f"None of the photos could be read, such as {paths[0]}.")
    return images


def _record_recall(exported: ExportedModel, comparison: Comparison) -> None:
    """Add the recall of model and export to `export.json`."""
    recall = {f"recall@{row.recall_value}": [row.first, row.second] for row in comparison.differences}
    info = exported.info | {"recall_before_and_after": recall, "labelled_queries": comparison.num_queries}
    store_files(exported.folder, {INFO_FILE: info_text(info).encode()})
