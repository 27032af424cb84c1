"""Uploads to the Hugging Face Hub: a repository gets its files in one commit, which also removes files of earlier uploads."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceHardware
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

# of the HTTP library that the client uses, which is another in each major version; connections that fail raise it
_TransferError: type[Exception] = HfHubHTTPError.__bases__[0]
RepositoryKind = Literal["model", "dataset", "space"]


def check_repository_name(name: str) -> None:
    """Raise ValueError unless a name has the form `user/name` that the Hub accepts."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} cannot be the name of a repository on the Hub: {error}") from error
    if name.count("/") != 1:
        raise ValueError(f"Expected a name on the Hub such as user/name, got {name!r}.")


def create_repository(
    name: str,
    kind: RepositoryKind,
    *,
    private: bool | None = None,
    token: str | None = None,
    hardware: SpaceHardware | None = None,
) -> None:
    """Create a repository on the Hub if there is none; arguments and errors as for [`upload_files`].

    `hardware` is that of a new Space; `None` for the Hub's choice.
    """
    check_repository_name(name)
    api = HfApi(token=token)
    with explained_errors(name):
        sdk = "gradio" if kind == "space" else None
        api.create_repo(name, repo_type=kind, space_sdk=sdk, space_hardware=hardware, private=private, exist_ok=True)
        is_private = private if private is None else api.repo_info(name, repo_type=kind).private
    check_visibility(name, is_private, private)


def check_visibility(name: str, is_private: bool | None, private: bool | None) -> None:
    """Raise ValueError if a repository exists with another visibility than the one given; `None` for any."""
    if private is not None and is_private != private:
        raise ValueError(
            f"{name} is {'private' if is_private else 'public'} on the Hub already, which `private={private}` does not change. "
            f"Nothing was uploaded. Change it in the settings of the repository, or leave `private={private}` out."
        )


def upload_files(
    name: str,
    files: Mapping[str, Path | bytes],
    *,
    kind: RepositoryKind,
    stale: Sequence[str] = (),
    private: bool | None = None,
    commit_message: str,
    token: str | None = None,
) -> str:
    """Upload files to a repository, which is created if there is none, and remove the stale files there, in one commit.

    Args:
        name: The repository, such as `"user/name"`.
        files: Contents by their paths in the repository: a file on this machine, or bytes.
        kind: Kind of the repository.
        stale: Patterns of paths; files in the repository that match and are not uploaded now are removed.
        private: Whether a new repository is private; `None` for the account's default.
        commit_message: Message of the commit.
        token: Access token; by default that of `hf auth login`.

    Returns:
        The URL of the commit.

    Raises:
        ConnectionError: If the Hub cannot be reached, or fails.
        PermissionError: If the Hub refuses the token, or there is none.
        ValueError: If the name or the metadata of the card is invalid, or the repository has another visibility.
    """
    create_repository(name, kind, private=private, token=token)
    api = HfApi(token=token)
    with explained_errors(name):
        there = [
            path
            for path in api.list_repo_files(name, repo_type=kind)
            if path not in files and any(fnmatch.fnmatchcase(path, pattern) for pattern in stale)
        ]
        additions = [
            CommitOperationAdd(path, content if isinstance(content, bytes) else str(content)) for path, content in files.items()
        ]
        commit = api.create_commit(
            name,
            [*additions, *map(CommitOperationDelete, there)],
            repo_type=kind,
            commit_message=commit_message,
        )
    return str(commit.commit_url)


@contextmanager
def explained_errors(name: str) -> Iterator[None]:
    """Turn errors of the Hub's client into errors that name the remedy."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError(f"{name} cannot be uploaded while HF_HUB_OFFLINE is set. Unset it.") from error
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise ConnectionError(f"{name} was not uploaded: the Hub failed ({error}). Upload it again later.") from error
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"The Hub does not let you write to {name}: {error}\nLog in with `hf auth login`, or set HF_TOKEN, with a token "
            "that may write there."
        ) from error
    except _TransferError as error:
        raise ConnectionError(f"{name} was not uploaded: the Hub cannot be reached ({error}).") from error
