"""Record the models and data sets on the Hub, and the addresses of services, that the user of this machine named.

An index from elsewhere names the model that made its rows, and perhaps a service that searches them. Such a name is used only
if the user gave it: as an argument, in an environment variable, or once before, which a file of the user's own records.
The token of the Hub is sent for such names only ([`token_for`]).
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from d2vpr_hf.utils.atomic_files import make_folder, store_files
from d2vpr_hf.utils.bounded_files import parse_json
from d2vpr_hf.utils.hub_ids import split_revision

logger = logging.getLogger(__name__)

Kind = Literal["models", "datasets", "addresses"]
VARIABLES: dict[Kind, str] = {  # names separated by commas
    "models": "D2VPR_MODELS",
    "datasets": "D2VPR_DATASETS",
    "addresses": "D2VPR_ADDRESSES",
}
FOLDER_VARIABLE = "D2VPR_CONFIG"  # the folder of the file; otherwise that of settings of the system
_FILE = "confirmed.json"
_MAX_BYTES = 1 << 20
_given: dict[Kind, set[str]] = {kind: set() for kind in VARIABLES}  # in this process, also where the file cannot be written


def is_confirmed(kind: Kind, name: str, key: Callable[[str], str] | None = None) -> bool:
    """Return whether the user gave a name, now or before.

    Args:
        kind: Kind of the name.
        name: The name, as a file from elsewhere records it.
        key: Returns the recorded form of a name in the environment variable, and raises ValueError or ImportError if there is
            none; `None` if names are recorded unchanged.
    """
    plain = _plain(name)
    return plain in _given[kind] or plain in _in_environment(kind, key) or plain in _read().get(kind, ())


def token_for(kind: Kind, name: str, token: str | None = None) -> str | bool | None:
    """Return the token to send to the Hub for a name from elsewhere: `False`, which is none, unless the user gave the name.

    Args:
        kind: Kind of the name.
        name: Hub id, without a revision.
        token: Token of the user; `None` for that of `hf auth login`.
    """
    return token if is_confirmed(kind, name) else False


def confirm(kind: Kind, name: str) -> None:
    """Record a name that the user gave. Never call this with a name that a file from elsewhere contains."""
    _given[kind].add(_plain(name))
    names = _read()
    if _plain(name) in names.get(kind, ()):
        return
    names[kind] = sorted({*names.get(kind, ()), _plain(name)})
    try:
        make_folder(confirmed_file().parent)
        store_files(confirmed_file().parent, {_FILE: (json.dumps(names, indent=1) + "\n").encode()})
    except OSError as error:
        logger.info("%s is confirmed for this process only, because the file of such names cannot be written: %s", name, error)


def confirmed_file() -> Path:
    """Return the path of the file that records names.

    Raises:
        FileNotFoundError: If the user has no home folder, and no variable names another one.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        return Path(folder) / _FILE
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "d2vpr" / _FILE
    except RuntimeError as error:
        raise FileNotFoundError(f"there is no home folder; set {FOLDER_VARIABLE} to a folder") from error


def _read() -> dict[str, list[str]]:
    """Return the recorded names by their kind; nothing if the file is missing or damaged."""
    path = None
    try:
        path = confirmed_file()
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        values = parse_json(path.read_bytes())
        return {str(kind): [str(name) for name in names] for kind, names in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read (%s), so that names which were confirmed before are asked for again.", path, error)
        return {}


def _in_environment(kind: Kind, key: Callable[[str], str] | None) -> Iterator[str]:
    """Yield the names in the environment variable of a kind."""
    for text in filter(None, map(str.strip, os.environ.get(VARIABLES[kind], "").split(","))):
        name = text if kind == "addresses" else split_revision(text)[0]
        with contextlib.suppress(ImportError, ValueError):  # it is of another service, or the library is not installed
            name = name if key is None else key(name)
        yield _plain(name)


def _plain(name: str) -> str:
    return name.strip().rstrip("/")
