"""Open a model for a [`PlaceEncoder`], by what its folder, its repository on the Hub, or its object is.

Importing this module loads no torch.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2vpr_hf.backends.exported_model import find_exported
from d2vpr_hf.encoders.automatic_model import AUTOMATIC, choose_model
from d2vpr_hf.encoders.carded_graphs import CardedGraph
from d2vpr_hf.encoders.exported_graphs import ExportedGraph
from d2vpr_hf.encoders.open_carded_graph import open_carded_graph, refuse_graph_without_card
from d2vpr_hf.encoders.protocol import DescriptorModel
from d2vpr_hf.encoders.revisions import pin_revision
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_card import CARD_FILE, read_card
from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.model_info.model_options import SIZE_OPTIONS, ModelOptions
from d2vpr_hf.pretrained.model_files import EMPTY_NAME, fetch_file, is_vision_config, stored_config
from d2vpr_hf.pretrained.unreachable_hub import offline_if_unreachable
from d2vpr_hf.utils.hub_ids import is_hub_id
from d2vpr_hf.utils.optional_imports import check_models

logger = logging.getLogger(__name__)


def open_model(
    model: Any = None,
    processor: Any = None,
    *,
    device: Any = None,
    backend: str = "torch",
    precision: str | None = None,
    revision: str | None = None,
    options: ModelOptions = ModelOptions(),  # noqa: B008 - the default is immutable
) -> DescriptorModel:
    """Open a model object, a folder, a Hub id, an exported folder, a graph with a card, `"auto"`, or the embedded one (`None`).

    Args:
        model: The model. An object with the attributes and methods of [`DescriptorModel`] is returned unchanged.
        processor: Image processor of a model of this package, required with its object; of a model of transformers, its image
            processor or a `Preprocessing`.
        device: Device of the network; `None` for a GPU if there is one, otherwise the CPU.
        backend: Name of the backend that runs the network.
        precision: Number type of the network's products; `None` for the type of the weights.
        revision: Branch, tag or commit of a model on the Hub.
        options: The way to compute descriptors by a model that leaves it open.

    Raises:
        TypeError: If an object is not a model that this package runs, or not its image processor.
        ValueError: If a model object comes without its image processor, a model that is not from the Hub with a revision, a
            model without options with options, or the network cannot run on the device.
    """
    if options.dim is not None:  # the first numbers of the descriptors of any model
        from d2vpr_hf.encoders.prefix_model import PrefixModel

        whole = open_model(
            model,
            processor,
            device=device,
            backend=backend,
            precision=precision,
            revision=revision,
            options=replace(options, dim=None),
        )
        return PrefixModel(whole, options.dim)
    if isinstance(model, str) and model == AUTOMATIC:
        if revision is not None:
            raise ValueError("The model `auto` has no `revision`. Leave it out, or name the model.")
        chosen = choose_model(options)
        settings = _Settings(processor, chosen.options, device, backend, precision)
        with offline_if_unreachable(chosen.name, chosen.revision):
            return _open_named(chosen.name, pin_revision(chosen.name, chosen.revision), settings)
    settings = _Settings(processor, options, device, backend, precision)
    if model is None or isinstance(model, str | Path):
        return _open_named(portable_name(model), pin_revision(model, revision), settings)
    if revision is not None:
        raise ValueError("A model object is of the revision that it was loaded from. Leave `revision` out.")
    return _open_object(model, settings)


@dataclass(frozen=True)
class _Settings:
    """Arguments of [`open_model`] that are not about the source of the model."""

    processor: Any
    options: ModelOptions
    device: Any
    backend: str
    precision: str | None

    def refuse_options(self, name: str, allowed: Collection[str] = ()) -> None:
        """Raise ValueError if options are given that are not allowed; `name` is that of a model that has no others."""
        given = [option for option in self.options.to_dict() if option not in allowed]
        if given:
            raise ValueError(
                f"{name} computes its descriptors in one way only, without the options "
                f"{', '.join(f'`{key}`' for key in given)}. Leave them out."
            )


def _open_named(name: str, revision: str | None, settings: _Settings) -> DescriptorModel:
    """Open a folder, or a model on the Hub at a commit: a graph first, because this loads no torch, then one with weights."""
    graph = None if name == EMBEDDED_NAME else _open_graph(name, revision, settings)
    if graph is not None:
        return graph
    config = stored_config(name, revision)
    if name != EMBEDDED_NAME and not config and not Path(name).exists():
        _refuse_missing_model(name, revision)
    check_models(f"{name} is neither an exported graph nor an ONNX graph with a card")
    if is_vision_config(config):
        return _open_transformers_model(name, config, revision, settings)
    if config or name == EMBEDDED_NAME:  # a model that cannot be found has another error
        settings.refuse_options(name, SIZE_OPTIONS)
    from d2vpr_hf.encoders.own_models import load_own_model

    return load_own_model(
        name,
        settings.processor,
        settings.device,
        settings.backend,
        settings.precision,
        revision=revision,
        options=settings.options,
    )


def _refuse_missing_model(name: str, revision: str | None) -> None:
    """Raise the error of a model without a folder and without a configuration on the Hub, unless a loader has a better one.

    Raises:
        FileNotFoundError: If the name is not of the form of a Hub id, or the Hub cannot be reached.
        ValueError: If the repository on the Hub holds graphs without a card.
    """
    if not is_hub_id(name):
        advice = f" `d2vpr models {name}` has the way to get the known model of this name." if find_known(name) else ""
        raise FileNotFoundError(
            f"There is no model folder {name}. Give a folder, a Hub id such as user/model, or `embedded` for the model in "
            f"this package.{advice}"
        )
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(
            f"There is no model {name}: neither a folder nor a model in the Hub's cache has this name, and the Hub cannot be "
            f"reached (or HF_HUB_OFFLINE=1 is set). Run `hf download {name}` where there is a network, or give a folder."
        )
    refuse_graph_without_card(name, revision)


def _open_graph(name: str, revision: str | None, settings: _Settings) -> DescriptorModel | None:
    """Open a graph that `d2vpr export` wrote, or one with a card; `None` if the model is not a graph."""
    backend, precision = settings.backend, settings.precision
    exported = find_exported(name, revision)
    if exported is not None:
        graph = ExportedGraph(
            exported, settings.processor, backend, precision, name=name, revision=revision, options=settings.options
        )
        _warn_of_device(name, settings.device)
        return graph
    carded = open_carded_graph(name, revision, backend=backend, precision=precision, name=name, options=settings.options)
    if carded is not None:
        _check_arguments(carded, settings)
    return carded


def _open_transformers_model(name: str, config: dict[str, Any], revision: str | None, settings: _Settings) -> DescriptorModel:
    """Open a model of transformers, and what a card next to it adds: options, preprocessing, a projection."""
    from d2vpr_hf.encoders.transformers_models import load_transformers_model

    choices = {
        "device": settings.device,
        "backend": settings.backend,
        "precision": settings.precision,
        "revision": revision,
    }
    card_file = fetch_file(name, CARD_FILE, revision)
    if card_file is None:
        return load_transformers_model(name, config, settings.processor, settings.options, **choices)
    from d2vpr_hf.encoders.projected_model import add_projection, options_of

    card = read_card(card_file.parent)
    options, processor = options_of(card, settings.options, name), settings.processor or card.preprocessing
    model = load_transformers_model(name, config, processor, options, **choices, facts=card.facts)
    if card.projection is not None:
        fetch_file(name, card.projection, revision)  # one on the Hub is then in the folder of the card
    return add_projection(model, card_file.parent, card)


def _open_object(model: Any, settings: _Settings) -> DescriptorModel:
    """Wrap an object: a [`DescriptorModel`] of another program, a model of transformers, or one of this package."""
    if isinstance(model, type):
        raise TypeError(f"Expected a model, got {type(model).__name__}, the class {model.__name__}. Give an object of it.")
    name = type(model).__name__
    if hasattr(model, "prepare") and hasattr(model, "describe"):
        settings.refuse_options(name)
        return model
    check_models(f"A {name} has no methods `prepare` and `describe`")
    from d2vpr_hf.encoders.model_objects import is_foreign_model, unwrap, without_adapters

    processor, device = settings.processor, settings.device
    if is_foreign_model(model):
        from d2vpr_hf.encoders.transformers_models import wrap_transformers_model

        loaded_name = without_adapters(unwrap(model)).name_or_path
        return wrap_transformers_model(
            unwrap(model),
            processor,
            settings.options,
            device=device,
            backend=settings.backend,
            precision=settings.precision,
            name=portable_name(loaded_name) if loaded_name else None,
        )
    settings.refuse_options(name, SIZE_OPTIONS)
    from d2vpr_hf.encoders.own_models import wrap_own_model

    own_model, loaded_name = wrap_own_model(model, processor, device, settings.backend, settings.precision, settings.options)
    own_model.model_name = portable_name(loaded_name) if loaded_name else None
    return own_model


def _check_arguments(graph: CardedGraph, settings: _Settings) -> None:
    """Check arguments that belong to other models than a graph with a card.

    Raises:
        ValueError: If an image processor is given: the preprocessing is in the graph's card.
    """
    if settings.processor is not None:
        raise ValueError(f"{graph.model_name} has its preprocessing in {CARD_FILE}. Omit `processor`.")
    _warn_of_device(graph.model_name, settings.device)


def _warn_of_device(name: str | None, device: Any) -> None:
    """Warn if a graph, which runs on the CPU, is opened for another device."""
    if str(device or "cpu").partition(":")[0] != "cpu":
        logger.warning("%s is a graph, which runs on the CPU here; `device` has no effect.", name)


def portable_name(name: str | Path | None) -> str:
    """Return a name that a model can be loaded by from any folder; `"embedded"` for the model in this package.

    Raises:
        ValueError: If the name is empty.
    """
    if name == "":
        raise ValueError(EMPTY_NAME)
    if name is None or name in (EMBEDDED_NAME, str(EMBEDDED_MODEL)):
        return EMBEDDED_NAME
    return str(Path(name).resolve()) if isinstance(name, Path) or Path(name).is_dir() else name


def accepted_options(model: str | Path, revision: str | None = None) -> Collection[str]:
    """Return the names of the options that a model in a folder or on the Hub can be opened with."""
    config = stored_config(model, revision)
    if is_vision_config(config) or fetch_file(model, CARD_FILE, revision) is not None:
        return tuple(ModelOptions.__dataclass_fields__)
    return ("test_time", "dim") if find_exported(str(model), revision) is not None else (*SIZE_OPTIONS, "dim")
