"""Write the card of an ONNX graph, after running it on photos."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2vpr_hf import __version__
from d2vpr_hf.backends.onnx_file import read_outline
from d2vpr_hf.encoders.carded_graphs import CardedGraph
from d2vpr_hf.encoders.graph_checks import (
    MAX_BATCH_DIFFERENCE,
    check_outline,
    choose_value,
    relative_difference,
)
from d2vpr_hf.encoders.known_graphs import recognise_graph
from d2vpr_hf.model_info.encoder_card import EncoderCard, hash_files, write_card
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.utils.atomic_files import check_free, check_writable, copy_file, new_folder
from d2vpr_hf.utils.printable import printable_line
from d2vpr_hf.utils.unit_length import are_wrong

GRAPH_FILE = "model.onnx"
MAX_PHOTOS = 8
_DRAWN_PHOTOS = 4
_MIN_DIFFERENCE = 1e-5  # relative, of two photos; equal descriptors find nothing
_STEPS = (1, 2, 4, 7, 8, 14, 16, 28, 32)  # multiples that sides of images must be of, for usual networks

Photos = str | Path | Sequence[str | Path | Image.Image]


def card_onnx(
    graph: str | Path,
    out: str | Path,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    title: str | None = None,
    license: str | None = None,
    training_data: str | None = None,
    arxiv: str | None = None,
    num_parameters: int | None = None,
    photos: Photos | None = None,
    source: dict[str, Any] | None = None,
) -> EncoderCard:
    """Check an ONNX graph on photos, and write a folder with the graph, its card `encoder.json` and a README.md.

    The checks are recorded in `checked` of the card: shapes, sizes of images that the graph takes, lengths of descriptors, and
    whether a photo's descriptor depends on the other photos of its batch. Files that this package knows, such as MegaLoc's,
    have values for what is not given here.

    Args:
        graph: The `.onnx` file; files with its weights must be in the same folder.
        out: The folder to write, missing or empty; [`PlaceEncoder`] takes it as a model.
        preprocessing: The steps from an image to pixel values; or a table of some of their values, such as
            `{"size": (322, 322)}`. Others are those of a known graph, or: photos are resized to the one size that the graph
            takes, and normalised by the mean and std of ImageNet.
        input_name: Name of the input; `None` if the graph has one.
        output_name: Name of the output that holds descriptors; `None` if the graph has one.
        title: Name for people; `None` for the name of the file.
        license: Licence of the weights, such as `"mit"`.
        training_data: One sentence about the photos that the weights were trained on.
        arxiv: Identifier of the paper on arXiv.
        num_parameters: Number of weights.
        photos: A folder of photos, or a list of paths or PIL images, of which the first eight are taken; `None` for drawn ones.
        source: Origin of the file, such as its repository and commit.

    Returns:
        The card.

    Raises:
        FileExistsError: If `out` exists and is not an empty folder.
        FileNotFoundError: If the graph or a file with its weights is missing.
        ImportError: If neither onnxruntime nor OpenVINO is installed.
        ValueError: If the graph cannot be an encoder: it is damaged, names files outside of its folder, has several outputs and
            `output_name` is `None`, or gives descriptors that are not finite, or equal for different photos.
    """
    graph, out = Path(graph), Path(out)
    check_free(out)
    if not graph.is_file():
        raise FileNotFoundError(f"There is no file {graph}. Give the path of an .onnx file.")
    check_writable(out)
    outline = read_outline(graph)
    check_outline(graph, outline)
    graph_input = choose_value(graph, "input", outline.inputs, input_name)
    graph_output = choose_value(graph, "output", outline.outputs, output_name)
    known_card = recognise_graph(graph.parent, graph.name)
    steps = _choose_steps(graph, graph_input.shape[2:], preprocessing, known_card)
    known_card = known_card or EncoderCard(graph.stem, 1, steps)
    values: dict[str, Any] = {
        "title": title,
        "license": license,
        "training_data": training_data,
        "arxiv": arxiv,
        "num_parameters": num_parameters,
        "source": source,
    }
    card = replace(
        known_card,
        **{name: value for name, value in values.items() if value is not None},
        preprocessing=steps,
        graph=graph.name,
        input_name=graph_input.name,
        output_name=graph_output.name,
        depends_on_batch=False,
    )
    images = draw_check_photos() if photos is None else open_check_photos(photos)
    card = replace(card, descriptor_dim=_find_width(graph.parent, card, images[0]))
    checked, depends_on_batch, is_unit = _check(CardedGraph(graph.parent, card), images)
    card = replace(
        card,
        graph=GRAPH_FILE,
        depends_on_batch=depends_on_batch,
        normalize=not is_unit,
        checked=checked | {"drawn_photos": photos is None, "version": __version__},
    )
    return _write_folder(graph, sorted(outline.external_files), card, out)


def describe_checks(card: EncoderCard) -> list[str]:
    """Return the lines about a card and its checks that a person reads after it was written."""
    checked, size = card.checked, card.preprocessing.input_size
    drawn = "drawn photos, because none were given" if checked["drawn_photos"] else "photos"
    low, high = checked["lengths"]
    size_text = "of the shape of the photo" if size is None else f"{size[0]}×{size[1]}"
    batch = checked["batch_size"]
    lines = [
        f"checked on {checked['photos']} {drawn}, by {checked['runtime']}",
        f"input {card.input_name}: images {size_text}; the graph takes {checked['sizes']}",
        f"output {card.output_name}: {card.descriptor_dim} numbers",
        f"lengths {low:.4g} to {high:.4g}: " + ("divided by them from now on" if card.normalize else "unit, unchanged"),
    ]
    if batch is not None:
        lines.append(f"the graph takes {batch} photo{'s' if batch > 1 else ''} at once, so that batches are divided")
    if card.depends_on_batch:
        lines.append(
            f"descriptors depend on the other photos of a batch, by {checked['batch_difference']:.1e} of their length: "
            "commands that encode photos will warn of this"
        )
    else:
        lines.append(f"descriptors do not depend on the batch (difference {checked['batch_difference']:.1e})")
    lines.append(f"licence of the weights: {card.license or 'not stated'}")
    return [printable_line(line) for line in lines]  # a graph has names of any characters


def _choose_steps(
    graph: Path,
    axes: tuple[int | None, ...],
    given: Preprocessing | Mapping[str, Any] | None,
    known_card: EncoderCard | None,
) -> Preprocessing:
    """Return the steps that are given, with values of a known graph or of the axes of the input where some are not.

    Raises:
        ValueError: If no size is given, and the graph takes several.
    """
    if isinstance(given, Preprocessing):
        return given
    values = dict(given or {})
    if known_card is not None:
        return replace(known_card.preprocessing, **values)
    height, width = axes
    has_size = any(values.get(name) is not None for name in ("size", "shortest_edge", "fit_size", "crop_size", "pad_size"))
    if has_size:
        return Preprocessing(**values)
    if height is None or width is None:
        raise ValueError(f"{graph} takes images of several sizes. Give the one that it was trained for, by `image_size`.")
    return Preprocessing(**values | {"size": (height, width)})


def _find_width(folder: Path, card: EncoderCard, image: Image.Image) -> int:
    """Return the width of a graph's descriptors, by running it where the file does not state it."""
    outline = read_outline(folder / str(card.graph))
    shape = choose_value(folder / str(card.graph), "output", outline.outputs, card.output_name).shape
    if len(shape) == 2 and shape[1] is not None:
        return shape[1]
    probe = CardedGraph(folder, card)
    pixel_values = np.repeat(probe.prepare(image)[None], probe.batch_size or 1, axis=0)
    outputs = probe.encode_whole_batch(pixel_values)
    if outputs.ndim != 2:
        raise ValueError(
            f"Expected descriptors of the shape (batch, width) in the output {card.output_name} of {probe.path}, got "
            f"{outputs.shape}. Name another output by `output_name`, or export the graph so."
        )
    return int(outputs.shape[1])


def _check(graph: CardedGraph, images: list[Image.Image]) -> tuple[dict[str, Any], bool, bool]:
    """Run a graph on photos; return the record, whether descriptors depend on the batch, and whether they are of unit length.

    Raises:
        ValueError: If descriptors are not finite, zero, or equal for different photos.
    """
    if graph.input_size is None:
        images = [image.resize(images[0].size) for image in images]  # one batch has one size
    pixel_values = np.stack([graph.prepare(image) for image in images])
    alone = np.concatenate([graph.run_graph(pixels[None]) for pixels in pixel_values])
    if not np.isfinite(alone).all():
        raise ValueError(
            f"{graph.path} gives descriptors that are not finite. Its weights are broken, or overflow in float16: export it "
            "again in float32."
        )
    lengths = np.linalg.norm(alone, axis=1)
    if lengths.min() < 1e-6:
        raise ValueError(f"{graph.path} gives a descriptor of zeros. Check `output_name` and the scale of its input.")
    if len(alone) > 1 and relative_difference(alone[1:], np.repeat(alone[:1], len(alone) - 1, axis=0)) < _MIN_DIFFERENCE:
        raise ValueError(
            f"{graph.path} gives equal descriptors for different photos. Check `output_name`, and the scale of its input: "
            "mean, std and rescaling."
        )
    together = [graph.run_graph(pixel_values), graph.run_graph(pixel_values[::-1])[::-1], graph.run_graph(pixel_values[:2])]
    difference = max(relative_difference(alone[: len(outputs)], outputs) for outputs in together)
    if not np.isfinite(difference):
        raise ValueError(f"{graph.path} gives descriptors that are not finite for batches of photos. Export it again.")
    depends_on_batch = difference > MAX_BATCH_DIFFERENCE[str(graph.graph_input.number_type)]
    if depends_on_batch and (graph.batch_size or 1) > 1:
        raise ValueError(
            f"{graph.path} takes exactly {graph.batch_size} photos, and their descriptors depend on each other. Export it for "
            "any number of photos."
        )
    is_unit = not are_wrong(lengths).any()
    record = {
        "photos": len(images),
        "runtime": str(graph.runtime),
        "batch_size": graph.batch_size,
        "batch_difference": float(f"{difference:.3g}"),
        "lengths": [float(f"{length:.6g}") for length in (lengths.min(), lengths.max())],
        "sizes": _find_sizes(graph, pixel_values[:1]),
    }
    return record, depends_on_batch, is_unit


def _find_sizes(graph: CardedGraph, pixel_values: NDArray[np.float32]) -> str:
    """Return the sizes of images that a graph takes, in words; a graph without fixed axes is tried with larger images."""
    axes = graph.graph_input.shape[2:]
    height, width = pixel_values.shape[2:]
    if None not in axes:
        return "this size only"
    for step in _STEPS:
        grown = (height + step if axes[0] is None else height, width + 2 * step if axes[1] is None else width)
        if height % step or width % step:
            continue
        larger = np.zeros((1, 3, *grown), np.float32)
        larger[:, :, :height, :width] = pixel_values
        try:
            outputs = graph.run_graph(larger)
        except ValueError:
            continue
        if np.isfinite(outputs).all():
            return "images of any size" if step == 1 else f"sides that are multiples of {step}"
    return "this size only, of those that were tried"


def _write_folder(graph: Path, external_files: list[str], card: EncoderCard, out: Path) -> EncoderCard:
    """Copy a graph and its weights into a folder with a card, completely or not at all; return the card."""
    from d2vpr_hf.hub.encoder_cards import make_encoder_card

    with new_folder(out) as folder:
        for name in external_files:
            copy_file(graph.parent / name, folder / name)
        copy_file(graph, folder / GRAPH_FILE)
        card = replace(card, sha256=hash_files(folder, [GRAPH_FILE, *external_files]))
        write_card(folder, card)
        summary = f"A graph in the format ONNX, from {graph.name}, with the card that `d2vpr card-onnx` wrote."
        make_encoder_card(card, summary).save(folder / "README.md")
    return card


def open_check_photos(photos: Photos) -> list[Image.Image]:
    """Open the first photos that can be read.

    Raises:
        ValueError: If there is none.
    """
    from d2vpr_hf.readers import UnreadablePhotoError, find_photos, open_photo

    sources = find_photos(Path(photos)) if isinstance(photos, str | Path) else list(photos)
    images = []
    for source in sources:
        try:
            images.append(source if isinstance(source, Image.Image) else open_photo(source))
        except UnreadablePhotoError:
            continue
        if len(images) == MAX_PHOTOS:
            break
    if len(images) < 2:
        raise ValueError(f"The checks need two photos that can be read at least, got {len(images)} of {len(sources)}.")
    return images


def draw_check_photos() -> list[Image.Image]:
    """Draw smooth coloured pictures, the same ones at each call."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (_DRAWN_PHOTOS, 9, 12, 3), dtype=np.uint8)
    return [Image.fromarray(colours).resize((640, 480), Image.Resampling.BICUBIC) for colours in coarse]
