"""The ends of commands: exit statuses, and the way to continue after an interrupt."""

from __future__ import annotations

INTERRUPTIONS = "d2vpr_hf.retrieval.interruptions"  # the logger of the lines about stored photos

STATUSES = {
    0: "all is done",
    1: "a mistake that the user can correct, or some given photos could not be used; the message names them",
    2: "wrong options or arguments",
    130: "stopped by Ctrl-C (SIGINT)",
    143: "stopped by SIGTERM",
}

_BEGINS = "The same command begins again."
_CONTINUES = "The same command continues with the photos that are not stored yet."
_WHOLE = "Each change of an index is stored as a whole or not at all; `d2vpr info INDEX` shows the present state."
_CONTINUATIONS = {
    "index": _CONTINUES,
    "add": _CONTINUES,
    "embed": _CONTINUES,
    "watch": _CONTINUES,
    "merge": "The shards stay. The same command begins again.",
    "remove": _WHOLE,
    "repair": _WHOLE,
    "compact": _WHOLE,
    "calibrate": "The calibration was not changed. The same command begins again.",
    "demo": "The same command uses the photos that were rendered completely.",
    "push": "The Hub gets all files in one commit or none. The same command begins again.",
    "push-space": "The Hub gets all files in one commit or none. The same command begins again.",
}


def continuation(command: str, interrupt: BaseException) -> str:
    """Return the sentence on how to continue after an interrupt.

    Args:
        command: The name of the command.
        interrupt: The exception; a function that stored a part of its work has noted the sentence in it.
    """
    notes: list[str] = getattr(interrupt, "__notes__", [])
    return notes[-1] if notes else _CONTINUATIONS.get(command, _BEGINS)
