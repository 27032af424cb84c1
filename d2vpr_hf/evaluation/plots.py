"""Plots of an evaluation. The plot functions return the figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.evaluation.positives import PhotoSet, photo_distances
from d2vpr_hf.evaluation.report import Evaluation, Predictions, percent
from d2vpr_hf.figures import (
    CORRECT,
    QUERY,
    WRONG,
    Cell,
    check_plot_file,
    match_cell,
    new_figure,
    photo_label,
    plot_rows,
    query_cell,
    save_figure,
)
from d2vpr_hf.places.geometry import earth_degrees, earth_vectors
from d2vpr_hf.utils.atomic_files import check_writable
from d2vpr_hf.utils.optional_imports import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID_ROWS = 8
_GRID_MATCHES = 4
_DATABASE = "#a3a3a3"
FILES = ("map.png", "precision_coverage.png", "right.png", "wrong.png")


def save_plots(evaluation: Evaluation, out: str | Path) -> list[Path]:
    """Write all plots of an evaluation into a folder, remove outdated plots there, and return the new files."""
    drawn = {Path(out) / name: figure for name, figure in _figures(evaluation) if figure is not None}
    for outdated in {Path(out) / name for name in FILES} - drawn.keys():
        outdated.unlink(missing_ok=True)
    for path, figure in drawn.items():
        save_figure(figure, path)
    return list(drawn)


def check_plot_folder(out: Path, photos: Iterable[Path], files: Iterable[str] = FILES) -> None:
    """Check that plots can be written to `out`.

    Raises:
        ImportError: If Matplotlib is not installed.
        ValueError: If `out` is in a folder of photos, where the next run would read the plots as photos.
        NotADirectoryError: If a part of the path is a file.
        PermissionError: If the folder is not writable.
    """
    if any(out.resolve().is_relative_to(folder.resolve()) for folder in photos):
        raise ValueError(f"{out} is in a folder of photos. Give another folder for the plots.")
    for name in files:
        check_writable(out / name)
        check_plot_file(out / name)


def plot_map(evaluation: Evaluation) -> Figure:
    """Draw a map of the queries: correct ones green, wrong ones red with a line to their top match.

    The database is drawn if the evaluation has its positions. A third coordinate is not drawn. Degrees are drawn with longitude
    to the right, beyond 180° where the photos are on both sides of the date line.

    Raises:
        ValueError: If positions of queries or matches are unknown, or in several local frames.
    """
    if not has_positions(evaluation):
        raise ValueError("A map needs the positions of queries and matches in one frame, and this evaluation has none.")
    ends = np.array([(query.position[:2], query.top_match_position[:2]) for query in evaluation.queries])  # type: ignore[index]
    correct = np.array([query.correct for query in evaluation.queries])
    in_degrees = evaluation.coordinates == "degrees"
    centre = _centre_of_degrees(ends.reshape(-1, 2)) if in_degrees else None
    ends = _on_map(ends, centre)
    origin = np.zeros(2) if in_degrees else np.floor(ends.reshape(-1, 2).min(axis=0) / 1000) * 1000
    figure, axes = _figure((7.5, 6.5))
    _draw_database(axes, evaluation, origin, centre)
    line_collection = import_extra("matplotlib.collections", "plots").LineCollection
    axes.add_collection(line_collection(list(ends[~correct] - origin), colors=WRONG, linewidths=0.9, alpha=0.5, zorder=2))
    for marker, size, colour, chosen, label in (
        ("X", 46, WRONG, ~correct, "wrong, line to the match"),
        ("o", 20, CORRECT, correct, "correct"),
    ):
        east, north = (ends[chosen, 0] - origin).T
        text = f"{chosen.sum()} {label}"
        axes.scatter(east, north, marker=marker, s=size, c=colour, edgecolors="white", linewidths=0.5, zorder=3, label=text)
    if centre is None:
        axes.set(xlabel=f"east − {origin[0]:,.0f} / m", ylabel=f"north − {origin[1]:,.0f} / m")
        axes.set_aspect("equal", adjustable="datalim")
    else:
        axes.set(xlabel="longitude / °", ylabel="latitude / °")
        axes.set_aspect(1 / max(np.cos(np.radians(centre[0])), 0.01), adjustable="datalim")
    axes.set_title(_title(evaluation, "Top match of each query"))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def plot_precision_coverage(evaluation: Evaluation) -> Figure:
    """Draw precision over coverage as the threshold on the top match's similarity falls."""
    curve = evaluation.precision_curve
    figure, axes = _figure((6.2, 4.6))
    coverage, precision = 100 * curve.coverage, 100 * curve.precision
    axes.step(coverage, precision, where="post", color=QUERY, linewidth=1.8)
    axes.plot(coverage, precision, ".", color=QUERY, markersize=4 if len(coverage) < 200 else 0)
    axes.set(xlabel="coverage: accepted queries / %", ylabel="precision: correct queries of the accepted / %")
    axes.set(xlim=(0, 102), ylim=(-3, 103))
    numbers = f"AUC-PR {percent(curve.auc_pr)}, recall at 100 % precision {percent(curve.recall_at_100_precision)}"
    axes.set_title(_title(evaluation, numbers))
    axes.grid(alpha=0.3)
    return figure


def plot_matches(evaluation: Evaluation, *, correct: bool) -> Figure | None:
    """Draw the correct or the wrong queries with their first matches, the most surprising ones first.

    Wrong queries are sorted by falling similarity of the top match, correct ones by rising similarity.

    Returns:
        A figure of at most 8 rows; `None` without such queries.

    Raises:
        ValueError: If the evaluation has no photos because it was loaded or made from descriptors.
    """
    rows = example_rows(evaluation, correct=correct)
    return plot_rows(rows) if rows else None


def example_rows(evaluation: Evaluation, *, correct: bool) -> list[list[Cell]]:
    """Return the correct or the wrong queries that [`plot_matches`] draws, each with its first matches.

    Raises:
        ValueError: If the evaluation has no photos because it was loaded or made from descriptors.
    """
    predictions = evaluation.predictions
    if predictions is None or not has_photos(evaluation):
        raise ValueError("A plot of matches needs the photos; use an evaluation that `evaluate` returned.")
    queries = np.flatnonzero(predictions.correct[:, 0] == correct)
    order = np.argsort(predictions.similarities[queries, 0] * (1 if correct else -1), kind="stable")
    return [_cells(predictions, query) for query in queries[order][:_GRID_ROWS].tolist()]


def _figures(evaluation: Evaluation) -> Iterator[tuple[str, Figure | None]]:
    if has_positions(evaluation):
        yield "map.png", plot_map(evaluation)
    yield "precision_coverage.png", plot_precision_coverage(evaluation)
    if has_photos(evaluation):
        yield "right.png", plot_matches(evaluation, correct=True)
        yield "wrong.png", plot_matches(evaluation, correct=False)


def _cells(predictions: Predictions, query: int) -> list[Cell]:
    """Return the cells of a query and of its first matches."""
    queries, database = predictions.queries, predictions.database
    cells = [query_cell(_file(queries, query), _label(queries, query))]
    for column, row in enumerate(predictions.rows[query, :_GRID_MATCHES].tolist()):
        cells.append(
            match_cell(
                _file(database, row),
                column + 1,
                _label(database, row),
                float(predictions.similarities[query, column]),
                _distance(predictions, query, row),
                bool(predictions.correct[query, column]),
            )
        )
    return cells


def _file(photos: PhotoSet, row: int) -> Path:
    return (photos.folder or Path()) / photos.path(row)


def _label(photos: PhotoSet, row: int) -> str:
    if photos.positions is None or photos.in_degrees:
        return photo_label(photos.path(row), None, None)
    east, north = photos.positions[row, :2].tolist()
    return photo_label(photos.path(row), east, north)


def _distance(predictions: Predictions, query: int, row: int) -> float | None:
    distances = photo_distances(predictions.queries, np.array([query]), predictions.database, np.array([row]))
    return None if distances is None or np.isinf(distances[0]) else float(distances[0])


def has_positions(evaluation: Evaluation) -> bool:
    """Return whether all queries and their top matches have positions in one frame, which a map needs."""
    known = all(query.position is not None and query.top_match_position is not None for query in evaluation.queries)
    return known and evaluation.coordinates != "metres of several frames"


def has_photos(evaluation: Evaluation) -> bool:
    """Return whether the photos of an evaluation are known, which pictures of matches need."""
    predictions = evaluation.predictions
    return predictions is not None and None not in (predictions.database.folder, predictions.queries.folder)


def _centre_of_degrees(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return latitude and longitude of the middle of positions (N, 2) in degrees."""
    return np.array(earth_degrees(earth_vectors(positions[:, 0], positions[:, 1]).mean(axis=0)))


def _on_map(positions: NDArray[np.float64], centre: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return coordinates to the right and up (..., 2): metres unchanged, degrees within half a turn of the centre."""
    if centre is None:
        return positions
    turns = (positions[..., 1] - centre[1] + 180) % 360 - 180
    return np.stack([centre[1] + turns, positions[..., 0]], axis=-1)


def _draw_database(axes: Axes, evaluation: Evaluation, origin: NDArray[np.float64], centre: NDArray[np.float64] | None) -> None:
    positions = None if evaluation.predictions is None else evaluation.predictions.database.positions
    if positions is not None:
        size = 12 if len(positions) < 5_000 else 1
        east, north = (_on_map(np.asarray(positions[:, :2], np.float64), centre) - origin).T
        axes.scatter(east, north, s=size, c=_DATABASE, linewidths=0, rasterized=True, zorder=1, label="database")


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = new_figure(size, layout="constrained")
    return figure, figure.subplots()


def _title(evaluation: Evaluation, first_line: str) -> str:
    recall = percent(np.mean([query.correct for query in evaluation.queries]).item())
    counts = f"{len(evaluation.queries)} queries, {evaluation.database['count']} database photos"
    return f"{first_line}\nR@1: {recall} ({evaluation.criterion}) · {counts}"
