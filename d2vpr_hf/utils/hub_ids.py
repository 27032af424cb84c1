"""Read names of repositories on the Hugging Face Hub: `user/name`, and `user/name@revision`. This module loads no library."""

import re
from pathlib import Path

_PART = r"[\w-][\w.-]*"
_HUB_ID = re.compile(rf"{_PART}/{_PART}")
_OLD_HUB_ID = re.compile(_PART)  # of models and data sets from before names had users


def is_hub_id(text: str, *, needs_user: bool = True) -> bool:
    """Return whether a text has the form of a repository's name; without `needs_user`, `name` alone too."""
    return _HUB_ID.fullmatch(text) is not None or (not needs_user and _OLD_HUB_ID.fullmatch(text) is not None)


def split_revision(text: str) -> tuple[str, str | None]:
    """Split `user/name@revision` into the name and the revision, which is `None` if there is none."""
    name, _, revision = text.partition("@")
    return name, revision or None


def public_name(name: str) -> str:
    """Return the name of a model or a folder, without its path on this machine."""
    path = Path(name)
    return path.name if path.exists() or path.is_absolute() else name
