"""Texts of other people, with escapes for characters that steer terminals or feign lines. This module loads no library."""

import re

# control characters, marks of writing direction, and separators of lines
_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_ANYWHERE = re.compile(f"[{_STEERING}]")
_IN_A_LINE = re.compile(f"[{_STEERING}\t\n]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def printable_text(text: str) -> str:
    """Return a text of several lines with escapes, as Python writes them, for such characters and bytes that are not UTF-8."""
    return _ANYWHERE.sub(_escape, text.replace("\r\n", "\n"))


def printable_line(text: str) -> str:
    """Return a text as one line: line breaks and tabs are escapes too."""
    return _IN_A_LINE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    number = ord(character)
    return _SHORT.get(character) or (f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}")
