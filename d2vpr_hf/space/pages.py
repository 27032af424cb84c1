"""The Space's pages as HTML: answers, matches, explanations, lists of skipped files.

Texts from files and visitors are escaped. Colours are classes that the Space's style sheet defines.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from d2vpr_hf.explanation import Explanation, PatchSimilarity, draw_bars, draw_patches, draw_photo_regions
from d2vpr_hf.explanation.drawing import draw_patch_scale
from d2vpr_hf.index import Match
from d2vpr_hf.localization import Localization
from d2vpr_hf.localization.localize import NOT_CALIBRATED
from d2vpr_hf.maps import BaseMap, MapMarks
from d2vpr_hf.places import POSITIVE_DIST_THRESHOLD, distance_in_metres, position_text
from d2vpr_hf.readers import Remark
from d2vpr_hf.sequences import SequenceAnswer
from d2vpr_hf.space.photo_map import Answer, SequenceAnswers
from d2vpr_hf.space.uploads import Limits

Picture = Callable[[Match], str | None]  # returns the picture of a match as a data URI, or `None` if it cannot be shown
MAX_SKIPPED = 12  # names that a list shows
_NO_CONFIDENCE = "This map has no calibration, so the confidence of the estimate is not known."


def verdict(answer: Answer) -> str:
    """Return the answer as a headline and a line."""
    estimate = answer.localization
    if estimate.no_match:
        return _verdict(
            "none", "No match", f"{_confidence_text(estimate)} that the best candidates are correct: too unsure to answer."
        )
    if estimate.place is None:
        return _verdict(
            "none", "No position", f"The photos below are the most similar, but {estimate.note or 'no position is known'}."
        )
    error = None if answer.truth is None else distance_in_metres(answer.truth, estimate.place)
    parts = [
        position_text(estimate.place, digits=1),
        "" if estimate.radius_90 is None else f"within {metres(estimate.radius_90)} in 90 % of such cases",
        "" if error is None else f"{metres(error)} from the true position",
        "re-ranked by regions" if answer.is_reranked else "",
    ]
    title = "Best guess" if estimate.confidence is None else f"Found · {_confidence_text(estimate)}"
    note = _NO_CONFIDENCE if estimate.note == NOT_CALIBRATED else ""
    return _verdict("guess" if estimate.confidence is None else "found", title, " · ".join(filter(None, parts)), note)


def map_panel(drawing: BaseMap, answer: Answer | None) -> str:
    """Draw the map with the legend below it, and the marks of an answer if there is one."""
    marks = MapMarks()
    if answer is not None:
        matched = [match.place for match in answer.matches]
        marks = MapMarks(matched, answer.guess, answer.localization.radius_90, answer.truth)
    svg = drawing.draw(marks, _map_caption(answer))
    if not svg:
        return empty_state("No map", "The photos of this index have no positions.")
    legend = _legend(marks, sure=answer is None or answer.localization.no_match is not True)
    credit = "" if drawing.tiles is None else f'<span class="credit">{escape(drawing.tiles.attribution)}</span>'
    buttons = "".join(
        f'<button type="button" data-zoom="{zoom}" aria-label="{label}" title="{label}">{sign}</button>'
        for zoom, label, sign in (("in", "Zoom in", "+"), ("out", "Zoom out", "−"), ("fit", "Show all marks", "⤢"))
    )
    hidden = f"<span>{text}</span>" if (text := drawing.hidden_text(marks)) else ""
    caption = f"<figcaption>{legend}{hidden}{credit}</figcaption>"
    return f'<figure class="map-panel"><div class="zoom">{buttons}</div>{svg}{caption}</figure>'


def match_cards(answer: Answer, picture: Picture, *, explained: bool = True) -> str:
    """Return the matches as cards with similarity and distance, in their order.

    Args:
        answer: The answer.
        picture: Returns the picture of a match; that of a visitor's map must cache nothing.
        explained: Whether matches can be explained, which needs their photos.
    """
    if not answer.matches:
        return empty_state("No photo passes the filters", "Allow more places, headings or times.")
    cards = "".join(_card(answer, match, picture(match), explained) for match in answer.matches)
    return f'<ol class="cards">{cards}</ol>'


def explanation_panel(explanation: Explanation | PatchSimilarity, query: str, match: str, rank: int) -> str:
    """Return both photos with sampling points and a bar for each region, or with their patches; pictures are data URIs."""
    if isinstance(explanation, PatchSimilarity):
        return _patch_panel(explanation, query, match, rank)
    sides = []
    for title, photo, picture in (("Your photo", explanation.query, query), (f"Match {rank}", explanation.match, match)):
        for deformed in (True, False):
            kind_text = "moved by the network" if deformed else "on the fixed grid"
            drawing = draw_photo_regions(photo, picture, f"{title}: sampling points, {kind_text}", deformed=deformed)
            kind = "deformed" if deformed else "fixed"
            sides.append(
                f'<figure class="{kind}">{drawing}<figcaption>{title}: sampling points, {kind_text}</figcaption></figure>'
            )
    return (
        f'<div class="why"><div class="photos">{"".join(sides)}</div><div class="shares">{draw_bars(explanation)}</div></div>'
    )


def _patch_panel(explanation: PatchSimilarity, query: str, match: str, rank: int) -> str:
    """Return both photos with the similarity of their patches in colours, of one scale."""
    maps = (("Your photo", explanation.query, query), (f"Match {rank}", explanation.match, match))
    values = [photo.similarity for _, photo, _ in maps]
    limits = (min(float(part.min()) for part in values), max(float(part.max()) for part in values))
    figures = ""
    for title, photo, picture in maps:
        caption = f"{title}: similarity of each patch to the most similar patch of the other photo"
        figures += f"<figure>{draw_patches(photo, picture, caption, limits)}<figcaption>{caption}</figcaption></figure>"
    total = f'<p class="total"><span>cosine similarity of the photos</span><b>{explanation.cosine:.4f}</b></p>'
    shares = f'{draw_patch_scale(limits)}{total}<p class="note">{escape(explanation.note)}</p>'
    return f'<div class="why"><div class="photos">{figures}</div><div class="shares">{shares}</div></div>'


def skipped_list(skipped: Mapping[str, str]) -> str:
    """Return the list of skipped files with the reasons."""
    if not skipped:
        return ""
    rows = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in list(skipped.items())[:MAX_SKIPPED])
    more = len(skipped) - MAX_SKIPPED
    rest = f"<li>and {more} more</li>" if more > 0 else ""
    plural = "file was" if len(skipped) == 1 else "files were"
    return f'<details class="skipped"><summary>{len(skipped)} {plural} skipped</summary><ul>{rows}{rest}</ul></details>'


def title(model: str, index: str, count: int, note: str = "", method: str = "D²-VPR") -> str:
    """Return the head of the page; the note is about the photos of the map."""
    source = f"Searching {count:,} photos of {escape(index)} with {escape(model)}. {escape(note)}".strip()
    return (
        f"<h1>Where was this photo taken?</h1><p>{escape(method)} compares it with photos whose positions are known, and gives "
        f'a position and a confidence. <span class="source">{source}</span></p>'
    )


def example_strip(pictures: Sequence[str | None]) -> str:
    """Return the examples as buttons."""
    buttons = "".join(
        f'<button type="button" data-example="{number}" aria-label="Example {number + 1}"><img src="{picture}" alt=""></button>'
        for number, picture in enumerate(pictures)
        if picture is not None
    )
    return f'<p class="label">Or try an example</p><div class="strip">{buttons}</div>' if buttons else ""


def photos_note(*, has_photos: bool, num_thumbnails: int) -> str:
    """Return a sentence about photos of the map that cannot be shown, for an index that came without photos."""
    if has_photos:
        return ""
    if num_thumbnails:
        return "It came without photos: matches are shown as thumbnails and cannot be explained."
    return "It came without photos and thumbnails: matches are shown by position only and cannot be explained."


def why_intro(*, by_patches: bool = False, reason_against: str | None = None) -> str:
    """Return the introduction to explanations.

    Args:
        by_patches: Whether the model's matches are explained by patches and not by regions.
        reason_against: Reason why its matches cannot be explained; `None` if they can be.
    """
    if reason_against is not None:
        return f'<p class="fine">{escape(reason_against)}</p>'
    if by_patches:
        return (
            '<p class="fine">The network divides each photo into patches. The colour of a patch shows its similarity, a '
            "cosine, to the patch of the other photo that is most similar to it: bright patches show what both photos have.</p>"
        )
    return (
        '<p class="fine">The network samples each region of a photo at points that it moves for that photo. The cosine '
        "similarity of two photos is exactly the sum of 14 parts: one of the whole photo and one of each of the 13 regions. "
        "Each bar shows a part. Point at a bar, or move through the bars with the Tab key, to see its region alone.</p>"
    )


def sequence_intro(limit: int) -> str:
    """Return the introduction to sequences."""
    return (
        f'<p class="fine">Upload 2 to {limit} photos of one drive or walk, such as frames of a video (not the video). They '
        "are localized together, in the order of their times, or else of the numbers in their names. A frame that alone would "
        "be unsure or wrong gets its position from the others, and frames outside the map get none.</p>"
    )


def sequence_verdict(answers: SequenceAnswers) -> str:
    """Return the number of frames with a position, and their order."""
    placed = [frame for frame in answers.frames if frame.place is not None]
    changed = sum(bool(frame.changed) for frame in answers.frames)
    text = f"In the {answers.order}. The sequence changed {changed} answers of single frames."
    note = _NO_CONFIDENCE if any(frame.note == NOT_CALIBRATED for frame in answers.frames) else ""
    return _verdict("found" if placed else "none", f"{len(placed)} of {len(answers.frames)} frames have a position", text, note)


def sequence_map(drawing: BaseMap, answers: SequenceAnswers) -> str:
    """Draw the map with the positions of the frames, numbered in their order."""
    places = [frame.place for frame in answers.frames if frame.place is not None]
    svg = drawing.draw(MapMarks(places), f"Map with the positions of {len(places)} frames, numbered in their order")
    if not svg:
        return empty_state("No map", "The photos of this index have no positions.")
    legend = (
        '<span class="key database">photos of the map</span><span class="key match">frames with a position, in order</span>'
    )
    return f'<figure class="map-panel">{svg}<figcaption>{legend}</figcaption></figure>'


def sequence_table(answers: SequenceAnswers) -> str:
    """Return a table with a row for each frame."""
    head = "".join(f"<th>{name}</th>" for name in ("Frame", "Position", "Sure", "Alone", "Changed"))
    rows = "".join(_sequence_row(number, frame) for number, frame in enumerate(answers.frames, 1))
    return f'<div class="frames"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _sequence_row(number: int, frame: SequenceAnswer) -> str:
    """Return the row of a frame; a photo that cannot be used has the reason."""
    if frame.place is not None:
        radius = "" if frame.radius_90 is None else f", within {metres(frame.radius_90)}"
        position = position_text(frame.place, digits=1) + radius
    else:
        position = frame.error or ("no match" if frame.no_match else frame.note or "no position")
    shares = ("" if share is None else f"{100 * share:.0f} %" for share in (frame.confidence, frame.confidence_alone))
    changed = "yes" if frame.changed else ""
    cells = (f"{number} · {frame.query}", position, *shares, changed)
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def own_intro(limits: Limits) -> str:
    """Return the introduction to visitors' own maps."""
    return (
        f'<p class="fine">Make a map of your own photos and search it. {escape(limits.to_text())} Only you can see it; it is '
        "deleted when you close the page, and after an hour at the latest. HEIC photos work too.</p>"
    )


def own_summary(count: int, skipped: Mapping[str, str], remarks: Sequence[Remark] = ()) -> str:
    """Return the result of making a visitor's own map of `count` photos, with what was skipped, corrected or assumed."""
    photos = "1 photo is" if count == 1 else f"{count} photos are"
    text = "Search it below. Only you can see it, and it is deleted when you close this page."
    lines = "".join(f'<p class="fine">{escape(str(remark))}</p>' for remark in remarks)
    return _verdict("found", f"{photos} in your map", text) + lines + skipped_list(skipped)


def empty_state(title: str, text: str) -> str:
    """Return a text for a part of the page that is empty."""
    return f'<div class="empty"><p class="title">{escape(title)}</p><p>{escape(text)}</p></div>'


def error_text(text: str, folder: Path) -> str:
    """Return the text of an error for Gradio, which shows it as HTML: names are escaped, and the folder is not named."""
    return escape(text.replace(str(folder), "…"), quote=False)


def metres(distance: float) -> str:
    """Return a distance as text, in metres or kilometres."""
    if distance >= 1000:
        return f"{distance / 1000:,.1f} km"
    return f"{distance:.1f} m" if distance < 10 else f"{distance:.0f} m"


def _verdict(kind: str, title: str, text: str, note: str = "") -> str:
    small = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<div class="verdict {kind}" role="status"><p class="title">{escape(title)}</p><p>{escape(text)}</p>{small}</div>'


def _confidence_text(estimate: Localization) -> str:
    """Return the confidence as text; a calibration may give 1, but no estimate is certain."""
    confidence = estimate.confidence or 0
    return "over 99 % sure" if confidence > 0.99 else f"{100 * confidence:.0f} % sure"


def _map_caption(answer: Answer | None) -> str:
    if answer is None:
        return "Map of the photos in the index"
    place = answer.localization.place
    estimate = f"estimate at {position_text(place, digits=1)}" if place is not None else "no sure estimate"
    return f"Map with {len(answer.matches)} matches, {estimate}. Arrow keys move it, plus and minus zoom."


def _legend(marks: MapMarks, *, sure: bool) -> str:
    estimate = (
        "best candidate, not sure enough" if not sure else "estimate" if marks.radius is None else "estimate, 90 % radius"
    )
    texts = {
        "database": "photos of the map",
        "match": "matches, by rank" if marks.matches else "",
        "estimate": estimate if marks.estimate else "",
        "truth": "true position" if marks.truth else "",
    }
    return "".join(f'<span class="key {kind}">{text}</span>' for kind, text in texts.items() if text)


def _card(answer: Answer, match: Match, picture: str | None, explained: bool) -> str:
    image = (
        f'<img src="{picture}" alt="Match {match.rank}: {escape(_name(match))}" loading="lazy">'
        if picture is not None
        else '<div class="no-picture">no picture available</div>'
    )
    button = f'<button type="button" data-rank="{match.rank}">Why?</button>' if picture is not None and explained else ""
    width = 100 * max(0.0, min(1.0, match.similarity))
    regions = "" if match.region_similarity is None else f" · {match.region_similarity:.3f} by regions"
    return (
        f'<li class="card {_judgement(answer, match)}"><div class="photo">{image}<span class="rank">{match.rank}</span></div>'
        f'<div class="facts"><div class="similarity" title="cosine similarity"><span style="width:{width:.1f}%"></span></div>'
        f"<p><b>{match.similarity:.3f}</b> similar{regions}</p>{_distance_line(answer, match)}{button}</div></li>"
    )


def _distance_line(answer: Answer, match: Match) -> str:
    distance = answer.distance(match)
    if distance is None:
        return f'<p class="far">{escape(_name(match))}</p>'
    return f'<p class="far">{metres(distance)} from the {"true position" if answer.truth is not None else "estimate"}</p>'


def _judgement(answer: Answer, match: Match) -> str:
    """Return the card's class: whether the match is correct, if the true position is known."""
    distance = answer.distance(match)
    if answer.truth is None or distance is None:
        return "unknown"
    return "correct" if distance <= POSITIVE_DIST_THRESHOLD else "wrong"


def _name(match: Match) -> str:
    name = match.place.path.rsplit("/", 1)[-1]
    return position_text(match.place, digits=1) if name.startswith("@") else name
