"""Skipped photos: the reasons, and their report."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from d2vpr_hf.utils.printable import printable_line

logger = logging.getLogger(__name__)


def report_skipped(skipped: Mapping[str, str], total: int, strict: bool, source: str = "") -> None:
    """Log a warning that counts the skipped photos and lists each with its reason; raise it as ValueError if `strict`.

    The warning begins with the name of the photos' source, if there are several.
    """
    if not skipped:
        return
    counts = f"{len(skipped)} of {total} photos were skipped:"
    lines = [
        f"{source}: {counts}" if source else counts,
        *(f"  {printable_line(path)}: {printable_line(reason)}" for path, reason in skipped.items()),
    ]
    if strict:
        raise ValueError("\n".join(lines))
    logger.warning("\n".join(lines))


def name_problem(path: str, seen: Collection[str]) -> dict[str, str]:
    """Return the reason why a photo is skipped because of its path, by the path as text; an empty dictionary if it is not.

    Args:
        path: The photo's path. Linux allows any bytes in it; those that are not UTF-8 cannot be stored.
        seen: Paths of the photos before it.
    """
    if path in seen:
        return {path: "listed twice; the first is used"}
    text = printable_path(path)
    return {text: "its name is not UTF-8"} if text != path else {}


def printable_path(path: str) -> str:
    """Return a path as text, with escapes in place of bytes that are not UTF-8."""
    return path.encode(errors="backslashreplace").decode()
