"""Pictures of results. Functions return the figure; `save_figure` writes it."""

import logging
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from d2vpr_hf.modeling.image_processing_d2vpr import pil_to_rgb
from d2vpr_hf.readers import UnreadablePhotoError, open_photo

logger = logging.getLogger(__name__)

RIGHT, WRONG, UNKNOWN, QUERY = "#2e9e4f", "#c8373a", "#9a9a9a", "#1f5fbf"
_CELL = (2.6, 2.5)  # inches
_THUMBNAIL = (480, 480)  # pixels, more than a cell shows


@dataclass(frozen=True)
class Cell:
    """A photo in a picture of rows: its file, the title above it, and the colour of its frame."""

    photo: Path
    title: str
    colour: str


def plot_rows(rows: Sequence[Sequence[Cell]]) -> Figure:
    """Draw photos in rows, which may differ in length: the query first, then its matches."""
    columns, count = max((len(row) for row in rows), default=1), max(1, len(rows))
    figure = Figure(figsize=(_CELL[0] * columns, _CELL[1] * count))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02 / count, top=1 - 0.17 / count, wspace=0.04, hspace=0.24)
    for axes, row in zip(figure.subplots(count, columns, squeeze=False), rows, strict=False):
        _draw_row(axes, row)
    return figure


def check_plot_file(path: Path, photos: Iterable[Path] = ()) -> None:
    """Raise ValueError unless a figure can be written to a file of that name.

    Args:
        path: The file.
        photos: Photos, and folders of them, of which none may be overwritten.
    """
    if path.exists() and any(path.resolve().is_relative_to(photo.resolve()) for photo in photos):
        raise ValueError(f"{path} lies among the photos and exists already. Draw into another file.")
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.is_dir() or path.suffix.lower().lstrip(".") not in formats:
        raise ValueError(
            f"Cannot draw into {path}: give a file that ends in {', '.join(f'.{name}' for name in sorted(formats))}."
        )


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format its name ends in (png, pdf, svg, jpg, ...). Raises as [`check_plot_file`] does."""
    path = Path(path)
    check_plot_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def query_cell(photo: Path, name: str) -> Cell:
    """Make the cell of a query, framed in blue."""
    return Cell(photo, f"query\n{_shorten(name)}", QUERY)


def match_cell(photo: Path, rank: int, name: str, score: float, distance: float | None, right: bool | None) -> Cell:
    """Make the cell of a match: distance in metres if known, framed green if right, red if wrong, grey if nobody knows."""
    metres = "" if distance is None else f" · {distance:,.0f} m"
    colour = UNKNOWN if right is None else RIGHT if right else WRONG
    return Cell(photo, f"{rank}. {_shorten(name)}\n{score:.3f}{metres}", colour)


def photo_label(path: str, east: float | None, north: float | None) -> str:
    """Name a photo briefly: `@` names are all position."""
    name = path.rsplit("/", 1)[-1]
    return f"{east:.0f} E {north:.0f} N" if name.startswith("@") and east is not None else name


def _draw_row(axes: NDArray[np.object_], row: Sequence[Cell]) -> None:
    for axis, cell in zip(axes, row, strict=False):
        _draw_photo(axis, cell)
    for axis in axes[len(row) :]:
        axis.set_axis_off()


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


def _thumbnail(photo: Path) -> NDArray[np.uint8]:
    """Read a photo as the network sees it, upright and in RGB, no larger than a cell shows: (H, W, 3)."""
    image = open_photo(photo)
    image.thumbnail(_THUMBNAIL)
    return pil_to_rgb(image).permute(1, 2, 0).numpy()


def _shorten(text: str, length: int = 26) -> str:
    """Cut the middle out of a long name; beginnings and ends tell names apart."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - length // 2 + 1 :]}"
