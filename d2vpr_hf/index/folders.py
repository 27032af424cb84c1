"""Where an index may be written: nothing but an index is ever replaced."""

import json
import os
from pathlib import Path

from d2vpr_hf.index.manifest import FORMAT_VERSION, MANIFEST, is_own_file
from d2vpr_hf.index.writer_lock import LOCK
from d2vpr_hf.utils.atomic_files import TEMPORARY, check_writable


def check_free(out: Path, overwrite: bool) -> Path:
    """Return where an index to be written to `out` will really lie, links followed.

    Raises:
        FileExistsError: If something is there already, unless `overwrite` is set and it is an index.
        PermissionError: If its parent folder cannot be written to.
    """
    place = check_out(out)
    if place.exists() and not _is_free(place) and not overwrite:
        raise FileExistsError(f"{out} exists already. Give another folder, or `--overwrite` to replace the index there.")
    return place


def check_out(out: Path) -> Path:
    """Return where an index to be made, updated or replaced will really lie, links followed.

    Raises:
        FileExistsError: If something is there already that is no index.
        PermissionError: If its parent folder cannot be written to.
    """
    try:
        place = out.resolve()
    except RuntimeError as error:  # Python's word for links in a circle
        raise FileExistsError(f"{out} is a link that leads nowhere. Give another folder.") from error
    if _is_free(place):
        check_writable(out)
    elif not is_index(place):
        raise FileExistsError(f"{out} exists already and is no index; it is not touched. Give another folder.")
    return place


def is_index(folder: Path) -> bool:
    """Tell whether a folder holds an index that this version may replace: of its own format or the one before, or damaged."""
    try:
        values = json.loads((folder / MANIFEST).read_bytes())
        return values["format_version"] in (1, FORMAT_VERSION) and "fingerprint" in values
    except (OSError, KeyError, TypeError):
        return False
    except ValueError:  # no JSON any more
        names = [name for name in list_names(folder) if name != LOCK]
        return len(names) > 1 and all(map(is_own_file, names))


def list_names(folder: Path) -> list[str]:
    """List the names in a folder."""
    return os.listdir(folder)  # noqa: PTH208 - names are all that is wanted, and there are many


def _is_free(place: Path) -> bool:
    """Tell whether there is nothing, or a folder with nothing but what a build leaves that was killed at once."""
    if not place.exists():
        return True
    return place.is_dir() and all(name in (LOCK, MANIFEST + TEMPORARY) for name in list_names(place))
