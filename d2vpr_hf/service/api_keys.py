"""Keys that clients must send: read from a file or the environment, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path

from d2vpr_hf.utils.regular_files import open_regular_file

KEY_VARIABLE = "D2VPR_API_KEY"  # a variable of the environment
FILE_VARIABLE = "D2VPR_API_KEY_FILE"
_SHORTEST = 16  # characters
_LARGEST_FILE = 65_536  # bytes


class ApiKeys:
    """The keys that are accepted.

    Args:
        keys: The keys; none means that every request is accepted.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, key: str | None) -> bool:
        """Return whether a key is one of these. The time does not depend on the key, nor on which one it equals."""
        if not self._digests:
            return True
        digest = _digest(key or "")
        return sum(hmac.compare_digest(digest, accepted) for accepted in self._digests) > 0


def read_api_keys(file: Path | None, environment: Mapping[str, str]) -> ApiKeys:
    """Read the keys of a file, one a line, or else those that the environment states.

    Args:
        file: The file; `None` for the one that `D2VPR_API_KEY_FILE` names, or the key in `D2VPR_API_KEY`.
        environment: The variables of the environment.

    Raises:
        ValueError: If the file cannot be read or has no key, or a key is short.
    """
    named = environment.get(FILE_VARIABLE)
    if file is None and named:
        file = Path(named)
    if file is None:
        key = environment.get(KEY_VARIABLE, "").strip()
        return ApiKeys([_checked(key, f"the variable {KEY_VARIABLE}")] if key else [])
    try:
        with open_regular_file(file, _LARGEST_FILE) as stream:
            lines = [line.strip() for line in stream.read().decode("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ValueError(
            f"The file of API keys {file} cannot be read: {reason}. Write a key a line; `openssl rand -hex 32` makes a good "
            "one."
        ) from error
    keys = [_checked(line, str(file)) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"The file of API keys {file} has no key. Write one a line; lines that begin with # are comments.")
    return ApiKeys(keys)


def _checked(key: str, source: str) -> str:
    if len(key) < _SHORTEST or not key.isascii() or not key.isprintable():
        raise ValueError(
            f"Expected API keys of at least {_SHORTEST} printable ASCII characters in {source}, got one of {len(key)}. "
            "`openssl rand -hex 32` makes a good one."
        )
    return key


def _digest(key: str) -> bytes:
    """Return the hash of a key: hashes have one length, so that comparing them shows nothing about the length of keys."""
    return hashlib.sha256(key.encode()).digest()
