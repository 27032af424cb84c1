"""Fetch the files of a repository and unpack them, without executing any of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from d2vpr_hf.import_hub.hub_source import HubSource
from d2vpr_hf.utils.atomic_files import folder_checksums
from d2vpr_hf.utils.regular_files import stays_inside

MAX_FILES = 20_000
MAX_BYTES = 1 << 30  # of all files; code is small, and weights come by other ways
MAX_DOWNLOAD = 512 << 20

_BLOCK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


def fetch_code(source: HubSource, folder: Path) -> str:
    """Unpack a repository into an empty folder: download the commit, or copy local code.

    Returns:
        The SHA-256 of the names and contents of all files, in hexadecimal.

    Raises:
        ValueError: If the archive is of another commit, holds paths or links that leave it, or is too large.
        FileNotFoundError: If the repository or commit does not exist.
        OSError: If the server does not answer.
    """
    folder.mkdir(parents=True)
    local = Path(source.repository)
    if source.is_local and local.is_dir():
        _copy(local, folder)
    elif source.is_local:
        _unpack(local, folder, None)
    else:
        archive = folder.with_suffix(".zip")
        _download(source, archive)
        _unpack(archive, folder, source.commit)
        archive.unlink()
    return hash_files(folder)


def hash_files(folder: Path) -> str:
    """Return a SHA-256 of the names and contents of all files in a folder; the times and modes of files do not matter."""
    total = hashlib.sha256()
    for name, content in folder_checksums(folder).items():
        total.update(f"{content}  {name}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _download(source: HubSource, archive: Path) -> None:
    request = urllib.request.Request(source.archive_url, headers={"User-Agent": "d2vpr-hf"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, archive.open("wb") as file:
            size = 0
            while block := response.read(_BLOCK):
                size += len(block)
                if size > MAX_DOWNLOAD:
                    raise ValueError(
                        f"The archive of {source} is larger than {MAX_DOWNLOAD >> 20} MiB. Give a folder of it instead."
                    )
                file.write(block)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError(
                f"{source.archive_url} does not exist: there is no repository {source.repository}, it is private, or it has no "
                f"commit {source.commit}."
            ) from error
        raise OSError(f"{source.archive_url} cannot be downloaded: {error}.") from error
    except urllib.error.URLError as error:
        raise OSError(
            f"{source.archive_url} cannot be downloaded: {error.reason}. Without a network, give a folder or zip file of the "
            "repository in place of its name."
        ) from error


def _unpack(archive: Path, folder: Path, commit: str | None) -> None:
    """Unpack a zip file without the folder at its top that holds all its files, as archives of GitHub have it."""
    try:
        with zipfile.ZipFile(archive) as file:
            _check_commit(file, commit)
            members = [member for member in file.infolist() if not member.is_dir()]
            _check_bounds(len(members), sum(member.file_size for member in members))
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise ValueError(f"The archive {archive.name} is not compressed as usual zip files are. Give a folder instead.")
            paths = [_safe_path(member.filename, member.external_attr >> 16) for member in members]
            if len(set(paths)) != len(paths):
                raise ValueError("The archive has two files of one name. Nothing of it was unpacked.")
            top = {path.parts[0] for path in paths}
            depth = 1 if len(top) == 1 and all(len(path.parts) > 1 for path in paths) else 0
            for member, path in zip(members, paths, strict=True):
                target = folder.joinpath(*path.parts[depth:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as content, target.open("xb") as out:
                    shutil.copyfileobj(content, out, _BLOCK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"The archive {archive.name} cannot be unpacked: {error}.") from error


def _check_commit(file: zipfile.ZipFile, commit: str | None) -> None:
    """Raise ValueError if an archive names another commit: `git archive` writes its commit into the comment of the zip file."""
    written = file.comment.decode("ascii", "replace")
    if commit is not None and written and written != commit:
        raise ValueError(f"The server sent an archive of {written!r} for the commit {commit}. Nothing of it was unpacked.")


def _safe_path(name: str, mode: int) -> PurePosixPath:
    """Return the path of an archive's file.

    Raises:
        ValueError: If it leaves the folder that the archive is unpacked into, or is not a file.
    """
    if not stays_inside(name):
        raise ValueError(f"The archive has a file {name!r}, which leaves its folder. Nothing of it was unpacked.")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise ValueError(
            f"The archive has a link or special file, {name!r}; these can lead out of its folder. Nothing of it was unpacked."
        )
    return PurePosixPath(name)


def _check_bounds(count: int, size: int) -> None:
    if count > MAX_FILES or size > MAX_BYTES:
        raise ValueError(
            f"The repository has {count} files of {size / 2**20:.0f} MiB together; at most {MAX_FILES} files of "
            f"{MAX_BYTES >> 20} MiB are read. Give a folder with its code alone."
        )


def _copy(local: Path, folder: Path) -> None:
    """Copy a folder without its version control."""
    count = size = 0
    for path in _walk(local):
        mode = path.lstat().st_mode
        name = path.relative_to(local).as_posix()
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is a link or special file; these can lead out of the folder. Remove it from a copy.")
        count, size = count + 1, size + path.lstat().st_size
        _check_bounds(count, size)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target, follow_symlinks=False)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all that is not a folder, without following links, except git's own folder and Python's caches."""
    for current, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(current) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in (".git", "__pycache__") and name not in links]
        yield from (Path(current) / name for name in [*names, *links])
