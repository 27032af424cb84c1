"""Figures of photos in rows. The plot functions return a figure; `save_figure` writes it."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.readers.photos import UnreadablePhotoError, open_photo, photo_modes
from d2vpr_hf.utils.optional_imports import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

CORRECT, WRONG = "#2e9e4f", "#c8373a"
UNKNOWN, QUERY = "#9a9a9a", "#1f5fbf"
_CELL = (2.6, 2.5)  # inches
_THUMBNAIL = (480, 480)  # pixels; more than a cell shows


@dataclass(frozen=True)
class Cell:
    """A photo in a row: its file or the content of one, the title above it, and the colour of its frame."""

    photo: Path | bytes
    title: str
    colour: str


def new_figure(size: tuple[float, float], **options: Any) -> Figure:
    """Return an empty figure of a size in inches, which is drawn without a screen.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    figure: Figure = import_extra("matplotlib.figure", "plots").Figure(figsize=size, **options)
    import_extra("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg(figure)
    return figure


def plot_rows(rows: Sequence[Sequence[Cell]]) -> Figure:
    """Draw photos in rows of any length: in each row a query and its matches."""
    columns, count = max((len(row) for row in rows), default=1), max(1, len(rows))
    figure = new_figure((_CELL[0] * columns, _CELL[1] * count))
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02 / count, top=1 - 0.17 / count, wspace=0.04, hspace=0.24)
    for axes, row in zip(figure.subplots(count, columns, squeeze=False), rows, strict=False):
        for axis, cell in zip(axes, row, strict=False):
            _draw_photo(axis, cell)
        for axis in axes[len(row) :]:
            axis.set_axis_off()
    return figure


def check_plot_file(path: Path, photos: Iterable[Path] = ()) -> None:
    """Check that a figure can be written to a file.

    Args:
        path: The file.
        photos: Photos and folders of photos, none of which may be overwritten.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If `path` is one of the photos, a folder, or has an unsupported suffix.
    """
    canvas = import_extra("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg
    if path.exists() and any(path.resolve().is_relative_to(photo.resolve()) for photo in photos):
        raise ValueError(f"{path} exists already and is one of the photos. Give another file for the plot.")
    formats = canvas.get_supported_filetypes()
    if path.is_dir() or path.suffix.lower().lstrip(".") not in formats:
        raise ValueError(
            f"Cannot write a plot to {path}: give a file that ends in {', '.join(f'.{name}' for name in sorted(formats))}."
        )


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the file's suffix (png, pdf, svg, jpg, ...); errors are those of [`check_plot_file`]."""
    path = Path(path)
    check_plot_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def query_cell(photo: Path, name: str) -> Cell:
    """Return the cell of a query, with a blue frame."""
    return Cell(photo, f"query\n{_shorten(name)}", QUERY)


def match_cell(
    photo: Path | bytes, rank: int, name: str, similarity: float, distance: float | None, correct: bool | None
) -> Cell:
    """Return the cell of a match, with a green frame if it is correct, red if it is wrong, grey if that is unknown.

    The title has the rank, the name, the similarity and, if known, the distance in metres.
    """
    metres = "" if distance is None else f" · {distance:,.0f} m"
    colour = UNKNOWN if correct is None else CORRECT if correct else WRONG
    return Cell(photo, f"{rank}. {_shorten(name)}\n{similarity:.3f}{metres}", colour)


def photo_label(path: str, east: float | None, north: float | None) -> str:
    """Return a short label of a photo: its file name, or the position for a long `@` name."""
    name = path.rsplit("/", 1)[-1]
    return f"{east:.0f} E {north:.0f} N" if name.startswith("@") and east is not None else name


def _draw_photo(axis: Axes, cell: Cell) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color=cell.colour, linewidth=3)
    axis.set_title(cell.title, fontsize=8)
    try:
        axis.imshow(_thumbnail(cell.photo))
    except UnreadablePhotoError as error:
        text = textwrap.fill(str(error), 30)
        axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, transform=axis.transAxes)


def _thumbnail(photo: Path | bytes) -> NDArray[np.uint8]:
    """Read a photo as an upright RGB thumbnail, (H, W, 3)."""
    image = open_photo(photo)
    image.thumbnail(_THUMBNAIL)
    return np.asarray(photo_modes.to_rgb_image(image))


def _shorten(text: str, length: int = 26) -> str:
    """Return a long name without its middle, because names differ mostly at their beginnings and ends."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - length // 2 + 1 :]}"
