"""The model of an index that is uploaded: one that other people can load, at the commit that made the descriptors."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from d2vpr_hf.backends.verification import REFERENCES_FILE
from d2vpr_hf.hub.uploads import check_repository_name, explained_errors
from d2vpr_hf.index import IndexSettings
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.utils.confirmed_names import token_for
from d2vpr_hf.utils.hub_ids import split_revision

logger = logging.getLogger(__name__)

_MODEL_FILES = ["*.json", "*.safetensors", "*.onnx*", "model*", "onnx/model*", REFERENCES_FILE, "LICENSE*"]
_REMEDIES = (
    'Name it by its Hub id with `model="user/model"` if it is on the Hub, or upload it too with `push_model="user/model"`.'
)
NOT_SENT = ' The index names this model, so that your token was not sent: give `model="{name}"` if it is private.'


@dataclass(frozen=True)
class PublicModel:
    """A model that other people can load.

    Attributes:
        name: Hub id, or `"embedded"` for the model in this package.
        revision: Its commit on the Hub; `None` for the embedded model.
        is_private: Whether only its owner can load it.
    """

    name: str
    revision: str | None = None
    is_private: bool = False


def find_public_model(settings: IndexSettings, name: str | None, token: str | None) -> PublicModel:
    """Return the model of an index as other people load it.

    Args:
        settings: The settings of the index.
        name: Hub id of the model, such as `"user/model"` or `"user/model@revision"`; `None` for the name in the settings.
        token: Access token; by default that of `hf auth login`.

    Raises:
        ValueError: If the name is a folder on this machine, there is no such model on the Hub, or it does not make the
            descriptors of the index.
    """
    recorded = settings.model_name
    _check_has_model(settings)
    if name is None:
        if recorded is None and not _makes_descriptors(settings, EMBEDDED_NAME, None, token):
            raise ValueError(f"The model of this index was never saved, so that other people cannot load it. {_REMEDIES}")
        if recorded is not None and recorded != EMBEDDED_NAME and _is_folder(recorded):
            raise ValueError(f"The model of this index is a folder on this machine, {recorded}. {_REMEDIES}")
        name = recorded or EMBEDDED_NAME
    elif name != EMBEDDED_NAME:
        if Path(name).exists():
            raise ValueError(f"{name} is a folder on this machine. Expected `model` to be a Hub id such as user/model.")
        check_repository_name(split_revision(name)[0])
    if name == EMBEDDED_NAME:
        _check_descriptors(settings, PublicModel(EMBEDDED_NAME), token)
        return PublicModel(EMBEDDED_NAME)
    name, revision = split_revision(name)
    sent = token_for("models", name, token)  # `push_index` confirms a name that it is given
    model = _ask_hub(name, revision or (settings.model_revision if name == recorded else None), sent)
    if name != recorded or model.revision != settings.model_revision:  # another branch may have other weights
        _check_descriptors(settings, model, sent)
    return model


def check_model_to_push(settings: IndexSettings, name: str) -> str:
    """Return the folder of an index's model, or `"embedded"`, after checking that it still makes the descriptors of the index.

    Args:
        settings: The settings of the index.
        name: Hub id that the model will be uploaded to.

    Raises:
        ValueError: If the model was never saved, is on the Hub already, or was changed since the index was built.
    """
    source = settings.model_name
    _check_has_model(settings)
    if source is None:
        raise ValueError(
            "The model of this index was never saved, so that it cannot be uploaded. Save it, upload it with `d2vpr push`, and "
            'name it with `model="user/model"`.'
        )
    check_repository_name(name)
    if source != EMBEDDED_NAME and not _is_folder(source):
        raise ValueError(f"The model of this index is on the Hub already, {source}. Leave `push_model` out.")
    if not _makes_descriptors(settings, source, None, None):
        raise ValueError(f"The model {source} has changed since the index was built, so that it makes other descriptors.")
    return source


def _check_has_model(settings: IndexSettings) -> None:
    """Raise ValueError if an index holds descriptors that another program made."""
    if settings.descriptor_name is not None:
        raise ValueError(
            f"This index holds descriptors that another program made, under the name {settings.descriptor_name!r}. An index is "
            "uploaded with the name of the model that encodes photos for it, and this one has none. `hf upload` "
            "uploads its folder."
        )


def push_model_of_index(source: str, name: str, private: bool | None, token: str | None) -> PublicModel:
    """Upload the model that [`check_model_to_push`] returned, and return it as others load it."""
    from d2vpr_hf.hub.push_model import push_model

    push_model(source, name, private=private, token=token)
    return _ask_hub(name, None, token)


def warn_of_private_model(model: PublicModel, index_name: str, token: str | None) -> None:
    """Log a warning if an index on the Hub is public and its model is not."""
    if model.is_private and not HfApi(token=token).dataset_info(index_name).private:
        logger.warning("The model %s is private: people who find the index %s cannot search it.", model.name, index_name)


def _ask_hub(name: str, revision: str | None, token: str | bool | None) -> PublicModel:
    """Return the commit of a model on the Hub that a revision names, or its main branch."""
    with explained_errors(name):
        try:
            information = HfApi(token=token).model_info(name, revision=revision)
        except RevisionNotFoundError as error:
            raise ValueError(
                f"The model {name} on the Hub has no revision {revision}. If another model on the Hub makes the descriptors of "
                'this index, name it with `model="user/model"`.'
            ) from error
        except RepositoryNotFoundError as error:
            raise ValueError(
                f"There is no model {name} on the Hub, or your token may not read it. `d2vpr push` uploads a model."
                + (NOT_SENT.format(name=name) if token is False else "")
            ) from error
    return PublicModel(name, information.sha, bool(information.private))


def _check_descriptors(settings: IndexSettings, model: PublicModel, token: str | bool | None) -> None:
    if not _makes_descriptors(settings, model.name, model.revision, token):
        commit = f" at its commit {model.revision[:12]}" if model.revision else " of this version of the package"
        raise ValueError(
            f"The model {model.name}{commit} does not make the descriptors of this index, which need the fingerprint "
            f"{settings.fingerprint[:12]}. {_REMEDIES}"
        )


def _makes_descriptors(settings: IndexSettings, name: str, revision: str | None, token: str | bool | None) -> bool:
    """Return whether a model or an exported graph has the fingerprint of an index; one on the Hub is downloaded."""
    from d2vpr_hf.encoders.open_model import open_model
    from d2vpr_hf.model_info.known_models import find_known
    from d2vpr_hf.model_info.model_options import ModelOptions

    if revision is not None:
        known = find_known(name)
        patterns = _MODEL_FILES if known is None or known.onnx is None else [f"{known.onnx.name}*", "*.json"]
        name = snapshot_download(name, revision=revision, token=token, allow_patterns=patterns)
    options = ModelOptions.from_dict(settings.model_options)
    return open_model(name, device="cpu", options=options).fingerprint == settings.fingerprint


def _is_folder(name: str) -> bool:
    """Return whether the model's name in an index is a folder; the names of folders are absolute paths."""
    return Path(name).is_absolute() or name.count("/") > 1
