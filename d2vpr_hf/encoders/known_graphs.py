"""ONNX files that their authors published without a card, and the cards that belong to them. This module loads no library.

The names of MegaLoc's input and output, and its size, are those by which COLMAP runs the file
(src/colmap/retrieval/global_descriptor_model.cc); it was not run here.
"""

from pathlib import Path

from d2vpr_hf.backends.onnx_file import OnnxOutline, read_outline
from d2vpr_hf.model_info.encoder_card import EncoderCard, hash_files, locate_file
from d2vpr_hf.model_info.known_models import KNOWN_MODELS, KnownModel

OTHER_NAMES = ("model.onnx",)  # that a published file may have, next to the name in the table
_VALUE_NAMES = {"megaloc": ("images", "descriptor")}  # input and output of a published file


def known_repository(name: object) -> KnownModel | None:
    """Return the known model whose published graph a repository on the Hub holds; `None` for other names."""
    if not isinstance(name, str):
        return None
    return next((row for row in KNOWN_MODELS if row.onnx is not None and row.onnx.repository.lower() == name.lower()), None)


def recognise_graph(folder: Path, graph: str, repository: object = None) -> EncoderCard | None:
    """Return the card of a known graph: by its SHA-256, its repository, or its name with those of its input and output.

    Args:
        folder: Folder of the file.
        graph: Name of the file.
        repository: Id on the Hub of the repository that it was downloaded from; `None` for another origin.

    Raises:
        FileNotFoundError, ValueError: If the file is missing, damaged, or outside of the folder.
    """
    outline = read_outline(locate_file(folder, graph))
    owner = known_repository(repository)
    if owner is not None:
        return _make_card(owner, graph, outline) if _is_of_images(outline) else None
    for row in KNOWN_MODELS:
        if row.onnx is None or not _has_shapes_of(row, outline):
            continue
        if _has_names_of(row, graph, outline) or hash_files(folder, [graph])[graph] == row.onnx.sha256:
            return _make_card(row, graph, outline)
    return None


def find_known_card(folder: Path) -> EncoderCard | None:
    """Return the card of the known graph in a folder; `None` without one."""
    published = {row.onnx.name for row in KNOWN_MODELS if row.onnx is not None}
    has_other_model = (folder / "config.json").is_file()
    for path in sorted(folder.glob("*.onnx")):
        if (path.name in published or not has_other_model) and (card := recognise_graph(folder, path.name)) is not None:
            return card
    return None


def _make_card(row: KnownModel, graph: str, outline: OnnxOutline) -> EncoderCard:
    """Return the card of a graph; its authors may publish one of another width or size in the same repository."""
    assert row.descriptor_dim is not None and row.preprocessing is not None
    facts, preprocessing = row.facts, row.preprocessing
    height, width = outline.inputs[0].shape[2:]
    if height is not None and width is not None:
        preprocessing = preprocessing.for_size((height, width))
    return EncoderCard(
        facts.title,
        outline.outputs[0].shape[-1] or row.descriptor_dim,
        preprocessing,
        license=facts.license,
        training_data=facts.training_data,
        arxiv=facts.arxiv,
        num_parameters=facts.num_parameters,
        depends_on_batch=row.depends_on_batch,
        graph=graph,
    )


def _is_of_images(outline: OnnxOutline) -> bool:
    """Return whether a graph has one input of images, and one output."""
    return len(outline.inputs) == len(outline.outputs) == 1 and len(outline.inputs[0].shape) == 4


def _has_shapes_of(row: KnownModel, outline: OnnxOutline) -> bool:
    """Return whether a graph has one input of images, and one output of the known width."""
    return _is_of_images(outline) and outline.outputs[0].shape[-1:] in ((row.descriptor_dim,), (None,))


def _has_names_of(row: KnownModel, graph: str, outline: OnnxOutline) -> bool:
    """Return whether a graph has the names of a published one, and takes only its size: other exports have other sizes."""
    names = (outline.inputs[0].name, outline.outputs[0].name)
    has_size = outline.inputs[0].shape[2:] == row.input_size
    return row.onnx is not None and graph == row.onnx.name and names == _VALUE_NAMES.get(row.name) and has_size
