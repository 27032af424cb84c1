"""Pictures of results. Functions return the figure; `save_figure` writes it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import ImageOps

from d2vpr_hf.index import Match
from d2vpr_hf.jobs import SearchResult
from d2vpr_hf.readers import UnreadablePhotoError, distance_in_metres, open_photo
from d2vpr_hf.readers.folder import read_place
from d2vpr_hf.readers.places import Place

POSITIVE_DIST_THRESHOLD = 25.0  # metres, the field's usual one
_RIGHT, _WRONG, _UNKNOWN, _QUERY = "#2e9e4f", "#c8373a", "#9a9a9a", "#1f5fbf"
_CELL = (2.6, 2.4)  # inches
_THUMBNAIL = (480, 480)  # pixels, more than a cell shows


def plot_search(results: Sequence[SearchResult]) -> Figure:
    """Draw each query with its matches to the right, one row a query.

    Frames are green or red where both positions are known, by the field's 25 m; grey where they are not.
    """
    columns = 1 + max((len(result.matches) for result in results), default=0)
    figure = Figure(figsize=(_CELL[0] * columns, _CELL[1] * max(1, len(results))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(results)), columns, squeeze=False)
    for row, result in zip(axes, results, strict=False):
        _draw_row(row, result)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format its name ends in (png, pdf, svg, jpg)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_row(row: NDArray[np.object_], result: SearchResult) -> None:
    truth = read_place(result.query) if result.error is None else None
    title = f"query: {_label(truth)}" if truth is not None else f"{result.query.name}: {result.error}"
    _draw_photo(row[0], result.query, _shorten(title), _QUERY)
    for axis, match in zip(row[1:], result.matches, strict=False):
        distance = distance_in_metres(truth, match.place) if truth is not None else None
        _draw_photo(axis, match.photo, _caption(match, distance), _frame_colour(distance))
    for axis in row[1 + len(result.matches) :]:
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
        axis.text(0.5, 0.5, str(error), ha="center", va="center", fontsize=8, wrap=True, transform=axis.transAxes)


def _thumbnail(photo: Path) -> NDArray[np.uint8]:
    image = ImageOps.exif_transpose(open_photo(photo)).convert("RGB")
    image.thumbnail(_THUMBNAIL)
    return np.asarray(image)


def _shorten(text: str, length: int = 34) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


__all__ = ["POSITIVE_DIST_THRESHOLD", "plot_search", "save_figure"]
