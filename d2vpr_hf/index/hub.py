"""Indexes on the Hugging Face Hub, each in a data set repository that holds its files."""

from pathlib import Path

from d2vpr_hf.index.manifest import MANIFEST
from d2vpr_hf.utils.hub_ids import split_revision

INDEX_FILES = [MANIFEST, "descriptors-*.safetensors", "places-*.parquet", "calibration-*.json", "fused-photos-*.parquet"]
TABLE_FILES = "data/train-*.parquet"  # of the table of places, with thumbnails if there are some
THUMBNAIL_SIZE = 256  # pixels of the longer side


def fetch_index(name: str, *, revision: str | None = None, token: str | bool | None = None, thumbnails: bool = False) -> Path:
    """Download an index, unless it is in the cache, and return its folder.

    Args:
        name: The data set, such as `"user/name"` or `"user/name@revision"`.
        revision: Branch, tag or commit, if the name has none.
        token: Access token; by default that of the user who is logged in.
        thumbnails: Whether to download the table of places too, which has the thumbnails if there are some.

    Raises:
        FileNotFoundError: If there is no such data set, or it is not in the cache and the Hub cannot be reached; or if the data
            set is not an index.
        ValueError: If a revision is given twice.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    repository, own_revision = split_revision(name)
    if own_revision is not None and revision is not None:
        raise ValueError(f"{name} names a revision, and `revision` is {revision!r}. Give one of them.")
    patterns = [*INDEX_FILES, *([TABLE_FILES] if thumbnails else [])]
    try:
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=own_revision or revision,
            token=token,
            allow_patterns=patterns,
        )
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"There is no index folder {name}, and the Hub gave no data set of that name: {error}"
        ) from error
    if not (Path(folder) / MANIFEST).is_file():
        raise FileNotFoundError(f"The data set {name} on the Hub is not an index: it has no {MANIFEST}.")
    return Path(folder)
