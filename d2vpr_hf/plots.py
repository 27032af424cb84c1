"""Pictures of results. Functions return the figure; `save_figure` writes it."""

import logging
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from d2vpr_hf.index import Match
from d2vpr_hf.jobs import SearchResult
from d2vpr_hf.modeling.image_processing_d2vpr import pil_to_rgb
from d2vpr_hf.readers import Place, UnreadablePhotoError, distance_in_metres, open_photo, read_place

logger = logging.getLogger(__name__)

POSITIVE_DIST_THRESHOLD = 25.0  # metres, the field's usual one
_RIGHT, _WRONG, _UNKNOWN, _QUERY = "#2e9e4f", "#c8373a", "#9a9a9a", "#1f5fbf"
_CELL = (2.6, 2.5)  # inches
MAX_ROWS = 60  # a taller picture is no longer looked at
_THUMBNAIL = (480, 480)  # pixels, more than a cell shows


def plot_search(results: Sequence[SearchResult]) -> Figure:
    """Draw each query with its matches to the right, one row a query, at most the first 60.

    Frames are green or red where both positions are known, by the field's 25 m; grey where they are not.
    """
    if len(results) > MAX_ROWS:
        logger.warning("The plot shows the first %d of %d queries.", MAX_ROWS, len(results))
    results = results[:MAX_ROWS]
    columns, rows = 1 + max((len(result.matches) for result in results), default=0), max(1, len(results))
    figure = Figure(figsize=(_CELL[0] * columns, _CELL[1] * rows))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02 / rows, top=1 - 0.17 / rows, wspace=0.04, hspace=0.24)
    for axes, result in zip(figure.subplots(rows, columns, squeeze=False), results, strict=False):
        _draw_row(axes, result)
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


def _draw_row(axes: NDArray[np.object_], result: SearchResult) -> None:
    truth = read_place(result.query) if result.error is None else None
    name = result.query.name if truth is None else _label(truth)
    _draw_photo(axes[0], result.query, f"query\n{_shorten(name)}", _QUERY)
    for axis, match in zip(axes[1:], result.matches, strict=False):
        distance = distance_in_metres(truth, match.place) if truth is not None else None
        _draw_photo(axis, match.photo, _caption(match, distance), _frame_colour(distance))
    for axis in axes[1 + len(result.matches) :]:
        axis.set_axis_off()


def _caption(match: Match, distance: float | None) -> str:
    metres = "" if distance is None else f" · {distance:,.0f} m"
    return f"{match.rank}. {_shorten(_label(match.place))}\n{match.score:.3f}{metres}"


def _label(place: Place) -> str:
    """Name a place briefly: `@` names are all position."""
    name = place.path.rsplit("/", 1)[-1]
    return f"{place.utm_east:.0f} E {place.utm_north:.0f} N" if name.startswith("@") else name


def _frame_colour(distance: float | None) -> str:
    if distance is None:
        return _UNKNOWN
    return _RIGHT if distance <= POSITIVE_DIST_THRESHOLD else _WRONG


def _draw_photo(axis: Axes, photo: Path, title: str, colour: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=3)
    axis.set_title(title, fontsize=8)
    try:
        axis.imshow(_thumbnail(photo))
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


__all__ = ["POSITIVE_DIST_THRESHOLD", "check_plot_file", "plot_search", "save_figure"]
