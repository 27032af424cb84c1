"""Make a model ready for inference: the same descriptors from less work."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from d2vpr_hf.backends.optimized.aggregation import GatheringAggregator, PreparedAggregator, PreparedRecovery
from d2vpr_hf.backends.optimized.blocks import PreparedBlock, PreparedEmbeddings
from d2vpr_hf.backends.optimized.fused_linear import pack_products
from d2vpr_hf.modeling import D2VPRModel, VPRPreTrainedModel
from d2vpr_hf.modeling.deformable_aggregation import DeformableAggregator


@torch.no_grad()
def prepare(model: VPRPreTrainedModel, dtype: torch.dtype = torch.float32, *, on_cpu: bool = False) -> VPRPreTrainedModel:
    """Make a copy of a model that gives the same descriptors in less time, and can do nothing else.

    BatchNorms, LayerScales and scales are folded into their neighbours, parallel branches are joined, and what depends on the
    size or on nothing is computed once. What is not changed is shared with the model.

    Args:
        model: In eval mode, with weights in float32. It stays as it is.
        dtype: Of the products. With a half-precision type the residual stream, normalisations, sampling geometry and pooling
            stay in float32: all in bfloat16, descriptors are other ones (cosine 0.99).
        on_cpu: Whether to use what is fastest on a CPU, and can neither be exported nor compiled.

    Returns:
        A model whose `pooler_output` is the descriptor, in float32.
    """
    if model.training:
        raise ValueError("A model in training mode cannot be prepared: call `model.eval()` first.")
    prepared: Any = copy.copy(model)
    prepared._modules = dict(model._modules)  # a shallow copy would share the table of parts
    prepared.embeddings = PreparedEmbeddings(model.embeddings, dtype)
    prepared.encoder = copy.copy(model.encoder)
    prepared.encoder._modules = {"layers": nn.ModuleList(_prepare_blocks(model.encoder, dtype))}
    if isinstance(model, D2VPRModel):
        prepared.recovery = PreparedRecovery(model.recovery, dtype)
        if isinstance(model.aggregator, DeformableAggregator):  # others run unchanged
            prepared.aggregator = (GatheringAggregator if on_cpu else PreparedAggregator)(model.aggregator, dtype)
    if on_cpu and dtype == torch.float32:
        pack_products(prepared)
    made: VPRPreTrainedModel = prepared.eval()
    return made


def _prepare_blocks(encoder: Any, dtype: torch.dtype) -> Iterator[PreparedBlock]:
    return (PreparedBlock(block, dtype) for block in encoder.layers)
