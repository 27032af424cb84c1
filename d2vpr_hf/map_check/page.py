"""The report of a checked map as one HTML page with drawings and photos, which needs no other file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from d2vpr_hf.hub.thumbnails import inline_thumbnail
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.map_check.report import AliasPair, Area, MapReport, MisplacedPhoto, SimilarityCounts, corner_text
from d2vpr_hf.maps import BaseMap, MapLayer, MapMarks
from d2vpr_hf.places import Place, position_text
from d2vpr_hf.places.geometry import EARTH
from d2vpr_hf.readers.photos import UnreadablePhotoError
from d2vpr_hf.utils.html_pages import html_page

PICTURES = 24  # findings of each kind that are shown with photos
_SIDE = 200  # pixels of a photo
_ROWS = 40  # of the table of areas
_WIDTH, _HEIGHT = 720, 220  # units of the drawing of similarities

Picture = Callable[[Place], str]  # returns HTML of a place's photo

_STYLE = """
body { font: 15px/1.5 "Segoe UI", Roboto, Arial, sans-serif; color: #1f2937; background: #fff; max-width: 1080px;
  margin: 24px auto; padding: 0 16px; } h1 { font-size: 26px; } h2 { font-size: 20px; margin-top: 36px; }
p { max-width: 75ch; } .map { width: 100%; background: #f3f4f6; border-radius: 10px; }
.map .ways { stroke: #fff; stroke-width: 9; stroke-linecap: round; fill: none; }
.map .database, .dot { stroke: #94a3b8; stroke-width: 4; stroke-linecap: round; fill: none; }
.line { fill: none; stroke-width: 1.4; } .reliable { stroke: #15803d; } .weak { stroke: #c2410c; }
.sparse { stroke: #6b7280; } .pair { stroke: #7c3aed; } .misplaced { stroke: #dc2626; }
.map .dot.weak, .map .dot.reliable, .map .dot.sparse { stroke-width: 14; stroke-opacity: 0.45; stroke-linecap: square; }
.map .dot.misplaced { stroke-width: 9; } .map .furniture path { fill: none; stroke: #1f2937; stroke-width: 1.6; }
.map .furniture text { font-size: 12px; text-anchor: middle; }
.key { display: inline-block; width: 12px; height: 12px; margin: 0 6px 0 18px; border: 6px solid; box-sizing:
  border-box; } .k-reliable { border-color: #15803d; } .k-weak { border-color: #c2410c; }
.k-sparse { border-color: #6b7280; } .k-pair { border-color: #7c3aed; } .k-misplaced { border-color: #dc2626; }
.finding { display: flex; flex-wrap: wrap; gap: 10px; padding: 12px 0; border-top: 1px solid #e5e7eb; }
.finding p { flex-basis: 100%; max-width: none; margin: 0; } figure { margin: 0; width: 200px; }
figure img { width: 200px; border-radius: 6px; display: block; }
figcaption { font-size: 12px; color: #4b5563; overflow-wrap: anywhere; }
.absent { display: block; padding: 24px 8px; background: #f3f4f6; border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 12px; border-bottom: 1px solid #e5e7eb; }
th:first-child, td:first-child { text-align: left; } .bars .near { fill: #15803d; fill-opacity: 0.6; }
.bars .far { fill: #7c3aed; fill-opacity: 0.45; } .bars text { font-size: 12px; }
"""


def to_page(report: MapReport, index: PlaceIndex, pictures: int = PICTURES) -> str:
    """Return a report as an HTML page.

    Args:
        report: The report of the index.
        index: The index; the files of its photos are read where they exist.
        pictures: Number of findings of each kind that are shown with photos.
    """
    picture = _photo_reader(index.settings.photo_folder)
    parts = [
        *(f"<p>{escape(line)}</p>" for line in report.to_text().splitlines() if not line.startswith("  ")),
        _draw_map(report, index),
        "<h2>Similarities of near and far photos</h2>",
        "<p>Pairs of a photo and one of its most similar photos. The further both colours are apart, the better the map's "
        "photos recognise each other.</p>",
        draw_similarities(report.similarities),
        *_section("Photos with another position than their neighbours agree on", report.misplaced[:pictures], picture),
        *_section("Similar photos far apart", _different(report.pairs, pictures), picture),
        "<h2>Areas</h2>",
        _table(report.areas[:_ROWS], len(report.areas)),
    ]
    return html_page(f"Check of the map {Path(report.index).name}", _STYLE, parts)


def draw_similarities(counts: SimilarityCounts) -> str:
    """Draw the numbers of near and far pairs by similarity as SVG bars, each kind relative to its largest bin."""
    bars = []
    width = _WIDTH / len(counts.near)
    for kind, values in (("near", counts.near), ("far", counts.far)):
        largest = max(1, *values)
        for number, value in enumerate(values):
            height = (_HEIGHT - 30) * value / largest
            bars.append(
                f'<rect class="{kind}" x="{number * width:.1f}" y="{_HEIGHT - 20 - height:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}"/>'
            )
    ends = "".join(
        f'<text x="{x}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{counts.edges[edge]:.2f}</text>'
        for x, anchor, edge in ((0, "start", 0), (_WIDTH, "end", -1))
    )
    label = f"{sum(counts.near)} near pairs and {sum(counts.far)} far pairs by similarity"
    legend = "similarity: near pairs green, far pairs violet"
    ends += f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{legend}</text>'
    head = f'<svg class="bars" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
    return f"{head}{''.join(bars)}{ends}</svg>"


def _draw_map(report: MapReport, index: PlaceIndex) -> str:
    areas: dict[str, list[Place]] = {"reliable": [], "weak": [], "sparse": []}
    for area in report.areas:
        areas[_kind(area)].append(area.example)
    layers = [MapLayer(kind, places) for kind, places in areas.items()]
    layers.append(MapLayer("pair", lines=[(pair.first, pair.second) for pair in report.pairs[:PICTURES]]))
    moved = [(photo.place, photo.suggested) for photo in report.misplaced]
    layers.append(MapLayer("misplaced", [photo.place for photo in report.misplaced], moved))
    svg = BaseMap(list(index.places)).draw(MapMarks(layers=layers), "The map's photos and the findings.")
    keys = (
        ("reliable", "area where most photos are recognised"),
        ("weak", "area where fewer are"),
        ("sparse", "sparse area"),
        ("pair", f"similar photos far apart (the first {PICTURES})"),
        ("misplaced", "photo and the position that its neighbours agree on"),
    )
    legend = "".join(f'<span class="key k-{kind}"></span>{text}' for kind, text in keys)
    return f"{svg}<p>{legend}</p>" if svg else ""


def _kind(area: Area) -> str:
    """Return the layer of an area."""
    if area.is_sparse or area.reliability is None:
        return "sparse"
    return "reliable" if area.reliability >= 0.5 else "weak"


def _section(title: str, findings: Sequence[MisplacedPhoto | AliasPair], picture: Picture) -> list[str]:
    if not findings:
        return []
    return [f"<h2>{title}</h2>", *(_finding(finding, picture) for finding in findings)]


def _finding(finding: MisplacedPhoto | AliasPair, picture: Picture) -> str:
    if isinstance(finding, AliasPair):
        text = f"similarity {finding.similarity:.3f}, {finding.distance:,.0f} m apart"
        text += "; the photo resembles no photo near itself as much" if finding.confuses else ""
        return f'<div class="finding"><p>{text}</p>{picture(finding.first)}{picture(finding.second)}</div>'
    where = escape(position_text(finding.suggested))
    text = f"stated {escape(position_text(finding.place))}, suggested {where}: {finding.distance:,.0f} m"
    text += f", confidence {finding.confidence:.3f}"
    agreeing = "".join(picture(place) for place in finding.agreeing[:3])
    return f'<div class="finding"><p>{text}</p>{picture(finding.place)}{agreeing}</div>'


def _different(pairs: Sequence[AliasPair], count: int) -> list[AliasPair]:
    """Return the first pairs of which each has two photos that are in none before it."""
    shown: set[str] = set()
    chosen: list[AliasPair] = []
    for pair in pairs:
        paths = {pair.first.path, pair.second.path}
        if shown.isdisjoint(paths) and len(chosen) < count:
            chosen.append(pair)
            shown |= paths
    return chosen


def _table(areas: Sequence[Area], total: int) -> str:
    names = ("photos", "with_second", "confirmed", "correct", "ambiguous", "misplaced")
    titles = ("photos", "with a second near by", "with a similar one near by", "recognised", "ambiguous", "misplaced")
    head = "".join(f"<th>{title}</th>" for title in ("area (south-west corner)", "reliability", "95 %", *titles))
    rows = []
    for area in areas:
        share = "" if area.reliability is None else f"{100 * area.reliability:.0f} %"
        interval = "" if area.interval is None else f"{100 * area.interval[0]:.0f} to {100 * area.interval[1]:.0f}"
        corner = corner_text(area) if area.frame == EARTH else f"{corner_text(area)}, {escape(area.frame)}"
        cells = (corner, share, interval, *(str(getattr(area, name)) for name in names))
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    rest = f"<p>{total - len(areas)} more areas are in the JSON.</p>" if total > len(areas) else ""
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>{rest}"


def _photo_reader(folder: Path) -> Picture:
    """Return the function that makes a figure of a place's photo; a photo that cannot be read is named."""

    def read(place: Place) -> str:
        caption = f"<figcaption>{escape(place.path)}</figcaption>"
        try:
            source = inline_thumbnail(folder / place.path, _SIDE)
        except (OSError, UnreadablePhotoError):
            return f'<figure><span class="absent">This photo is not here.</span>{caption}</figure>'
        return f'<figure><img alt="" src="{source}">{caption}</figure>'

    return read
