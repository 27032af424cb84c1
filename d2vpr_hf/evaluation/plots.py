"""Pictures of an evaluation. Functions return the figure."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from d2vpr_hf.evaluation.positives import PhotoSet
from d2vpr_hf.evaluation.report import Evaluation, Predictions, percent
from d2vpr_hf.figures import (
    QUERY,
    RIGHT,
    WRONG,
    Cell,
    check_plot_file,
    match_cell,
    photo_label,
    plot_rows,
    query_cell,
    save_figure,
)
from d2vpr_hf.utils.atomic_files import check_writable

_GRID_ROWS = 8
_GRID_MATCHES = 4
_DATABASE = "#a3a3a3"
FILES = ("map.png", "precision_coverage.png", "right.png", "wrong.png")


def save_plots(evaluation: Evaluation, out: str | Path) -> list[Path]:
    """Write the pictures that an evaluation gives into a folder, in place of those of another run, and return their files."""
    drawn = {Path(out) / name: figure for name, figure in _figures(evaluation) if figure is not None}
    for stale in {Path(out) / name for name in FILES} - drawn.keys():
        stale.unlink(missing_ok=True)
    for path, figure in drawn.items():
        save_figure(figure, path)
    return list(drawn)


def check_plot_folder(out: Path, photos: Iterable[Path], files: Iterable[str] = FILES) -> None:
    """Raise ValueError if pictures in `out` would lie among photos, where the next run would take them for some.

    Raises NotADirectoryError or PermissionError if they could not be written at all.
    """
    if any(out.resolve().is_relative_to(folder.resolve()) for folder in photos):
        raise ValueError(f"{out} lies among the photos. Draw into another folder.")
    for name in files:
        check_writable(out / name)
        check_plot_file(out / name)


def plot_map(evaluation: Evaluation) -> Figure:
    """Draw where queries stand, green if their top match is right; from the others, red, a line leads to the match.

    The database is drawn too where the evaluation still knows it. A third coordinate is not drawn.

    Raises:
        ValueError: If the positions of queries or matches are not known.
    """
    if not _has_positions(evaluation):
        raise ValueError("A map needs the positions of queries and matches, and this evaluation has none.")
    ends = np.array([(query.position[:2], query.top_match_position[:2]) for query in evaluation.queries])  # type: ignore[index]
    right = np.array([query.right for query in evaluation.queries])
    origin = np.floor(ends.reshape(-1, 2).min(axis=0) / 1000) * 1000
    figure, axes = _figure((7.5, 6.5))
    _draw_database(axes, evaluation, origin)
    axes.add_collection(LineCollection(list(ends[~right] - origin), colors=WRONG, linewidths=0.9, alpha=0.5, zorder=2))
    for marker, size, colour, chosen, label in (
        ("X", 46, WRONG, ~right, "wrong, line to the match"),
        ("o", 20, RIGHT, right, "right"),
    ):
        east, north = (ends[chosen, 0] - origin).T
        text = f"{chosen.sum()} {label}"
        axes.scatter(east, north, marker=marker, s=size, c=colour, edgecolors="white", linewidths=0.5, zorder=3, label=text)
    axes.set(xlabel=f"east − {origin[0]:,.0f} / m", ylabel=f"north − {origin[1]:,.0f} / m")
    axes.set_title(_title(evaluation, "Top match of each query"))
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def plot_precision_coverage(evaluation: Evaluation) -> Figure:
    """Draw how much of what is accepted is right, over how much is accepted, as the threshold on similarity falls."""
    curve = evaluation.precision_curve
    figure, axes = _figure((6.2, 4.6))
    coverage, precision = 100 * curve.coverage, 100 * curve.precision
    axes.step(coverage, precision, where="post", color=QUERY, linewidth=1.8)
    axes.plot(coverage, precision, ".", color=QUERY, markersize=4 if len(coverage) < 200 else 0)
    axes.set(xlabel="coverage: accepted queries / %", ylabel="precision: right ones of the accepted / %")
    axes.set(xlim=(0, 102), ylim=(-3, 103))
    numbers = f"AUC-PR {percent(curve.auc_pr)}, recall at 100 % precision {percent(curve.recall_at_100_precision)}"
    axes.set_title(_title(evaluation, numbers))
    axes.grid(alpha=0.3)
    return figure


def plot_matches(evaluation: Evaluation, *, right: bool) -> Figure | None:
    """Draw queries with their first matches, the most telling first: wrong ones by falling, right ones by rising similarity.

    Returns:
        At most 8 rows; `None` if there is no such query.

    Raises:
        ValueError: If the evaluation does not know its photos: it was loaded, or made of descriptors alone.
    """
    found = evaluation.predictions
    if found is None or not _has_photos(evaluation):
        raise ValueError("A picture of matches needs the photos; draw it of the evaluation that `evaluate` returned.")
    chosen = np.flatnonzero(found.right[:, 0] == right)
    order = np.argsort(found.similarities[chosen, 0] * (1 if right else -1), kind="stable")
    rows = [_cells(found, query) for query in chosen[order][:_GRID_ROWS].tolist()]
    return plot_rows(rows) if rows else None


def _figures(evaluation: Evaluation) -> Iterator[tuple[str, Figure | None]]:
    if _has_positions(evaluation):
        yield "map.png", plot_map(evaluation)
    yield "precision_coverage.png", plot_precision_coverage(evaluation)
    if _has_photos(evaluation):
        yield "right.png", plot_matches(evaluation, right=True)
        yield "wrong.png", plot_matches(evaluation, right=False)


def _cells(found: Predictions, query: int) -> list[Cell]:
    """Make a row: the query, then its first matches."""
    cells = [query_cell(_file(found.queries, query), _label(found.queries, query))]
    for rank, row in enumerate(found.rows[query, :_GRID_MATCHES].tolist()):
        match = _file(found.database, row), rank + 1, _label(found.database, row), float(found.similarities[query, rank])
        cells.append(match_cell(*match, _distance(found, query, row), bool(found.right[query, rank])))
    return cells


def _file(photos: PhotoSet, row: int) -> Path:
    return (photos.folder or Path()) / photos.path(row)


def _label(photos: PhotoSet, row: int) -> str:
    east, north = (None, None) if photos.positions is None else photos.positions[row, :2].tolist()
    return photo_label(photos.path(row), east, north)


def _distance(found: Predictions, query: int, row: int) -> float | None:
    if found.queries.positions is None or found.database.positions is None:
        return None
    return float(np.linalg.norm(found.queries.positions[query] - found.database.positions[row]))


def _has_positions(evaluation: Evaluation) -> bool:
    return all(query.distance is not None for query in evaluation.queries)


def _has_photos(evaluation: Evaluation) -> bool:
    found = evaluation.predictions
    return found is not None and None not in (found.database.folder, found.queries.folder)


def _draw_database(axes: Axes, evaluation: Evaluation, origin: NDArray[np.float64]) -> None:
    positions = None if evaluation.predictions is None else evaluation.predictions.database.positions
    if positions is not None:
        size = 12 if len(positions) < 5_000 else 1
        east, north = (positions[:, :2] - origin).T
        axes.scatter(east, north, s=size, c=_DATABASE, linewidths=0, rasterized=True, zorder=1, label="database")


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _title(evaluation: Evaluation, what: str) -> str:
    first = percent(np.mean([query.right for query in evaluation.queries]).item())
    counts = f"{len(evaluation.queries)} queries, {evaluation.database['count']} database photos"
    return f"{what}\nR@1: {first} ({evaluation.rule}) · {counts}"
