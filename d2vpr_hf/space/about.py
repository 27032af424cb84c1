"""The page about the Space: the method in one picture, figures with their conditions, licences, citation."""

from collections.abc import Mapping
from html import escape
from itertools import product
from typing import Any

from d2vpr_hf.hub.model_cards import METHODS
from d2vpr_hf.space.opened_space import OpenedSpace
from d2vpr_hf.space.uploads import LIMITS

_STEPS = (
    ("Photo", "upright, {size}"),
    ("Vision transformer", "patches become tokens"),
    ("Recovery", "tokens as wide as the teacher's"),
    ("Regions", "13, sampled at points that depend on the photo"),
    ("Descriptor", "14 features, one after another"),
    ("Map", "photos with similar descriptors"),
)


def about_page(opened: OpenedSpace) -> str:
    """Write the page about a Space that was opened."""
    conditions = (
        "The owner of this map can tell how good it is; the Space measured nothing on it."
        if opened.town is None
        else "Measured when this map was made: photos of a simulated town by day, from positions next to those of the map. "
        "Such figures compare methods on this town; they do not predict results on real streets. The examples are two photos "
        "from outside the map and some of the correct answers with the highest similarity."
    )
    return "".join(
        (
            '<article class="about">',
            "<h2>How it works</h2>",
            _method(opened),
            f"<h3>Model and map of this Space</h3>{_table(_facts(opened))}<p class='fine'>{conditions}</p>",
            "<h3>Your photos</h3>",
            f"<p>{escape(LIMITS.to_text())} Only you can download your uploads. They are deleted when you close the page, and "
            "after an hour at the latest; positions in your photos are not written to any log. Photos that programs send are "
            "deleted after an hour.</p>",
            f"<h3>Licences</h3><p>{escape(_licences(opened))}</p>",
            _citation(opened),
            "</article>",
        )
    )


def _method(opened: OpenedSpace) -> str:
    """Describe the method, in words and in one picture."""
    encoder = opened.photo_map.encoder
    if opened.is_d2vpr:
        size = encoder.input_size or (encoder.config.image_size,) * 2
        return (
            "<p>Among photos with known positions, D²-VPR finds those that show the same place as a new photo. It is a small "
            "network distilled from a large one. It collects features over 13 regions of the photo, at sampling points that it "
            "chooses for each photo. The features of the whole photo and of the 13 regions, one after another, are the "
            f"descriptor. Photos of the same place have similar descriptors.</p>{method_picture(size)}"
        )
    trained = encoder.facts.training_data
    return (
        f"<p>{escape(encoder.facts.title)} turns a photo into a descriptor, a row of numbers. Among photos with known "
        "positions, those whose descriptors are the most similar to that of a new photo probably show the same place.</p>"
        + ("" if trained is None else f"<p>It was trained on {escape(trained.rstrip('.'))}.</p>")
    )


def _licences(opened: OpenedSpace) -> str:
    """Return sentences about the licences of code, weights and photos."""
    code = "Code and the embedded model: Apache-2.0. The simulated town was drawn by this package: Apache-2.0."
    facts = opened.photo_map.encoder.facts
    if opened.is_d2vpr and facts.question is None:
        weights = "The published D²-VPR weights have no licence that we know of, and are not included. DINOv2: Apache-2.0."
        return f"{code} {weights}"
    license_name = "no licence is stated" if facts.license is None else facts.license
    weights = f"The weights of {opened.method} are not part of this package: {license_name}."
    return " ".join(text for text in (code, weights, facts.question) if text is not None)


def _citation(opened: OpenedSpace) -> str:
    """Return the paper to cite; nothing for a model without one."""
    method = METHODS["d2vpr"] if opened.is_d2vpr else None
    arxiv = opened.photo_map.encoder.facts.arxiv if method is None else method.arxiv
    if arxiv is None:
        return ""
    bibtex = "" if method is None else f"<pre>{escape(method.citation)}</pre>"
    return f'<h3>Cite</h3><p><a href="https://arxiv.org/abs/{escape(arxiv)}">arXiv {escape(arxiv)}</a></p>{bibtex}'


def method_picture(input_size: tuple[int, int]) -> str:
    """Draw the steps from a photo, which the network reads with a height and width of `input_size` pixels, to a place."""
    size = f"{input_size[0]} × {input_size[1]}"
    return (
        '<figure class="method"><ol aria-label="From a photo to a place">'
        + "".join(
            f"<li>{_icon(n)}<b>{escape(name)}</b><span>{escape(text.format(size=size))}</span></li>"
            for n, (name, text) in enumerate(_STEPS)
        )
        + "</ol></figure>"
    )


def _facts(opened: OpenedSpace) -> list[tuple[str, str]]:
    encoder, index = opened.photo_map.encoder, opened.photo_map.index
    parameters = encoder.facts.num_parameters
    size = "" if parameters is None else f", {parameters / 1e6:.1f} M parameters"
    facts = [
        ("model", f"{opened.model_name}{size}"),
        *([("options", options)] if (options := _options(encoder.model_options)) else []),
        ("descriptor", f"{encoder.descriptor_dim} numbers"),
        ("map", f"{opened.index_name}, {len(index)} photos"),
        ("confidence", _calibration(opened)),
    ]
    if not opened.has_photos:
        thumbnails = f"{len(opened.thumbnails)} thumbnails" if opened.thumbnails else "neither photos nor thumbnails"
        facts.append(("pictures", f"{thumbnails}: the index came without photos"))
    if opened.town is not None and opened.town.num_queries:
        share = 100 * opened.town.num_correct / opened.town.num_queries
        facts.append(("recall@1 at 25 m", f"{share:.0f} % of {opened.town.num_queries} other photos of the mapped part"))
    return facts


def _options(values: Mapping[str, Any]) -> str:
    """Return the options of a model as text."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _calibration(opened: OpenedSpace) -> str:
    calibration = opened.photo_map.calibration
    if calibration is None:
        return "none: the map has no calibration"
    return f"calibrated on {calibration.num_queries} labelled photos, {calibration.num_correct} of them with a correct estimate"


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _icon(number: int) -> str:
    """Draw the icon of a step: a photo, patches, layers, moved points, a row of features, a pin."""
    patches = "".join(f'<rect x="{4 + 10 * x}" y="{4 + 10 * y}" width="8" height="8"/>' for x in range(4) for y in range(4))
    steps = [8 + 9.5 * step for step in range(4)]
    shift = [2.5 * (step % 3 - 1) for step in (0, 7, 2, 5, 3, 1, 8, 4, 6, 2, 7, 0, 5, 3, 1, 8, 4)]
    points = "".join(
        f'<circle cx="{x + shift[n]}" cy="{y + shift[n + 1]}" r="2.2"/>' for n, (x, y) in enumerate(product(steps, steps))
    )
    heights = (12, 32, 20, 36, 16, 28, 24)
    row = "".join(f'<rect x="{3 + 6 * n}" y="{42 - height}" width="4" height="{height}"/>' for n, height in enumerate(heights))
    shapes = (
        '<path d="M4 8h40v32H4z" class="line"/><path d="M4 36l12-14 9 10 6-7 13 13V40H4z"/><circle cx="33" cy="17" r="4"/>',
        patches,
        '<path d="M24 5l20 10-20 10L4 15z"/><path d="M4 24l20 10 20-10M4 33l20 10 20-10" class="line"/>',
        f'<path d="M3 3h42v42H3zM24 3v42M3 24h42" class="line"/>{points}',
        row,
        '<path d="M24 45C18 32 9 28 9 18a15 15 0 0 1 30 0c0 10-9 14-15 27z"/><circle cx="24" cy="18" r="6" class="hole"/>',
    )
    return f'<svg viewBox="0 0 48 48" aria-hidden="true">{shapes[number]}</svg>'
