"""HTML pages of one file: the browser loads nothing and runs no script, whatever a name of a file contains."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(title: str, style: str, parts: Sequence[str]) -> str:
    """Return a page.

    Args:
        title: Its title and first heading, a plain text.
        style: Its style sheet.
        parts: HTML below the heading.
    """
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += f"<title>{escape(title)}</title><style>{style}</style>"
    body = f"<h1>{escape(title)}</h1>{''.join(parts)}"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'
