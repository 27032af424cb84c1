"""Checks of an ONNX graph before a runtime opens it, and of descriptors. This module loads no runtime."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.backends.onnx_file import GraphValue, OnnxOutline
from d2vpr_hf.model_info.encoder_card import locate_file
from d2vpr_hf.model_info.preprocessing import Preprocessing

MAX_BATCH_DIFFERENCE = {"float32": 1e-3, "float16": 2e-2}  # relative; rounding alone gives 1e-6 and 1e-3
_MAX_BATCH = 1024  # that a graph of a fixed number of images may take; missing ones are filled


def check_outline(path: Path, outline: OnnxOutline) -> None:
    """Check that a graph runs without other libraries, and that it opens files in its own folder only.

    Raises:
        FileNotFoundError: If a file that it names is missing.
        ValueError: If it names a file outside of its folder, or has operators that runtimes do not know.
    """
    for name in sorted(outline.external_files):
        locate_file(path.parent, name)
    if outline.unknown_domains:
        raise ValueError(
            f"{path} has operators of {', '.join(outline.unknown_domains)}, which need a library of their author. This package "
            "loads no such libraries. Export the model with standard operators only."
        )


def choose_value(path: Path, kind: str, values: list[GraphValue], name: str | None) -> GraphValue:
    """Return the input or the output of a graph that has a name; without a name, the only one.

    Raises:
        ValueError: If there is none, or several and no name, or if its number type is not supported.
    """
    names = ", ".join(map(str, values))
    if name is None and len(values) > 1:
        raise ValueError(f"{path} has several {kind}s: {names}. Name the right one by `{kind}_name`.")
    chosen = values[0] if name is None else next((value for value in values if value.name == name), None)
    if chosen is None:
        raise ValueError(f"{path} has no {kind} {name!r}. It has {names}.")
    if kind == "input" and len(values) > 1:
        others = ", ".join(str(value) for value in values if value is not chosen)
        raise ValueError(f"{path} needs other inputs than the images: {others}. Export it with images as its only input.")
    if chosen.number_type is None:
        raise ValueError(f"The {kind} {chosen.name} of {path} must be of numbers in float32 or float16. Export it so.")
    if kind == "input" and (chosen.shape[:1] or (None,))[0] not in (None, *range(1, _MAX_BATCH + 1)):
        raise ValueError(f"{path} takes {chosen.shape[0]} images at once, at most {_MAX_BATCH} are supported. Export it again.")
    if kind == "input" and (len(chosen.shape) != 4 or chosen.shape[1] not in (3, None)):
        raise ValueError(f"Expected an input of the shape (batch, 3, height, width) in {path}, got {chosen}.")
    return chosen


def check_input_size(path: Path, graph_input: GraphValue, preprocessing: Preprocessing) -> None:
    """Raise ValueError if images of a graph's preprocessing do not have the size that the graph takes."""
    fixed, size = graph_input.shape[2:], preprocessing.input_size
    if fixed == (None, None):
        return
    if size is None:
        raise ValueError(f"{path} takes images of {_by(fixed)} only. Give this size in its card, by `size` of `preprocessing`.")
    if any(side is not None and side != given for side, given in zip(fixed, size, strict=True)):
        raise ValueError(f"{path} takes images of {_by(fixed)} only, got {_by(size)}. Give this size, or omit `image_size`.")


def relative_difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the largest distance of two descriptors in the same rows, as a share of the first one's length."""
    lengths = np.maximum(np.linalg.norm(first, axis=1), 1e-12)
    return float(np.max(np.linalg.norm(first - second, axis=1) / lengths))


def _by(size: tuple[int | None, ...]) -> str:
    return "×".join("any" if side is None else str(side) for side in size)
