"""The message of an interrupted run: how many photos are stored, and which command encodes the others."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

from d2vpr_hf.index import PlaceIndex

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def interruption_message(
    place: object, count_stored: Callable[[], int], total: int | None, command: str = "The same command"
) -> Iterator[None]:
    """Log how many photos are stored if the block is interrupted; KeyboardInterrupt and SystemExit are raised again.

    Args:
        place: The name of the folder, for the message.
        count_stored: Counts the stored photos of the run.
        total: Number of photos of the run; `None` if it is not known.
        command: The command that encodes the others.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interrupt:
        text = _stored_text(place, count_stored(), total, command)
        interrupt.add_note(text)  # for the line of the command line
        logger.warning("Stopped: %s", text)
        raise


def _stored_text(place: object, stored: int, total: int | None, command: str) -> str:
    if not stored:
        return f"no photo is stored in {place} yet. The same command begins again."
    verb = "photo is" if (total or stored) == 1 else "photos are"
    if total is None:
        return f"{stored:,} {verb} stored in {place}. {command} keeps them and encodes the others."
    if stored >= total:
        return f"all {total:,} {verb} stored in {place}. {command} does the rest."
    return f"{stored:,} of {total:,} {verb} stored in {place}. {command} encodes the others."


def count_stored(index: PlaceIndex | None, paths: Collection[str] | None) -> int:
    """Return how many photos of these paths an index holds; with `None`, the number of its rows."""
    if index is None:
        return 0
    return len(index) if paths is None else len(set(paths).intersection(index.places.column("path")))
