"""Open a model for a [`PlaceEncoder`], by what its folder, its repository on the Hub, or its object is.

Importing this module loads no torch.
"""

import logging
from pathlib import Path
from typing import Any

from d2vpr_hf.backends.exported_model import ExportedModel, download_exported, is_exported
from d2vpr_hf.encoders.automatic_model import AUTOMATIC, choose_model
from d2vpr_hf.encoders.carded_graphs import CardedGraph
from d2vpr_hf.encoders.exported_graphs import ExportedGraph
from d2vpr_hf.encoders.open_carded_graph import open_carded_graph, refuse_graph_without_card
from d2vpr_hf.encoders.protocol import DescriptorModel
from d2vpr_hf.encoders.revisions import pin_revision
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_card import CARD_FILE, read_card
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.pretrained.model_files import fetch_file, is_vision_config, stored_config
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
    choices: dict[str, Any] = {"backend": backend, "precision": precision}
    if model == AUTOMATIC:
        if revision is not None:
            raise ValueError("The model `auto` has no `revision`. Leave it out, or name the model.")
        chosen = choose_model(options)
        choices |= {"device": device, "revision": chosen.revision, "options": chosen.options}
        with offline_if_unreachable(chosen.name, chosen.revision):
            return open_model(chosen.name, processor, **choices)
    if model is None or isinstance(model, str | Path):
        name = portable_name(model)
        if revision is None and name != EMBEDDED_NAME and is_exported(model):
            return _check_options(options, ExportedGraph(ExportedModel.open(str(model)), processor, **choices, name=name))
        if revision is None and name != EMBEDDED_NAME:
            carded = open_carded_graph(name, **choices, name=name, options=options)
            if carded is not None:
                return _check_arguments(carded, processor, device)
        revision = pin_revision(model, revision)
        if (graph := download_exported(model, revision)) is not None:
            return _check_options(options, ExportedGraph(graph, processor, **choices, name=name, revision=revision))
        if revision is not None:
            carded = open_carded_graph(name, revision, **choices, name=name, options=options)
            if carded is not None:
                return _check_arguments(carded, processor, device)
        check_models(f"{name} is neither an exported graph nor an ONNX graph with a card")
        stored = {} if name == EMBEDDED_NAME else stored_config(model, revision)
        if model is not None and is_vision_config(stored):
            return _open_transformers_model(name, stored, processor, options, device=device, **choices, revision=revision)
        if not stored and not Path(name).exists() and is_hub_id(name):
            refuse_graph_without_card(name, revision)
        if stored or name == EMBEDDED_NAME:  # a model that cannot be found has another error
            _refuse_options(options, name)
        from d2vpr_hf.encoders.own_models import load_own_model

        return load_own_model(model, processor, device=device, **choices, saved_name=name, revision=revision)
    if revision is not None:
        raise ValueError("A model object is of the revision that it was loaded from. Leave `revision` out.")
    if hasattr(model, "prepare") and hasattr(model, "describe"):
        _refuse_options(options, type(model).__name__)
        return model
    check_models(f"A {type(model).__name__} has no methods `prepare` and `describe`")
    from d2vpr_hf.encoders.model_objects import is_foreign_model, unwrap

    if is_foreign_model(model):
        from d2vpr_hf.encoders.transformers_models import wrap_transformers_model

        loaded_name = getattr(model, "name_or_path", None)
        choices |= {"device": device, "name": portable_name(loaded_name) if loaded_name else None}
        return wrap_transformers_model(unwrap(model), processor, options, **choices)
    _refuse_options(options, type(model).__name__)
    from d2vpr_hf.encoders.own_models import wrap_own_model

    own_model, loaded_name = wrap_own_model(model, processor, device=device, **choices)
    own_model.model_name = portable_name(loaded_name) if loaded_name else None
    return own_model


def _open_transformers_model(
    name: str | Path, stored: dict[str, Any], processor: Any, options: ModelOptions, *, revision: str | None, **choices: Any
) -> DescriptorModel:
    """Open a model of transformers, and what a card next to it adds: options, preprocessing, a projection."""
    from d2vpr_hf.encoders.transformers_models import load_transformers_model

    card_file = fetch_file(name, CARD_FILE, revision)
    choices |= {"saved_name": portable_name(name), "revision": revision}
    if card_file is None:
        return load_transformers_model(name, stored, processor, options, **choices)
    from d2vpr_hf.encoders.projected_model import add_projection, options_of

    card = read_card(card_file.parent)
    options, processor = options_of(card, options, name), processor or card.preprocessing
    model = load_transformers_model(name, stored, processor, options, **choices, facts=card.facts)
    if card.projection is not None:
        fetch_file(name, card.projection, revision)  # one on the Hub is then in the folder of the card
    return add_projection(model, card_file.parent, card)


def _check_arguments(graph: CardedGraph, processor: Any, device: Any) -> CardedGraph:
    """Return a graph after checking arguments that belong to other models.

    Raises:
        ValueError: If an image processor is given: the preprocessing is in the graph's card.
    """
    if processor is not None:
        raise ValueError(f"{graph.model_name} has its preprocessing in {CARD_FILE}. Omit `processor`.")
    if str(device or "cpu").partition(":")[0] != "cpu":
        logger.warning("%s is a graph, which runs on the CPU here; `device` has no effect.", graph.model_name)
    return graph


def portable_name(name: str | Path | None) -> str:
    """Return a name that a model can be loaded by from any folder; `"embedded"` for the model in this package."""
    if name is None or name in (EMBEDDED_NAME, str(EMBEDDED_MODEL)):
        return EMBEDDED_NAME
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def takes_options(model: str | Path, revision: str | None = None) -> bool:
    """Return whether a folder or Hub id is of a model that is opened with options, one of transformers or with a card."""
    return is_vision_config(stored_config(model, revision)) or fetch_file(model, CARD_FILE, revision) is not None


def _check_options(options: ModelOptions, graph: ExportedGraph) -> ExportedGraph:
    """Return a graph, after checking that options are those that its model had when it was exported.

    An index records the options, and opens its encoder with them.
    """
    values = options.to_dict()
    if any(graph.model_options.get(key) != value for key, value in values.items()):
        stated = f"the options {graph.model_options}" if graph.model_options else "no options"
        raise ValueError(f"The graph {graph.model_name} was exported with {stated}, got {values}. Export the model again.")
    return graph


def _refuse_options(options: ModelOptions, name: str) -> None:
    """Raise ValueError if options are given for a model that has none."""
    given = options.to_dict()
    if given:
        raise ValueError(
            f"{name} computes its descriptors in one way only, without the options {', '.join(f'`{key}`' for key in given)}. "
            "Leave them out."
        )
