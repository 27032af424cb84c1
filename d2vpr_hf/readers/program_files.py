"""Files that programs keep among photos: thumbnails, bins of deleted photos, old versions, files of a system.

The names are those of the programs' documentation and of their folders; they are compared in any case.
"""

import functools
import re
from collections.abc import Collection, Sequence
from fnmatch import translate

THUMBNAILS = "photos that are thumbnails or previews of a program"
BINS = "photos in bins of deleted files"
VERSIONS = "photos in folders of old versions, snapshots or unfinished copies"
SYSTEM = "photos in folders of a system or program"

_FOLDERS = {
    THUMBNAILS: (
        *("@eadir", "eadir", ".@__thumb", ".@__qini", ".@__comments"),  # Synology and QNAP
        *(".thumb", ".thumbs", ".thumbnail*", ".thumbcache*", ".xvpics", ".face", ".photoshare"),  # Linux desktops, Android
        *(".wdmc", "appdata_oc*", ".photoprism"),  # Western Digital, Nextcloud, PhotoPrism
        *("*.lrdata", "*.lrcat-data", "*.lrprev", "*.cocatalogdb", ".dtthumbs*"),  # Lightroom, Capture One
    ),
    BINS: (
        *(
            "#recycle",
            "@recycle",
            "@recycle-bin",
            ".recycle",
            ".recycled",
            ".recycler",
            ".recycle-bin",
            ".recyclebin",
        ),  # Synology, QNAP, Samba
        *(".trash*", ".dtrash", ".globaltrash", ".deleted", "files_trashbin"),  # desktops, digiKam, Android, Nextcloud
        *(
            "$recycle.bin",
            "recycler",
            "recycled",
            "recycle.bin",
            "recycle bin",
            "recycle bin - *",
            "trashbox",
        ),  # Windows, D-Link, Buffalo
        *("lost+found", "found.[0-9][0-9][0-9]"),  # file system checks
    ),
    VERSIONS: (
        *(
            "#snapshot",
            "@snapshot",
            "@snapshots",
            "@recently-snapshot",
            ".snapshot",
            ".snapshots",
            "~snapshot",
            ".snap",
            ".zfs",
            "@gmt-*",
        ),
        *(".stversions", ".stfolder*", ".sync", ".bzvol", "files_versions", ".versions"),  # Syncthing, Resilio, Backblaze
        *(".dropbox.cache", ".tmp.drive*", "@tmp", ".@upload_cache", ".picasaoriginals", ".originals", ".uploading"),
    ),
    SYSTEM: (
        *(".appledouble", ".appledb", ".appledesktop", "__macosx", ".spotlight-v*", ".fseventsd"),
        *(".documentrevisions-v*", ".temporaryitems", "network trash folder", "temporary items"),
        *("system volume information", ".git", ".hg", ".svn", ".dvc", ".cache", "__pycache__", ".ipynb_checkpoints"),
        *("@sharebin", "@appstore", "@database", "@synologydrive", ".synologyworkingdirectory"),
    ),
}
_FILES = {
    THUMBNAILS: ("*.thm",),  # cameras write a JPEG of this name next to a video
    BINS: (".trashed-*", "$r??????.*", "$i??????.*"),  # Android, Windows
    VERSIONS: (".pending-*", ".syncthing.*", "~syncthing~*", ".goutputstream-*"),  # Android, Syncthing, GNOME
    SYSTEM: ("._*",),  # macOS adds them on file systems of others
}
# folders in a library of Apple's Photos, iPhoto or Aperture, whose originals are in other folders
_LIBRARY = r".*\.(photoslibrary|photolibrary|migratedphotolibrary|aplibrary)|iphoto library"
_IN_LIBRARY = frozenset(
    ("resources", "thumbnails", "previews", "private", "scopes", "database", "attachments", "data", "data.noindex")
)
# folders whose names are usual ones, by the folder that they are in
_NESTED = {
    ("cache", "thumbnails"): THUMBNAILS,  # PhotoPrism
    ("captureone", "cache"): THUMBNAILS,
    ("share", "trash"): BINS,  # freedesktop.org
}
_BESIDE = {"thumbs": "encoded-video"}  # Immich's thumbnails, by another folder next to them


def program_file(parts: Sequence[str]) -> str | None:
    """Return the text of a remark on a file that belongs to a program, or `None` for a file of the user.

    Args:
        parts: The folders and the name of a file's path, from the folder that was given: that folder's own name says nothing.
    """
    *folders, name = parts
    for depth in range(len(folders)):
        if (text := program_folder(folders[: depth + 1])) is not None:
            return text
    return program_name(name)


def program_folder(parts: Sequence[str], siblings: Collection[str] = ()) -> str | None:
    """Return the text of a remark on the photos in a program's folder, or `None` for a folder of the user.

    Args:
        parts: The folder's path, from the folder that was given.
        siblings: Names of the files and folders next to it, if they are known.
    """
    name = parts[-1].lower()
    if len(parts) > 1:
        parent = parts[-2].lower()
        if name in _IN_LIBRARY and re.fullmatch(_LIBRARY, parent):
            return THUMBNAILS
        if (parent, name) in _NESTED:
            return _NESTED[parent, name]
    return THUMBNAILS if _BESIDE.get(name) in siblings else _first_match(name, folders=True)


def program_name(name: str) -> str | None:
    """Return the text of a remark on a file with a program's name, or `None`."""
    return _first_match(name.lower(), folders=False)


def _first_match(name: str, folders: bool) -> str | None:
    return next((text for text, pattern in _patterns(folders) if pattern.match(name)), None)


@functools.cache
def _patterns(folders: bool) -> list[tuple[str, re.Pattern[str]]]:
    names = _FOLDERS if folders else _FILES
    return [(text, re.compile("|".join(map(translate, patterns)))) for text, patterns in names.items()]
