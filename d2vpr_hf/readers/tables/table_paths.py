"""Paths of photos as people write them in tables, as paths relative to the table's folder."""

import functools
import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote, urlsplit

_WINDOWS_ROOT = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # a drive, or a machine in a network
RESPELLED = "paths in another case, Unicode form or percent-encoding than their files, read as the paths of the files"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class TablePaths:
    """Reads the paths of a table. Two spellings of a path, such as a relative and an absolute one, become one path.

    Args:
        folder: The folder of the table, which relative paths start from.

    Attributes:
        is_respelled: Whether the last path was read in another spelling than the text has.
    """

    def __init__(self, folder: Path) -> None:
        self.is_respelled = False
        self._folder = folder
        status = folder.stat()
        self._identity = status.st_dev, status.st_ino
        self._name_in_folder = functools.lru_cache(maxsize=4096)(self._find_in_folder)
        self._listings: dict[str, _Listing] = {}

    def read(self, text: str) -> str:
        """Return a photo's path with forward slashes: relative to the folder if the photo is in it, else unchanged.

        Raises:
            ValueError: If it is a URL of another machine, a path on a drive of Windows, or no path.
        """
        self.is_respelled = False
        if text.lower().startswith("file:"):
            text = _path_of_url(text)
        if _URL.match(text):
            raise ValueError(f"{text} is a URL; expected the path of a file. Download the photos, or give them as a data set")
        if os.name != "nt" and _WINDOWS_ROOT.match(text):
            raise ValueError(
                f"{text} is a path of Windows, which this machine cannot open. Write paths relative to the table's folder, "
                f"such as {PureWindowsPath(text).name}"
            )
        if "\\" in text and not (self._folder / text).exists():
            slashed = text.replace("\\", "/")
            has_file = (self._folder / slashed).exists() or self._find_spelling(os.path.normpath(slashed)) is not None
            text = slashed if has_file else text
        path = os.path.normpath(text)  # texts: a `Path` for each row of a million would take a minute
        parent, name = os.path.split(path)
        if name in ("", ".", ".."):
            raise ValueError(f"expected the path of a photo, got {text}")
        if path.startswith((os.sep, f"..{os.sep}")) or os.path.splitdrive(path)[0]:
            inner = self._name_in_folder(parent)
            if inner is None:
                return path.replace(os.sep, "/")
            path = f"{inner}{os.sep}{name}" if inner else name
        spelling = self._find_spelling(path) or path
        self.is_respelled = spelling != path
        return spelling.replace(os.sep, "/")

    def _find_spelling(self, path: str) -> str | None:
        """Return a path in the folder as the file system spells it; `None` if there is not exactly one such file."""
        parent, name = os.path.split(path)
        if not name:  # an absolute path
            return None
        outer = self._find_spelling(parent) if parent else ""
        if outer is None:
            return None
        if outer not in self._listings:
            self._listings[outer] = _Listing(self._folder / outer)
        spelling = self._listings[outer].find(name)
        return None if spelling is None else f"{outer}{os.sep}{spelling}" if outer else spelling

    def _find_in_folder(self, parent: str) -> str | None:
        """Return the path of a folder relative to the table's folder, empty for this folder; `None` if it is not inside.

        Folders are compared by what the file system knows of them, so that links, `..` and another case of letters, where these
        do not matter, name the same folder.
        """
        folder = self._folder / parent
        plain = Path(os.path.normpath(folder.absolute()))
        for path in dict.fromkeys((plain, folder.resolve())):
            for outer in (path, *path.parents):
                if self._is_folder(outer):
                    return "" if path == outer else str(path.relative_to(outer))
        return None

    def _is_folder(self, path: Path) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity


class _Listing:
    """The names in a folder; none if it cannot be read."""

    def __init__(self, folder: Path) -> None:
        try:
            with os.scandir(folder) as entries:
                self._names = frozenset(entry.name for entry in entries)
        except OSError:
            self._names = frozenset()
        self._names_by_key: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """Return the spelling of a name in the folder; `None` if no name, or several names, have the same letters."""
        if name in self._names:
            return name
        if self._names_by_key is None:
            self._names_by_key = defaultdict(list)
            for each in self._names:
                self._names_by_key[_key(each)].append(each)
        for key in (_key(name), _key(unquote(name))):
            if len(spellings := self._names_by_key.get(key, [])) == 1:
                return spellings[0]
        return None


def _key(name: str) -> str:
    """Return a name without the differences of case and of Unicode's normal forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _path_of_url(url: str) -> str:
    """Return the path of a `file:` URL."""
    parts = urlsplit(url.replace("#", "%23").replace("?", "%3F"))  # they are characters of file names here
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{url} is a file of the machine {parts.netloc}; expected file:///PATH, or a path")
    path = unquote(parts.path)
    return path[1:] if re.match(r"/[A-Za-z]:[\\/]", path) else path
