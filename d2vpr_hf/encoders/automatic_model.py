"""The model `auto`: the best known model that is in the Hub's cache or can be downloaded. Importing it loads no torch."""

import importlib.util
import logging
from dataclasses import dataclass

from d2vpr_hf.encoders.hub_cache import cached_commit, needed_files
from d2vpr_hf.model_info.known_models import KnownModel, find_known
from d2vpr_hf.model_info.model_options import ModelOptions

AUTOMATIC = "auto"  # names the best known model wherever a folder or Hub id may stand

# Names in the table of known models, the best first: those for places before others, larger ones before smaller ones, and
# DINOv2 with registers before one without. Without registers, large ones keep values of the whole photo in patches of sky and
# road (arXiv 2309.16588), which pooling would take for the place. Not here: models whose licence or download asks for an
# agreement, that have no licence, or whose code would have to run.
CANDIDATES = ("megaloc", "dinov2-reg-base", "dinov2-base", "dinov2-reg-small", "dinov2-small")

_SECONDS = 10.0  # to wait for an answer of the Hub

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenModel:
    """A model to open: its Hub id, commit, and the way to compute descriptors."""

    name: str
    revision: str
    options: ModelOptions


def is_candidate(name: str | None) -> bool:
    """Return whether a Hub id is of a model that `auto` may choose."""
    model = find_known(name)
    return model is not None and model.hub_id == name and model.name in CANDIDATES


def choose_model(options: ModelOptions) -> ChosenModel:
    """Choose the best candidate, and log its name, licence and training data.

    Args:
        options: The way to compute descriptors; options that are not set are those of the table of known models.

    Raises:
        FileNotFoundError: If no candidate is in the cache, and none can be downloaded.
    """
    from huggingface_hub.errors import HfHubHTTPError

    passed: dict[str, list[str]] = {}  # better models that are not chosen, by the reason
    is_reachable = True
    for model in map(_row, CANDIDATES):
        if model.onnx is not None and importlib.util.find_spec("onnxruntime") is None:
            passed.setdefault('needs ONNX Runtime, pip install "d2vpr-hf[onnxruntime]"', []).append(model.title)
            continue
        if model.onnx is not None and options.to_dict():
            passed.setdefault("takes no options", []).append(model.title)
            continue
        commit = cached_commit(model)
        origin = "in the Hub's cache"
        if commit is None and is_reachable:
            try:
                commit, size = _published(model)
                origin = f"downloaded, {size / 2**20:.0f} MiB"
            except HfHubHTTPError as error:
                passed.setdefault(str(error).splitlines()[0].rstrip("."), []).append(model.title)
                continue
            except Exception:  # without a connection, versions of the Hub's client raise errors of different libraries
                is_reachable = False
        if commit is None:
            passed.setdefault("not in the Hub's cache", []).append(model.title)
            continue
        merged = ModelOptions.from_dict(model.options.to_dict() | options.to_dict())
        chosen = ChosenModel(str(model.hub_id), commit, merged)
        _log_choice(model, chosen, origin, passed)
        return chosen
    raise FileNotFoundError(_advice(is_reachable))


def _published(model: KnownModel) -> tuple[str | None, int]:
    """Return the latest commit of a model on the Hub, and the size of its weights in bytes.

    It is asked once: `hf_hub_download` would try for half a minute without a connection.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    weights = get_hf_file_metadata(hf_hub_url(str(model.hub_id), needed_files(model)[-1]), timeout=_SECONDS)
    return weights.commit_hash, weights.size or 0


def _row(name: str) -> KnownModel:
    model = find_known(name)
    assert model is not None, name
    return model


def _log_choice(model: KnownModel, chosen: ChosenModel, origin: str, passed: dict[str, list[str]]) -> None:
    """Log the choice in one line."""
    facts, options = model.facts, chosen.options.to_dict()
    rights = f"{facts.rights} {facts.question}" if facts.question else facts.rights
    values = {name: "x".join(map(str, value)) if isinstance(value, list) else value for name, value in options.items()}
    settings = "".join(f", {name} {value}" for name, value in values.items())
    reasons = "; ".join(f"{', '.join(titles)} ({reason})" for reason, titles in passed.items())
    better = f" Better ones passed over: {reasons}." if passed else ""
    logger.warning(
        "`auto` is %s (%s) at %s%s, %s. %s%s", chosen.name, model.title, chosen.revision[:7], settings, origin, rights, better
    )


def _advice(is_reachable: bool) -> str:
    """Return the error for a machine that has no candidate and cannot get one."""
    smallest, best = _row(CANDIDATES[-1]), _row(CANDIDATES[1])
    commands = " or ".join(f"`hf download {model.hub_id} {' '.join(needed_files(model))}`" for model in (best, smallest))
    cause = "none can be downloaded" if is_reachable else "the Hub cannot be reached (or HF_HUB_OFFLINE=1 is set)"
    return (
        f"`auto` needs a model from the Hub, such as {best.title}: none is in the Hub's cache, and {cause}. Run {commands} "
        "where there is a network; on another machine, copy its cache, ~/.cache/huggingface/hub. The model `embedded` needs no "
        "network, but it is small and has seen few real places."
    )
