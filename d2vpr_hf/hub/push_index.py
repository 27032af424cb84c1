"""Upload an index to the Hugging Face Hub."""

from pathlib import Path

from d2vpr_hf.index import PlaceIndex


def push_index(
    folder: str | Path,
    name: str,
    *,
    private: bool | None = None,
    commit_message: str = "Upload a PlaceIndex",
    token: str | None = None,
) -> str:
    """Upload an index to a data set repository; see [`PlaceIndex.push_to_hub`]. Returns the URL of the commit."""
    with PlaceIndex.open(folder) as index:
        return index.push_to_hub(name, private=private, commit_message=commit_message, token=token)
