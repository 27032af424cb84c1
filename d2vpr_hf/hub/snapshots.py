"""Data sets of the Hugging Face Hub on this machine, recognised by the path of a folder in the Hub's cache."""

import re
from pathlib import Path

_SNAPSHOT = re.compile(r"(?:^|/)datasets--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/|$)")


def find_dataset(path: str | Path | None) -> dict[str, str]:
    """Return the Hub id and the commit of the data set that a folder is in, as `dataset` and `revision`; empty if unknown."""
    match = _SNAPSHOT.search(Path(path).absolute().as_posix() if path is not None else "")
    return {} if match is None else {"dataset": f"{match[1]}/{match[2]}", "revision": match[3]}
