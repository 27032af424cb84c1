"""Drawings of an explanation as SVG and HTML: sampling points over a photo, and bars that sum to the cosine.

Elements of region r have `data-region="r"` and the class `region-r`; the page's style sheet and script choose colours and
highlight regions. Lengths are percentages or units of a `viewBox`, so that drawings can be scaled.
"""

from html import escape

import numpy as np

from d2vpr_hf.explanation.matches import Explanation
from d2vpr_hf.explanation.patches import PatchMap
from d2vpr_hf.explanation.regions import PhotoRegions

_COLOURS = ((18, 24, 74), (36, 85, 138), (32, 145, 140), (122, 200, 91), (253, 231, 60))  # dark to bright
_SIDE = 600.0  # units of a drawing's longer side


def draw_photo_regions(photo: PhotoRegions, picture: str, caption: str, *, deformed: bool = True) -> str:
    """Draw the sampling points over a photo.

    Args:
        photo: Regions of the photo.
        picture: URL of the photo, such as a data URI.
        caption: Description of the drawing for screen readers.
        deformed: Whether to draw the points and boxes that the network used; `False` draws the points of the fixed grid.
    """
    height, width = photo.size
    scale = _SIDE / max(height, width)
    points = (photo.points if deformed else photo.fixed) * scale
    dots = "".join(
        f'<circle class="region-{region}" data-region="{region}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>'
        for (x, y), region in zip(points, photo.region, strict=True)
    )
    size = f"{width * scale:.1f} {height * scale:.1f}"
    return (
        f'<svg class="sampled" viewBox="0 0 {size}" role="img" aria-label="{escape(caption)}">'
        f'<image href="{escape(picture)}" width="100%" height="100%" preserveAspectRatio="none"/>'
        f'<g class="boxes">{_boxes(photo, scale) if deformed else ""}</g><g class="dots">{dots}</g></svg>'
    )


def draw_patches(photo: PatchMap, picture: str, caption: str, limits: tuple[float, float]) -> str:
    """Draw the similarity of patches over a photo: bright colours for large ones.

    Args:
        photo: The patches.
        picture: URL of the photo, such as a data URI.
        caption: Description of the drawing for screen readers.
        limits: The similarities that the darkest and the brightest colour stand for.
    """
    scale = _SIDE / max(photo.size)
    left, top, right, bottom = (side * scale for side in photo.box)
    rows, columns = photo.similarity.shape
    width, height = (right - left) / columns, (bottom - top) / rows
    cells = "".join(
        f'<rect x="{left + column * width:.1f}" y="{top + row * height:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{_colour(float(similarity), limits)}"><title>{similarity:.3f}</title></rect>'
        for (row, column), similarity in np.ndenumerate(photo.similarity)
    )
    size = f"{photo.size[1] * scale:.1f} {photo.size[0] * scale:.1f}"
    return (
        f'<svg class="patches" viewBox="0 0 {size}" role="img" aria-label="{escape(caption)}">'
        f'<image href="{escape(picture)}" width="100%" height="100%" preserveAspectRatio="none"/>'
        f'<g fill-opacity="0.55">{cells}</g></svg>'
    )


def draw_patch_scale(limits: tuple[float, float]) -> str:
    """Draw the scale of the colours of [`draw_patches`]."""
    steps = np.linspace(*limits, 24)
    cells = "".join(f'<rect x="{n}" width="1.05" height="1" fill="{_colour(float(s), limits)}"/>' for n, s in enumerate(steps))
    return (
        f'<p class="patch-scale"><span>{limits[0]:.2f}</span><svg viewBox="0 0 24 1" preserveAspectRatio="none" '
        f'aria-hidden="true">{cells}</svg><span>{limits[1]:.2f}</span></p>'
    )


def _colour(similarity: float, limits: tuple[float, float]) -> str:
    """Return a colour between dark blue and yellow, of increasing lightness, which people who cannot tell hues also see."""
    share = (similarity - limits[0]) / max(limits[1] - limits[0], 1e-6)
    place = min(max(share, 0.0), 1.0) * (len(_COLOURS) - 1)
    lower = min(int(place), len(_COLOURS) - 2)
    pairs = zip(_COLOURS[lower], _COLOURS[lower + 1], strict=True)
    return "#" + "".join(f"{round(first + (place - lower) * (second - first)):02x}" for first, second in pairs)


def draw_bars(explanation: Explanation) -> str:
    """Draw the share of each region in the cosine, the largest first, as a list that can be used with the keyboard.

    The list shows shares rounded to four digits, and below them their sum, the cosine.
    """
    shares = explanation.shares
    longest = max(float(abs(shares).max()), 1e-12)
    order = sorted(range(len(shares)), key=lambda region: -shares[region])
    rows = "".join(_bar(region, explanation.names[region], float(shares[region]), longest) for region in order)
    total = f'<p class="total"><span>sum = cosine similarity</span><b>{explanation.cosine:.4f}</b></p>'
    note = "" if explanation.note is None else f'<p class="note">{escape(explanation.note)}</p>'
    return f'<ol class="bars" aria-label="What each region adds to the similarity">{rows}</ol>{total}{note}'


def _bar(region: int, name: str, share: float, longest: float) -> str:
    width = 100 * abs(share) / longest
    sign = " negative" if share < 0 else ""
    return (
        f'<li class="region-{region}" data-region="{region}" tabindex="0"><span class="name">{escape(name)}</span>'
        f'<span class="track"><span class="bar{sign}" style="width:{width:.2f}%"></span></span>'
        f'<span class="share">{share:+.4f}</span></li>'
    )


def _boxes(photo: PhotoRegions, scale: float) -> str:
    return "".join(
        f'<rect class="region-{region}" data-region="{region}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" rx="4"/>'
        for region, (left, top, right, bottom) in enumerate(photo.boxes * scale)
        if region
    )
