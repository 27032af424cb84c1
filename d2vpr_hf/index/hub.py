"""Indexes on the Hugging Face Hub, each in a data set repository that holds its files."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

_PATTERNS = ["manifest.json", "descriptors-*.safetensors", "places-*.parquet", "calibration-*.json"]


def push_index(
    folder: Path, files: Sequence[str], name: str, *, private: bool | None, commit_message: str, token: str | None
) -> str:
    """Upload the files of an index in one commit that removes those of an earlier index; return the URL of the commit."""
    api = HfApi(token=token)
    repository = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repository.repo_id,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=list(files),
        delete_patterns=_PATTERNS,
        commit_message=commit_message,
    )
    return str(commit.commit_url)


def fetch_index(name: str, *, revision: str | None, token: str | bool | None) -> Path:
    """Download an index, unless it is in the cache, and return its folder.

    Raises:
        FileNotFoundError: If there is no such data set, or it is not in the cache and the Hub cannot be reached.
    """
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, token=token, allow_patterns=_PATTERNS))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"There is no index folder {name}, and the Hub gave no data set of that name: {error}"
        ) from error
