"""Owners of uploads and sessions: only the visitor who uploaded a file can fetch it and use it, and it is deleted when the
visitor leaves.

Gradio stores uploads under secret names and serves a file to everybody who knows its name; the state of a page belongs to
everybody who knows the name of its session. Here a cookie identifies the visitor.
"""

import contextlib
import secrets
import threading
from collections import OrderedDict, defaultdict
from pathlib import Path

COOKIE = "d2vpr_visitor"
_CLEAN_EVERY = 200  # uploads
_MAX_SESSIONS = 20_000  # sessions whose visitors are kept; the one that was not used for the longest time is forgotten


class Visitors:
    """The visitors of a server and their files in its upload folder. Safe to use from threads.

    Args:
        folder: The upload folder. Files in other folders have no owners.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._owners: dict[Path, set[str | None]] = {}
        self._sessions: dict[str, set[str]] = defaultdict(set)
        self._session_owners: OrderedDict[str, str | None] = OrderedDict()
        self._lock = threading.Lock()
        self._uploads = 0

    @staticmethod
    def new_name() -> str:
        """Draw a secret name for a new visitor."""
        return secrets.token_urlsafe(24)

    def holds(self, file: str | Path) -> bool:
        """Return whether a file is in the upload folder, after links and `..` are resolved."""
        return self._resolve(file).is_relative_to(self.folder)

    def add_file(self, visitor: str | None, file: str | Path) -> None:
        """Record the visitor who uploaded a file; `None` stands for all visitors without cookies."""
        with self._lock:
            self._owners.setdefault(self._resolve(file), set()).add(visitor)
            self._uploads += 1
            if self._uploads % _CLEAN_EVERY == 0:
                self._owners = {path: owners for path, owners in self._owners.items() if path.exists()}

    def may_fetch(self, visitor: str | None, file: str | Path) -> bool:
        """Return whether a visitor may download a file of the upload folder: only its owners may."""
        with self._lock:
            return visitor is not None and visitor in self._owners.get(self._resolve(file), ())

    def may_use(self, visitor: str | None, file: str | Path) -> bool:
        """Return whether a visitor may use a file of the upload folder as the input of a request.

        All visitors may use files that were uploaded without cookies: only the secret name protects them.
        """
        with self._lock:
            owners = self._owners.get(self._resolve(file), ())
            return None in owners or (visitor is not None and visitor in owners)

    def has_owner(self, file: str | Path) -> bool:
        """Return whether a file was uploaded by some visitor and not deleted."""
        with self._lock:
            return bool(self._owners.get(self._resolve(file)))

    def claim_session(self, visitor: str | None, session: str) -> bool:
        """Return whether a session belongs to a visitor: to the first one who used its name."""
        with self._lock:
            owner = self._session_owners.setdefault(session, visitor)
            self._session_owners.move_to_end(session)
            if len(self._session_owners) > _MAX_SESSIONS:
                self._session_owners.popitem(last=False)
            return owner == visitor

    def arrive(self, visitor: str | None, session: str) -> None:
        """Record that a visitor opened the page; several pages may be open at a time."""
        if visitor is not None:
            with self._lock:
                self._sessions[visitor].add(session)

    def leave(self, visitor: str | None, session: str) -> None:
        """Record that a visitor closed a page; after the last page, delete the files that have no other owner."""
        if visitor is None:
            return
        with self._lock:
            self._sessions[visitor].discard(session)
            if self._sessions[visitor]:
                return
            del self._sessions[visitor]
            for path, owners in list(self._owners.items()):
                owners.discard(visitor)
                if not owners:
                    del self._owners[path]
                    path.unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # other files are in the folder
                        path.parent.rmdir()

    def _resolve(self, file: str | Path) -> Path:
        return Path(file).resolve()
