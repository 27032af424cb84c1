"""Record the models on the Hub and the addresses of services that the user of this machine named.

An index from elsewhere names the model that made its rows, and perhaps a service that searches them. Such a name is used only
if the user gave it: as an argument, in an environment variable, or once before, which a file of the user's own records.
"""

import json
import logging
import os
from pathlib import Path
from typing import Literal

from d2vpr_hf.utils.atomic_files import make_folder, store_files
from d2vpr_hf.utils.bounded_files import parse_json

logger = logging.getLogger(__name__)

Kind = Literal["models", "addresses"]
VARIABLES: dict[Kind, str] = {"models": "D2VPR_MODELS", "addresses": "MILVUS_URI"}  # names separated by commas
FOLDER_VARIABLE = "D2VPR_CONFIG"  # the folder of the file; otherwise that of settings of the system
_FILE = "confirmed.json"
_MAX_BYTES = 1 << 20
_given: dict[Kind, set[str]] = {"models": set(), "addresses": set()}  # in this process, also where the file cannot be written


def is_confirmed(kind: Kind, name: str) -> bool:
    """Return whether the user gave a name, now or before."""
    variable = os.environ.get(VARIABLES[kind], "")
    return _plain(name) in _given[kind].union(map(_plain, variable.split(",")), _read().get(kind, ()))


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
    """Return the path of the file that records names."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        return Path(folder) / _FILE
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "d2vpr" / _FILE


def _read() -> dict[str, list[str]]:
    """Return the recorded names by their kind; nothing if the file is missing or damaged."""
    path = confirmed_file()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        values = parse_json(path.read_bytes())
        return {str(kind): [str(name) for name in names] for kind, names in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s cannot be read (%s), so that names which were confirmed before are asked for again.", path, error)
        return {}


def _plain(name: str) -> str:
    return name.strip().rstrip("/")
