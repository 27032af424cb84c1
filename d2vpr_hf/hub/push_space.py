"""Publish the Space on the Hugging Face Hub: the page, this package and the settings, in one commit."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import HfApi, SpaceHardware

from d2vpr_hf.hub.space_files import CPU_HARDWARE, HARDWARE, STALE, read_package, space_files
from d2vpr_hf.hub.space_sources import check_sources
from d2vpr_hf.hub.uploads import check_repository_name, create_repository, explained_errors, upload_files

logger = logging.getLogger(__name__)

_TOKEN = "HF_TOKEN"
_OWN_VARIABLES = ("D2VPR_INDEX", "D2VPR_MODEL")


def push_space(
    name: str,
    *,
    model: str | None = None,
    index: str | None = None,
    wheel: Path | None = None,
    hardware: str | None = None,
    variables: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    private: bool | None = None,
    commit_message: str = "Upload the Space",
    token: str | None = None,
) -> str:
    """Upload the Space to the Hugging Face Hub, with this package in it, so that private Spaces build too.

    The Space loads its index and its model in the revisions that they have now; push it again after changing them.

    Args:
        name: The Space, such as `"user/where"`; it is created if there is none.
        model: Hub id of the model; `None` for the model of the index, or the embedded one without an index.
        index: Hub id of the index, such as `"user/map"`; `None` for a simulated town.
        wheel: A wheel of this package to take the files from; by default they are those of this installation.
        hardware: Hardware to ask for, such as `"cpu-basic"` or `"zero-a10g"` (ZeroGPU); `None` keeps that of the Space, or what
            the Hub gives a new one.
        variables: Other environment variables of the Space, such as `{"D2VPR_TILES": ...}`.
        secrets: Secrets of the Space, such as `{"HF_TOKEN": ...}`, which a private index or model needs.
        private: Whether a new Space is private; `None` for the account's default.
        commit_message: Message of the commit.
        token: Access token; by default that of `hf auth login`.

    Returns:
        The URL of the commit.

    Raises:
        ConnectionError: If the Hub cannot be reached.
        FileNotFoundError: If the wheel or a folder of the installation is missing.
        PermissionError: If the Hub refuses the token, or there is none.
        ValueError: If the hardware is unknown, the wheel is of another package or version, the Space cannot load the model
            or the index, or it exists with the other visibility.
    """
    check_repository_name(name)
    if hardware is not None and hardware not in HARDWARE:
        raise ValueError(f"There is no `hardware={hardware!r}` on the Hub. Expected one of {', '.join(HARDWARE)}.")
    if wheel is not None and not wheel.is_file():
        raise FileNotFoundError(f"There is no wheel {wheel}; expected a file such as d2vpr_hf-0.1.0-py3-none-any.whl.")
    api = HfApi(token=token)
    with explained_errors(name):
        sources = check_sources(model, index, token)
        package = read_package(wheel)
        hardware = _create(api, name, hardware, private, token)
        _set_variables(api, name, {**(variables or {}), **sources.variables})
        for key, value in (secrets or {}).items():
            api.add_space_secret(name, key, value)
        if sources.private and _TOKEN not in api.get_space_secrets(name):
            logger.warning(_token_text(name, sources.private))
    files = space_files(name, package, hardware=hardware, model=sources.model, index=sources.index)
    return upload_files(name, files, kind="space", stale=STALE, commit_message=commit_message, token=token)


def _create(api: HfApi, name: str, hardware: str | None, private: bool | None, token: str | None) -> str:
    """Create the Space if there is none, ask for its hardware, and return the hardware that it will have."""
    wanted = None if hardware is None else SpaceHardware(hardware)
    is_new = not api.repo_exists(name, repo_type="space")
    create_repository(name, "space", private=private, token=token, hardware=wanted)
    runtime = api.get_space_runtime(name)
    present = runtime.requested_hardware or runtime.hardware or CPU_HARDWARE[0]
    if wanted is None:
        return str(present)
    if not is_new and wanted != present:
        api.request_space_hardware(name, wanted)
    return wanted.value


def _set_variables(api: HfApi, name: str, variables: Mapping[str, str]) -> None:
    """Set variables of a Space where they differ, and remove the model and the index of an earlier upload."""
    present = {key: variable.value for key, variable in api.get_space_variables(name).items()}
    for key in _OWN_VARIABLES:
        if key in present and key not in variables:
            api.delete_space_variable(name, key)
    for key, value in variables.items():
        if present.get(key) != value:
            api.add_space_variable(name, key, value)


def _token_text(name: str, private: Sequence[str]) -> str:
    subject, pronoun = (f"{private[0]} is", "it") if len(private) == 1 else (f"{' and '.join(private)} are", "them")
    return (
        f"{subject} private, and the Space {name} has no secret {_TOKEN}: it cannot load {pronoun}. Add the secret, a token "
        f"that may read {pronoun}, in the Space's settings or by `secrets=...`. Everybody who can open the Space then sees its "
        f"answers from {pronoun}."
    )
