"""Open models of the Hub's cache, or report that they are not there, at once where the Hub cannot be reached.

Importing this module loads no library.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from d2vpr_hf.pretrained.model_files import CONFIG_NAME
from d2vpr_hf.utils.confirmed_names import VARIABLES, confirm, is_confirmed
from d2vpr_hf.utils.hub_ids import is_hub_id

logger = logging.getLogger(__name__)

_SECONDS = 5.0  # to wait for an answer of the Hub
_lock = threading.RLock()  # the client has one switch for all threads: models of the Hub are opened one at a time


@contextlib.contextmanager
def offline_if_unreachable(name: Any, revision: str | None = None) -> Iterator[None]:
    """Set the Hub's client offline while a model is opened, if the Hub cannot be reached.

    The client would try each missing file for half a minute, and models lack most files that are looked for.

    Args:
        name: Hub id of the model; with anything else, nothing is changed.
        revision: Branch, tag or commit.
    """
    if not _is_on_hub(name):
        yield
        return
    from huggingface_hub import constants

    with _lock:
        if constants.HF_HUB_OFFLINE or _is_reachable(name):
            yield
            return
        if _is_cached(name, revision):
            logger.warning("The Hub cannot be reached: the model %s is read from its cache.", name)
        with _offline():
            yield


@contextlib.contextmanager
def cached_if_unconfirmed(name: Any, revision: str | None = None) -> Iterator[None]:
    """Open a model that an index names from the Hub's cache alone, unless the user gave its name on this machine.

    An index from elsewhere could name any repository.

    Raises:
        ValueError: If the model is not complete in the cache.
    """
    if not needs_confirmation(name):
        yield
        return
    from huggingface_hub import constants

    with _lock:
        if constants.HF_HUB_OFFLINE:  # by the user
            yield
            return
        try:
            with _offline():
                yield
        except (OSError, ValueError) as error:
            if _is_cached(name, revision) and not (isinstance(error, OSError) and _lacks_file(error)):
                raise
            raise ValueError(
                f"The index names the model {name} of the Hub, which is not in the cache and which you did not give on this "
                f'machine, so that it is not downloaded. Give `model="{name}"` if you trust it, which is recorded for later '
                f"runs, or set the environment variable {VARIABLES['models']}={name}."
            ) from error


def needs_confirmation(name: Any) -> bool:
    """Return whether a name is that of a model on the Hub which the user never gave on this machine."""
    return _is_on_hub(name) and not is_confirmed("models", name)


def confirm_if_on_hub(name: Any) -> None:
    """Record a name that the user gave, if it is that of a model on the Hub."""
    if _is_on_hub(name):
        confirm("models", name)


def _is_on_hub(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and is_hub_id(name) and not Path(name).exists()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    from huggingface_hub import constants

    with _lock:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def _lacks_file(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, says that a file is neither in the cache nor downloaded."""
    while error is not None:
        if isinstance(error, FileNotFoundError | ConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_cached(name: str, revision: str | None) -> bool:
    """Return whether the cache has a folder for a model, at a revision."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    return (cache / "snapshots" / (revision or "")).is_dir() or (cache / "refs" / (revision or "main")).is_file()


def _is_reachable(name: str) -> bool:
    """Return whether the Hub answers, whatever its answer is."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG_NAME), timeout=_SECONDS)
    except HfHubHTTPError:
        return True
    except Exception:  # without a connection, versions of the Hub's client raise errors of different libraries
        return False
    return True
