"""Who uploaded what: a visitor's files are given back to nobody else, used for nobody else, and deleted when he leaves.

Gradio keeps uploads under names that cannot be guessed and gives them to everybody who knows a name. Here a cookie names the
visitor, and a name without the visitor is worth nothing.
"""

import contextlib
import secrets
import threading
from collections import defaultdict
from pathlib import Path

COOKIE = "d2vpr_visitor"
_TIDY_EVERY = 200  # uploads


class Visitors:
    """The visitors of a server, and the files under its upload folder that are theirs. Safe to use from threads.

    Args:
        folder: The upload folder. Files elsewhere are none of its business.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._owners: dict[Path, set[str | None]] = {}
        self._sessions: dict[str, set[str]] = defaultdict(set)
        self._lock = threading.Lock()
        self._uploads = 0

    @staticmethod
    def new_name() -> str:
        """Draw the name of a new visitor, which nobody can guess."""
        return secrets.token_urlsafe(24)

    def holds(self, file: str | Path) -> bool:
        """Tell whether a file lies under the upload folder, links and `..` followed."""
        return self._resolve(file).is_relative_to(self.folder)

    def add_file(self, visitor: str | None, file: str | Path) -> None:
        """Note who uploaded a file; `None` for somebody who keeps no cookies."""
        with self._lock:
            self._owners.setdefault(self._resolve(file), set()).add(visitor)
            self._uploads += 1
            if self._uploads % _TIDY_EVERY == 0:
                self._owners = {path: owners for path, owners in self._owners.items() if path.exists()}

    def may_fetch(self, visitor: str | None, file: str | Path) -> bool:
        """Tell whether a visitor may be given a file of the upload folder: only if it is his."""
        with self._lock:
            return visitor is not None and visitor in self._owners.get(self._resolve(file), ())

    def may_use(self, visitor: str | None, file: str | Path) -> bool:
        """Tell whether a visitor may ask for work on a file of the upload folder.

        Besides his own these are files that somebody without cookies uploaded: their names, which cannot be guessed, must do.
        """
        with self._lock:
            owners = self._owners.get(self._resolve(file), ())
            return None in owners or (visitor is not None and visitor in owners)

    def arrive(self, visitor: str | None, session: str) -> None:
        """Note that a visitor opened the page; he may have it open several times."""
        if visitor is not None:
            with self._lock:
                self._sessions[visitor].add(session)

    def leave(self, visitor: str | None, session: str) -> None:
        """Note that a visitor closed a page; with the last one go all files that are his alone."""
        if visitor is None:
            return
        with self._lock:
            self._sessions[visitor].discard(session)
            if not self._sessions[visitor]:
                del self._sessions[visitor]
                self._forget(visitor)

    def _forget(self, visitor: str) -> None:
        for path, owners in list(self._owners.items()):
            owners.discard(visitor)
            if not owners:
                del self._owners[path]
                _remove(path)

    def _resolve(self, file: str | Path) -> Path:
        return Path(file).resolve()


def _remove(path: Path) -> None:
    """Remove a file, and its folder if nothing else is in it."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()
