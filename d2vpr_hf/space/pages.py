"""What the Space shows, as HTML: answers, matches, explanations, lists of what was left out.

Everything that came from files or visitors is escaped; colours are classes that the Space's style sheet fills in.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from d2vpr_hf.explanation import Explanation, draw_bars, draw_photo_regions
from d2vpr_hf.index import Match
from d2vpr_hf.localization import Localization
from d2vpr_hf.localization.localize import NOT_CALIBRATED
from d2vpr_hf.maps import BaseMap, MapMarks
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, distance_in_metres, position_text
from d2vpr_hf.space.photo_map import Answer
from d2vpr_hf.space.uploads import Limits

Picture = Callable[[Path], str | None]  # a photo's, as a data URI; `None` if it cannot be shown
MAX_LEFT_OUT = 12  # names that are listed
_NO_CONFIDENCE = "This map has no calibration, so nobody can say how sure the estimate is."


def verdict(answer: Answer) -> str:
    """Say the answer in a headline and a line."""
    found = answer.localization
    if found.no_match:
        return _verdict("none", "No match", f"{_sure(found)} that the best candidates are right: too little to answer.")
    if found.place is None:
        return _verdict("none", "No position", f"The photos below look most alike, but {found.note or 'nothing is known'}.")
    off = None if answer.truth is None else distance_in_metres(answer.truth, found.place)
    parts = [
        position_text(found.place, digits=1),
        _radius(found),
        "" if off is None else f"{metres(off)} from where it was taken",
    ]
    title = "Best guess" if found.confidence is None else f"Found · {_sure(found)}"
    note = _NO_CONFIDENCE if found.note == NOT_CALIBRATED else ""
    return _verdict("guess" if found.confidence is None else "found", title, " · ".join(filter(None, parts)), note)


def map_panel(drawing: BaseMap, answer: Answer | None) -> str:
    """Draw the map with an answer on it, and the legend below; without an answer, the map alone."""
    marks = MapMarks() if answer is None else _marks(answer)
    svg = drawing.draw(marks, _map_caption(answer))
    if not svg:
        return empty_state("No map", "The photos of this index have no positions.")
    legend = _legend(marks, sure=answer is None or answer.localization.no_match is not True)
    credit = "" if drawing.tiles is None else f'<span class="credit">{escape(drawing.tiles.attribution)}</span>'
    buttons = "".join(
        f'<button type="button" data-zoom="{zoom}" aria-label="{label}" title="{label}">{sign}</button>'
        for zoom, label, sign in (("in", "Zoom in", "+"), ("out", "Zoom out", "−"), ("fit", "Show all marks", "⤢"))
    )
    return f'<figure class="map-panel"><div class="zoom">{buttons}</div>{svg}<figcaption>{legend}{credit}</figcaption></figure>'


def match_cards(answer: Answer, picture: Picture) -> str:
    """Show the matches as cards, ranked, with similarity and distance; visitors' maps need a `picture` that keeps nothing."""
    if not answer.matches:
        return empty_state("Nothing came into question", "No photo of the map passes the filters. Widen them.")
    return f'<ol class="cards">{"".join(_card(answer, match, picture(match.photo)) for match in answer.matches)}</ol>'


def explanation_panel(explanation: Explanation, query: str, match: str, rank: int) -> str:
    """Show both photos with their sampling points, and the bars; pictures are data URIs."""
    sides = []
    for title, photo, picture in (("Your photo", explanation.query, query), (f"Match {rank}", explanation.match, match)):
        for deformed in (True, False):
            where = "where the network chose to look" if deformed else "the fixed grid it started from"
            drawing = draw_photo_regions(photo, picture, f"{title}: sampling points, {where}", deformed=deformed)
            kind = "deformed" if deformed else "fixed"
            sides.append(f'<figure class="{kind}">{drawing}<figcaption>{title}: {where}</figcaption></figure>')
    return (
        f'<div class="why"><div class="photos">{"".join(sides)}</div><div class="shares">{draw_bars(explanation)}</div></div>'
    )


def left_out_list(left_out: Mapping[str, str]) -> str:
    """Name the photos that were not taken, with the reasons."""
    if not left_out:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(why)}</li>" for name, why in list(left_out.items())[:MAX_LEFT_OUT])
    more = len(left_out) - MAX_LEFT_OUT
    rest = f"<li>and {more} more</li>" if more > 0 else ""
    plural = "file was" if len(left_out) == 1 else "files were"
    return f'<details class="left-out"><summary>{len(left_out)} {plural} left out</summary><ul>{rows}{rest}</ul></details>'


def title(model: str, index: str, count: int) -> str:
    """Write the head of the page."""
    source = f"Searching {count:,} photos of {escape(index)} with {escape(model)}."
    return (
        "<h1>Where was this photo taken?</h1><p>D²-VPR compares it with photos whose positions are known, and says how sure "
        f'it is. <span class="source">{source}</span></p>'
    )


def example_strip(pictures: Sequence[str | None]) -> str:
    """Show examples as buttons."""
    buttons = "".join(
        f'<button type="button" data-example="{number}" aria-label="Example {number + 1}"><img src="{picture}" alt=""></button>'
        for number, picture in enumerate(pictures)
        if picture is not None
    )
    return f'<p class="label">Or try one of these</p><div class="strip">{buttons}</div>' if buttons else ""


def why_intro() -> str:
    """Say what an explanation shows."""
    return (
        '<p class="fine">The network gathers each region of a photo at points that it moves and spreads for that photo. The '
        "cosine similarity of two photos is exactly the sum of what the whole photo and the 13 regions add; the bars show "
        "each part. Point at a bar, or walk through them with the Tab key, to see one region alone.</p>"
    )


def own_intro(limits: Limits) -> str:
    """Say what happens to a visitor's photos."""
    return (
        f'<p class="fine">Make a map of your own photos and search it. {escape(limits.to_text())} Only you can see it; it is '
        "deleted when you close the page, and after an hour at the latest. HEIC photos of phones are welcome.</p>"
    )


def own_summary(count: int, left_out: Mapping[str, str]) -> str:
    """Say what became of a visitor's photos."""
    photos = "1 photo is" if count == 1 else f"{count} photos are"
    text = "Search it below. It is yours alone, and it is deleted when you close this page."
    return _verdict("found", f"{photos} in your map", text) + left_out_list(left_out)


def empty_state(title: str, text: str) -> str:
    """Fill a place where something will be."""
    return f'<div class="empty"><p class="title">{escape(title)}</p><p>{escape(text)}</p></div>'


def metres(distance: float) -> str:
    """Write a distance for people."""
    if distance >= 1000:
        return f"{distance / 1000:,.1f} km"
    return f"{distance:.1f} m" if distance < 10 else f"{distance:.0f} m"


def _verdict(kind: str, title: str, text: str, note: str = "") -> str:
    small = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="verdict {kind}" role="status"><p class="title">{escape(title)}</p><p>{escape(text)}</p>{small}</div>'


def _sure(found: Localization) -> str:
    """Say the confidence; a calibration may give 1, which nobody should be told."""
    confidence = found.confidence or 0
    return "over 99 % sure" if confidence > 0.99 else f"{100 * confidence:.0f} % sure"


def _radius(found: Localization) -> str:
    return "" if found.radius_90 is None else f"within {metres(found.radius_90)} in 90 % of such cases"


def _marks(answer: Answer) -> MapMarks:
    return MapMarks([match.place for match in answer.matches], answer.guess, answer.localization.radius_90, answer.truth)


def _map_caption(answer: Answer | None) -> str:
    if answer is None:
        return "Map of the photos in the index"
    found = answer.localization.place
    said = f"estimate at {position_text(found, digits=1)}" if found is not None else "no sure estimate"
    return f"Map with {len(answer.matches)} matches, {said}. Arrow keys move it, plus and minus zoom."


def _legend(marks: MapMarks, *, sure: bool) -> str:
    estimate = (
        "best candidate, not sure enough" if not sure else "estimate" if marks.radius is None else "estimate, 90 % radius"
    )
    shown = {
        "database": "photos of the map",
        "match": "matches, by rank" if marks.matches else "",
        "estimate": estimate if marks.estimate else "",
        "truth": "where it was taken" if marks.truth else "",
    }
    return "".join(f'<span class="key {kind}">{text}</span>' for kind, text in shown.items() if text)


def _card(answer: Answer, match: Match, picture: str | None) -> str:
    image = (
        f'<img src="{picture}" alt="Match {match.rank}: {escape(_name(match))}" loading="lazy">'
        if picture is not None
        else '<div class="no-picture">no picture here</div>'
    )
    button = f'<button type="button" data-rank="{match.rank}">Why?</button>' if picture is not None else ""
    width = 100 * max(0.0, min(1.0, match.similarity))
    return (
        f'<li class="card {_judgement(answer, match)}"><div class="photo">{image}<span class="rank">{match.rank}</span></div>'
        f'<div class="facts"><div class="similarity" title="cosine similarity"><span style="width:{width:.1f}%"></span></div>'
        f"<p><b>{match.similarity:.3f}</b> similar</p>{_distance_line(answer, match)}{button}</div></li>"
    )


def _distance_line(answer: Answer, match: Match) -> str:
    distance = answer.distance(match)
    if distance is None:
        return f'<p class="far">{escape(_name(match))}</p>'
    return f'<p class="far">{metres(distance)} from the {"true place" if answer.truth is not None else "estimate"}</p>'


def _judgement(answer: Answer, match: Match) -> str:
    """Tell right from wrong where the truth is known."""
    distance = answer.distance(match)
    if answer.truth is None or distance is None:
        return "unknown"
    return "right" if distance <= POSITIVE_DIST_THRESHOLD else "wrong"


def _name(match: Match) -> str:
    name = match.place.path.rsplit("/", 1)[-1]
    return position_text(match.place, digits=1) if name.startswith("@") else name
