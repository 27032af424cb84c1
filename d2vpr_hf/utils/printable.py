"""Texts of other people without characters that steer terminals or feign other lines. This module loads no library."""

import re

# control characters, marks of writing direction, and separators of lines
_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
_ANYWHERE = re.compile(f"[{_STEERING}]")
_IN_A_LINE = re.compile(f"[{_STEERING}\t\n\ud800-\udfff]+")


def printable_text(text: str) -> str:
    """Return a text of several lines without such characters."""
    return _ANYWHERE.sub("", text)


def printable_line(text: str) -> str:
    """Return a text with question marks in place of such characters, line breaks and bytes that are not UTF-8: one line."""
    return _IN_A_LINE.sub("?", text)
