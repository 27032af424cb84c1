"""The model and the index of a Space, checked on the Hub before the Space is published."""

import contextlib
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from d2vpr_hf.backends.exported_model import INFO_FILE
from d2vpr_hf.hub.index_models import NOT_SENT
from d2vpr_hf.hub.space_files import ModelOnHub
from d2vpr_hf.index.manifest import MANIFEST, IndexSettings, read_manifest
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_card import CARD_FILE, read_card
from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.utils.confirmed_names import token_for
from d2vpr_hf.utils.hub_ids import split_revision

_CONFIG_FILES = ("config.json", "preprocessor_config.json")
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_OTHER_FILES = ("processor_config.json", CARD_FILE, "README.md")  # that are loaded if there are any


@dataclass(frozen=True)
class SpaceSources:
    """The model and the index that a Space loads.

    Attributes:
        variables: The Space's environment variables that name them, in exact revisions.
        model: The model on the Hub; `None` for the embedded model.
        index: The Hub id of the index; `None` for the simulated town.
        private: Names of those that can be read with a token only.
    """

    variables: dict[str, str]
    model: ModelOnHub | None = None
    index: str | None = None
    private: Sequence[str] = ()


def check_sources(model: str | None, index: str | None, token: str | None = None) -> SpaceSources:
    """Find the model and the index of a Space on the Hub.

    Args:
        model: Hub id of the model, with or without `@revision`; `"embedded"` for the small model in this package; `None` for
            the model of the index, or the embedded one without an index.
        index: Hub id of the index, with or without `@revision`; `None` for a simulated town.
        token: Access token; by default that of `hf auth login`.

    Raises:
        ValueError: If one is a folder on this machine, is not on the Hub, or is not a model or an index; or if the index names
            a model that the Space cannot load.
    """
    variables, private = dict[str, str](), list[str]()
    index_name, model_name = None, model
    if index is not None:
        index_name, revision, settings, is_private = _check_index(index, token)
        variables["D2VPR_INDEX"] = f"{index_name}@{revision}"
        private += [index_name] if is_private else []
        model_name = model or _model_of_index(index_name, settings)
    if model_name in (None, EMBEDDED_NAME):
        variables |= {} if model is None else {"D2VPR_MODEL": EMBEDDED_NAME}
        return SpaceSources(variables, None, index_name, private)
    model_on_hub = _check_model(str(model_name), token, is_named=model is not None)
    variables["D2VPR_MODEL"] = f"{model_on_hub.name}@{model_on_hub.revision}"
    private += [model_on_hub.name] if model_on_hub.private else []
    return SpaceSources(variables, model_on_hub, index_name, private)


def _check_index(text: str, token: str | None) -> tuple[str, str, IndexSettings, bool]:
    """Return the name and the commit of an index on the Hub, its settings, and whether it is private."""
    name, revision = _split_remote(text)
    remedy = f"`d2vpr push INDEX {name}` uploads an index."
    with _explained(f"index {text}", remedy):
        info = HfApi(token=token).dataset_info(name, revision=revision)
    files = [file.rfilename for file in info.siblings or []]
    if MANIFEST not in files:
        raise ValueError(f"The data set {text} on the Hub is not an index: it has no {MANIFEST}. {remedy}")
    manifest = hf_hub_download(name, MANIFEST, repo_type="dataset", revision=info.sha, token=token)
    return name, str(info.sha), read_manifest(Path(manifest).parent).settings, bool(info.private)


def _model_of_index(index: str, settings: IndexSettings) -> str | None:
    """Return the model that an index names, in its revision."""
    name = settings.model_name
    if name in (None, EMBEDDED_NAME):
        return EMBEDDED_NAME
    if str(name).count("/") != 1 or Path(str(name)).is_dir():
        raise ValueError(
            f"The index {index} names the model {name}, a folder that the Space cannot read. Push the model and the index "
            "again, with `d2vpr push`, or give `model=...` with that model's Hub id."
        )
    return f"{name}@{settings.model_revision}" if settings.model_revision else name


def _check_model(text: str, token: str | None, is_named: bool) -> ModelOnHub:
    """Return a model on the Hub; the token is sent for one that the user named, and not for one that only an index names."""
    name, revision = _split_remote(text)
    remedy = f"`d2vpr push MODEL {name}` uploads a model."
    sent: str | bool | None = token if is_named else token_for("models", name, token)
    if sent is False:
        remedy += NOT_SENT.format(name=name)
    with _explained(f"model {text}", remedy):
        info = HfApi(token=sent).model_info(name, revision=revision)
    files = [file.rfilename for file in info.siblings or []]
    weights = [file for file in files if any(fnmatch.fnmatch(file, pattern) for pattern in _WEIGHTS)]
    if graph := _graph_files(name, str(info.sha), files, sent):
        return ModelOnHub(name, str(info.sha), graph, bool(info.private or info.gated))
    others = [file for file in _OTHER_FILES if file in files]
    if CARD_FILE in files:
        weights += [file for file in files if file.endswith(".safetensors") and file not in weights]  # a projection
    has_processor = bool({"preprocessor_config.json", "processor_config.json", CARD_FILE} & set(files))
    needed = _CONFIG_FILES[:1] if has_processor else _CONFIG_FILES
    missing = [file for file in needed if file not in files] + ([] if weights else [_WEIGHTS[0]])
    if missing:
        raise ValueError(f"{text} on the Hub is not a model that the Space can load: it has no {', '.join(missing)}. {remedy}")
    configs = [file for file in _CONFIG_FILES if file in files]
    return ModelOnHub(name, str(info.sha), [*configs, *others, *weights], bool(info.private or info.gated))


def _graph_files(name: str, revision: str, files: Sequence[str], token: str | bool | None) -> list[str]:
    """Return the files of an exported graph or a graph with a card; an empty list for a model with weights of its own."""
    if INFO_FILE in files:
        return [file for file in files if not file.startswith(".") and not file.endswith(".py")]
    if CARD_FILE not in files:
        row = find_known(name)
        published = None if row is None else row.onnx
        return [] if published is None else [file for file in files if file.startswith(published.name)]
    card = read_card(Path(hf_hub_download(name, CARD_FILE, revision=revision, token=token)).parent)
    if card.graph is None:
        return []
    side_files = [file for file in files if file.startswith(card.graph) or file.endswith((".data", ".onnx_data"))]
    return [CARD_FILE, *side_files, *([] if card.projection is None else [card.projection])]


@contextlib.contextmanager
def _explained(subject: str, remedy: str) -> Iterator[None]:
    """Raise ValueError with a sentence if the subject is not on the Hub."""
    try:
        yield
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ValueError(f"There is no {subject} on the Hub that this token may read. {remedy}") from error


def _split_remote(text: str) -> tuple[str, str | None]:
    """Split `user/name@revision`; raise ValueError for a folder on this machine, which the Hub cannot read."""
    name, revision = split_revision(text)
    if Path(text).exists() or name.startswith(("/", ".", "~")):
        raise ValueError(
            f"{text} is a folder on this machine, which the Hub cannot read. Upload it with `d2vpr push {text} USER/NAME`, and "
            "give USER/NAME."
        )
    return name, revision
