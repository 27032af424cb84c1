"""An evaluation as one HTML page with a map, a curve and photos, which needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from d2vpr_hf.evaluation.plots import example_rows, has_photos, has_positions
from d2vpr_hf.evaluation.report import Evaluation, percent, percent_interval
from d2vpr_hf.figures import Cell
from d2vpr_hf.hub.thumbnails import inline_thumbnail
from d2vpr_hf.maps import BaseMap, MapLayer, MapMarks
from d2vpr_hf.places import Place
from d2vpr_hf.readers.photos import UnreadablePhotoError
from d2vpr_hf.utils.html_pages import html_page

_SIDE = 220  # pixels of a photo
_WIDTH, _HEIGHT = 720, 300  # units of the drawing of the curve
_MARGIN, _TOP = 44, 28
_MAX_POINTS = 500  # of the curve

_STYLE = """
body { font: 15px/1.5 "Segoe UI", Roboto, Arial, sans-serif; color: #1f2937; background: #fff; max-width: 1080px;
  margin: 24px auto; padding: 0 16px; } h1 { font-size: 26px; } h2 { font-size: 20px; margin-top: 36px; }
.numbers { display: flex; flex-wrap: wrap; gap: 12px; } .numbers div { border: 1px solid #e5e7eb; border-radius: 10px;
  padding: 8px 18px; } .numbers b { display: block; font-size: 26px; } .numbers small { color: #4b5563; }
pre { background: #f3f4f6; border-radius: 10px; padding: 12px; overflow-x: auto; font-size: 13px; }
.map { width: 100%; background: #f3f4f6; border-radius: 10px; }
.map .ways { stroke: #fff; stroke-width: 9; stroke-linecap: round; fill: none; }
.map .database { stroke: #94a3b8; stroke-width: 4; stroke-linecap: round; fill: none; }
.map .dot { stroke-width: 6; stroke-linecap: round; fill: none; } .map .wrong.dot { stroke-linecap: square; }
.map .line { fill: none; stroke-width: 1.2; stroke-opacity: 0.6; } .correct { stroke: #15803d; } .wrong { stroke: #b91c1c; }
.map .furniture path { fill: none; stroke: #1f2937; stroke-width: 1.6; }
.map .furniture text { font-size: 12px; text-anchor: middle; }
.key { display: inline-block; width: 12px; height: 12px; margin: 0 6px 0 18px; border-radius: 6px; }
.curve path { fill: none; stroke: #1d4ed8; stroke-width: 2; } .curve .axis { stroke: #9ca3af; stroke-width: 1; }
.curve text { font-size: 12px; fill: #374151; }
.example { display: flex; flex-wrap: wrap; gap: 10px; padding: 12px 0; border-top: 1px solid #e5e7eb; }
figure { margin: 0; width: 196px; } figure img, .absent { width: 184px; border: 5px solid; border-radius: 8px; display: block; }
.absent { padding: 24px 0; text-align: center; background: #f3f4f6; }
figcaption { font-size: 12px; color: #4b5563; overflow-wrap: anywhere; white-space: pre-line; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 12px; border-bottom: 1px solid #e5e7eb; }
th:first-child, td:first-child { text-align: left; }
"""


def to_page(evaluation: Evaluation) -> str:
    """Return an evaluation as an HTML page.

    The map needs positions in one frame, and the photos an evaluation that was not loaded from a report; a sentence says
    where one is missing.

    Args:
        evaluation: The evaluation. The files of the shown photos are read.
    """
    sides = [side["path"] for side in (evaluation.query_set, evaluation.database)]
    title = "Evaluation" if None in sides else f"Evaluation: {sides[0]} in {sides[1]}"
    unit = "photos" if evaluation.sequences is None else "sequences"
    counts = f"{len(evaluation.queries)} queries, {evaluation.database['count']} database {unit}"
    parts = [
        f"<p>{counts}; correct: {escape(evaluation.criterion)}. Model: {escape(str(evaluation.model))}.</p>",
        _numbers(evaluation),
        "<h2>Map</h2>",
        _draw_map(evaluation),
        "<h2>Precision and coverage</h2>",
        "<p>Queries are accepted from a similarity of the first match on; it falls from left to right.</p>",
        draw_curve(evaluation),
        *_groups("condition", evaluation.conditions()),
        *_groups("part", evaluation.parts()),
        *_examples(evaluation),
        f"<h2>Report</h2><pre>{escape(evaluation.to_text())}</pre>",
    ]
    return html_page(title, _STYLE, parts)


def _numbers(evaluation: Evaluation) -> str:
    """Return recall@N with its interval, and the distance error."""
    boxes = [
        (percent(values["recall"]) + " %", f"{name} (95 %: {percent_interval(values['interval_95'])})")
        for name, values in evaluation.recall().items()
    ]
    error = evaluation.distance_error()
    if error is not None and error["median"] is not None:
        boxes.append((f"{error['median']:.1f} m", "median distance of the first match"))
    return f'<div class="numbers">{"".join(f"<div><b>{number}</b><small>{name}</small></div>" for number, name in boxes)}</div>'


def _draw_map(evaluation: Evaluation) -> str:
    """Draw queries over the database, and a line from each wrong one to its first match."""
    if not has_positions(evaluation):
        return "<p>There is no map: queries or matches have no positions in one frame.</p>"
    in_degrees = evaluation.coordinates == "degrees"
    ends = [
        (_place(query.position or (), in_degrees), _place(query.top_match_position or (), in_degrees))
        for query in evaluation.queries
    ]
    predictions = evaluation.predictions
    positions = None if predictions is None else predictions.database.positions
    database = [match for _, match in ends] if positions is None else [_place(row, in_degrees) for row in positions.tolist()]
    correct = [query.correct for query in evaluation.queries]
    right = [place for (place, _), is_correct in zip(ends, correct, strict=True) if is_correct]
    wrong = [pair for pair, is_correct in zip(ends, correct, strict=True) if not is_correct]
    layers = [MapLayer("wrong", [place for place, _ in wrong], wrong), MapLayer("correct", right)]
    outside = [place for place, _ in ends]  # so that queries far from the database are in the drawn part
    svg = BaseMap([*database, *outside]).draw(MapMarks(layers=layers), "Queries on the map of the database.")
    keys = (
        ("#15803d", f"{len(right)} correct queries"),
        ("#b91c1c", f"{len(wrong)} wrong queries, with a line to the first match"),
        ("#94a3b8", "database"),
    )
    legend = "".join(f'<span class="key" style="background:{colour}"></span>{text}' for colour, text in keys)
    return f"{svg}<p>{legend}</p>"


def _place(position: Sequence[float], in_degrees: bool) -> Place:
    first, second = position[:2]
    return Place("", latitude=first, longitude=second) if in_degrees else Place("", x=first, y=second, frame="evaluation")


def draw_curve(evaluation: Evaluation) -> str:
    """Draw precision over coverage as SVG steps."""
    curve = evaluation.precision_curve
    if not len(curve.coverage):
        return "<p>There is no curve: no query has a positive.</p>"
    points = np.unique(np.linspace(0, len(curve.coverage) - 1, min(len(curve.coverage), _MAX_POINTS)).astype(int))
    right, down = _WIDTH - _MARGIN, _HEIGHT - _MARGIN
    xs = _MARGIN + np.asarray(curve.coverage)[points] * (right - _MARGIN)
    ys = down - np.asarray(curve.precision)[points] * (down - _TOP)
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in zip(xs.tolist(), ys.tolist(), strict=True))
    axes = f'<path class="axis" d="M{_MARGIN} {_TOP}V{down}H{right}"/>'
    for share in (0, 25, 50, 75, 100):
        x, y = _MARGIN + share / 100 * (right - _MARGIN), down - share / 100 * (down - _TOP)
        axes += f'<text x="{x:.0f}" y="{down + 16}" text-anchor="middle">{share}</text>'
        axes += f'<text x="{_MARGIN - 6}" y="{y + 4:.0f}" text-anchor="end">{share}</text>'
    names = f'<text x="{(right + _MARGIN) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">coverage / %</text>'
    names += f'<text x="{_MARGIN + 8}" y="14">precision / %</text>'
    label = f"AUC-PR {percent(curve.auc_pr)}, recall at 100 % precision {percent(curve.recall_at_100_precision)}"
    path = f'<path d="M{_MARGIN} {ys[0]:.1f}{steps}"/>'
    svg = f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{axes}{names}{path}</svg>'
    return f"{svg}<p>{label}</p>"


def _groups(name: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of the recall of groups of queries."""
    if not rows:
        return
    yield f"<h2>By {name}</h2>"
    head = "".join(f"<th>{escape(str(key))}</th>" for key in rows[0])
    lines = []
    for row in rows:
        cells = [
            "-" if value is None else percent(value) if key.startswith("recall@") else escape(str(value))
            for key, value in row.items()
        ]
        lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    yield f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _examples(evaluation: Evaluation) -> Iterator[str]:
    if not has_photos(evaluation):
        yield "<h2>Photos</h2><p>There are no photos: the report was loaded, or made from descriptors.</p>"
        return
    for title, correct in (("Wrong, the most similar first", False), ("Correct, the least similar first", True)):
        rows = example_rows(evaluation, correct=correct)
        yield f"<h2>{title}</h2>"
        yield from (f'<div class="example">{"".join(map(_figure, row))}</div>' for row in rows)
        if not rows:
            yield "<p>None.</p>"


def _figure(cell: Cell) -> str:
    """Return a photo with its title, in a frame of the cell's colour; a photo that cannot be read is named."""
    caption = f"<figcaption>{escape(cell.title)}</figcaption>"
    name = escape(str(cell.photo)) if isinstance(cell.photo, Path) else ""
    style = f'title="{name}" style="border-color:{cell.colour}"'
    try:
        source = inline_thumbnail(cell.photo, _SIDE)
    except (OSError, UnreadablePhotoError):
        return f'<figure><span class="absent" {style}>This photo is not here.</span>{caption}</figure>'
    return f'<figure><img alt="" {style} src="{source}">{caption}</figure>'
