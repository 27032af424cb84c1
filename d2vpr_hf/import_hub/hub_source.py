"""The torch.hub repository, commit and entry that a user names, and the addresses of a GitHub server."""

from __future__ import annotations

import os
import re
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

SERVER_VARIABLE, API_VARIABLE = "GITHUB_SERVER_URL", "GITHUB_API_URL"  # as GitHub's own tools name them

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
_ENTRY = re.compile(r"[A-Za-z_]\w*")
_API_SECONDS = 10


@dataclass(frozen=True)
class HubSource:
    """A repository with code for torch.hub.

    Attributes:
        repository: `owner/name` on GitHub, or the path of a folder or zip file.
        commit: The full commit of a repository on GitHub; `None` for a local one.
    """

    repository: str
    commit: str | None

    @property
    def is_local(self) -> bool:
        """Whether the code is a folder or a zip file on this machine."""
        return self.commit is None

    @property
    def archive_url(self) -> str:
        """Address of the zip file of the commit."""
        server = os.environ.get(SERVER_VARIABLE, "https://github.com").rstrip("/")
        return f"{server}/{self.repository}/archive/{self.commit}.zip"

    @property
    def page_url(self) -> str:
        """Address of the files of the commit, for people."""
        server = os.environ.get(SERVER_VARIABLE, "https://github.com").rstrip("/")
        return f"{server}/{self.repository}/tree/{self.commit}"

    def __str__(self) -> str:
        return self.repository if self.is_local else f"{self.repository}@{self.commit}"


def parse_entry(text: str) -> tuple[HubSource, str]:
    """Read `REPO@COMMIT:ENTRY`, or `FOLDER:ENTRY` or `FILE.zip:ENTRY` for local code.

    Returns:
        The repository, and the name of the function that makes the model.

    Raises:
        ValueError: If a part is missing, or the commit is not a full one.
        FileNotFoundError: If there is no such folder or file.
    """
    repository, colon, entry = text.rpartition(":")
    if not colon or not _ENTRY.fullmatch(entry):
        raise ValueError(
            f"Expected REPO@COMMIT:ENTRY, such as gmberton/MegaLoc@COMMIT:get_trained_model, got {text!r}. ENTRY is the name "
            "of a function in the repository's hubconf.py. Names of `d2vpr models` stand for theirs."
        )
    return parse_source(repository), entry


def parse_source(text: str) -> HubSource:
    """Read `REPO@COMMIT`, or the path of a folder or a zip file.

    Raises:
        ValueError: If it is neither, or the commit is not a full one.
        FileNotFoundError: If there is no such folder or file.
    """
    path = Path(text).expanduser()
    if path.is_dir() or path.is_file():
        return HubSource(str(path.resolve()), None)
    repository, _, commit = text.partition("@")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        if text.startswith((".", "/", "~")) or text.endswith(".zip"):
            raise FileNotFoundError(f"There is no folder or zip file {text}.")
        raise ValueError(f"Expected a repository `owner/name@COMMIT` on GitHub, a folder or a zip file, got {text!r}.")
    if not _COMMIT.fullmatch(commit):
        raise ValueError(_commit_message(repository, commit))
    return HubSource(repository, commit)


def _commit_message(repository: str, reference: str) -> str:
    """Return the error for a repository without a full commit, with the commit that the reference has now if it can be read."""
    server = os.environ.get(SERVER_VARIABLE, "https://github.com").rstrip("/")
    got = f"{reference!r} may change" if reference else "no commit is given"
    message = (
        f"Code is only taken from a full commit, of 40 hexadecimal digits in small letters: {got}, and a branch, a tag or a "
        "short hash could become other code than you read. "
    )
    commit = resolve_commit(repository, reference or "HEAD")
    if commit is not None:
        return (
            message
            + f"{reference or 'The default branch'} is at {commit} now: read that code, then give {repository}@{commit}."
        )
    return message + f"`git ls-remote {server}/{repository} {reference or 'HEAD'}` prints the commit."


def resolve_commit(repository: str, reference: str) -> str | None:
    """Ask GitHub for the commit of a branch, a tag or a short hash; `None` if it does not answer."""
    api = os.environ.get(API_VARIABLE, "https://api.github.com").rstrip("/")
    request = urllib.request.Request(
        f"{api}/repos/{repository}/commits/{urllib.parse.quote(reference, safe='')}",
        headers={"Accept": "application/vnd.github.sha", "User-Agent": "d2vpr-hf"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_API_SECONDS) as response:
            commit: str = response.read(100).decode("ascii", "replace").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None
