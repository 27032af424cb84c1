"""Find the network of a model that is exported."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from d2vpr_hf.backends.graph_source import GraphSource, NetworkSource, OwnSource
from d2vpr_hf.encoders.own_models import OwnModel
from d2vpr_hf.encoders.protocol import DescriptorModel
from d2vpr_hf.model_info.encoder_entry import EncoderEntry
from d2vpr_hf.model_info.preprocessing import Preprocessing


def find_graph_source(model: DescriptorModel) -> GraphSource:
    """Return a model as an export sees it.

    Raises:
        ValueError: If it has no network that can be written as a graph.
    """
    if isinstance(model, OwnModel):
        source = OwnSource(model.model, model.processor, model.steps)
        # the facts have the licence that the model's card states
        source.entry = replace(source.entry, facts=model.facts, model_options=_options_of(model))
        return source
    network, steps = getattr(model, "network", None), getattr(model, "preprocessing", None)
    if not isinstance(network, nn.Module) or not isinstance(steps, Preprocessing):
        name = model.model_name or type(model).__name__
        raise ValueError(
            f"{name} cannot be exported: it is not a network of torch with its preprocessing. Expected a model of this package "
            "or of transformers; a graph is exported already."
        )
    weights = list(network.parameters())
    if any(not weight.is_floating_point() or weight.dtype != torch.float32 for weight in weights) or any(
        weight.device.type != "cpu" for weight in weights
    ):
        raise ValueError(
            f'{model.facts.title} can be exported in float32 from the CPU only: open it with `device="cpu"`, and its weights '
            "as floats of 32 bits."
        )
    config, patch_size = getattr(model, "config", None), getattr(model, "patch_size", None)
    return NetworkSource(network, _make_entry(model, steps), patch_size, config)


def _make_entry(model: DescriptorModel, steps: Preprocessing) -> EncoderEntry:
    """Return the values by which a graph of a model runs as an encoder, with its steps of preprocessing."""
    return EncoderEntry(
        model.descriptor_dim, model.projection_dim, model.depends_on_batch, steps, model.facts, _options_of(model)
    )


def _options_of(model: DescriptorModel) -> dict[str, Any]:
    """Return the options of a model that its network and its preprocessing have; the form of queries is the encoder's."""
    return {name: value for name, value in model.model_options.items() if name != "test_time"}
