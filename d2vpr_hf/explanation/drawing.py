"""Drawings of an explanation, as SVG and HTML that need nothing else: points over a photo, and bars that sum to the cosine.

Elements of region r carry `data-region="r"` and the class `region-r`; who shows them decides on colours, and on what a pointer
or the keyboard brings to the front. Lengths are in percent or pixels of the photo, so that drawings scale.
"""

from html import escape

from d2vpr_hf.explanation.matches import Explanation
from d2vpr_hf.explanation.regions import PhotoRegions

_SIDE = 600.0  # units of a drawing's longer side


def draw_photo_regions(photo: PhotoRegions, picture: str, caption: str, *, deformed: bool = True) -> str:
    """Draw the sampling points over a photo.

    Args:
        photo: Where they are.
        picture: The photo as a URL, such as a data URI.
        caption: What the drawing shows, for those who cannot see it.
        deformed: Whether to draw the points and boxes where the network put them; `False` draws the fixed grid.
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


def draw_bars(explanation: Explanation) -> str:
    """Draw what each region adds to the cosine, the strongest first, as a list that the keyboard can walk through.

    The numbers written are the shares rounded to four digits, and the sum below them is the cosine.
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
