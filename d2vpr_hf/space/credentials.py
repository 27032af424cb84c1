"""Removal of the operator's token: after model and index are loaded, the server needs none, and strangers talk to it."""

import os
from collections.abc import MutableMapping

_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_OIDC_RESOURCE")


def forget_token(environment: MutableMapping[str, str] = os.environ) -> None:
    """Remove the Hub's token from this process: from its environment, and the place where the token is saved."""
    from huggingface_hub import constants

    for name in _NAMES:
        environment.pop(name, None)
    environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    constants.HF_TOKEN_PATH = os.devnull
    constants.HF_STORED_TOKENS_PATH = os.devnull
