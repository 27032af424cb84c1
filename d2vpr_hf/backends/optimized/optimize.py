"""Make a model ready for inference: the same descriptors from less work."""

import copy
from typing import Any

import torch
from torch import nn

from d2vpr_hf.backends.optimized.aggregation import GatheringAggregator, PreparedAggregator, PreparedRecovery
from d2vpr_hf.backends.optimized.blocks import GraphBlock, PreparedBlock, PreparedEmbeddings
from d2vpr_hf.backends.optimized.fused_linear import pack_products
from d2vpr_hf.modeling import VPRPreTrainedModel
from d2vpr_hf.modeling.deformable_aggregation import DeformableAggregator
from d2vpr_hf.modeling.modeling_d2vpr import RecoveryModule
from d2vpr_hf.modeling.vision_transformer import AdapterBlock, Embeddings

_FOLDED = (Embeddings, AdapterBlock, RecoveryModule, DeformableAggregator)
_PLAIN_LAYERS = ("torch.nn.modules.", "transformers.activations", "d2vpr_hf.modeling.")  # modules of classes


@torch.no_grad()
def prepare(
    model: VPRPreTrainedModel, dtype: torch.dtype = torch.float32, *, on_cpu: bool = False, for_graph: bool = False
) -> VPRPreTrainedModel:
    """Make a copy of a model that gives the same descriptors in less time. The copy can only compute descriptors.

    BatchNorms, LayerScales and scales are folded into neighbouring layers, parallel branches are joined, and constants are
    computed once, or once for each image size. Parts without a faster form run unchanged, in float32, and unchanged weights are
    shared with the model.

    Args:
        model: A model in eval mode, with weights in float32. It is not changed.
        dtype: Number type of the products. With a half-precision type the residual stream, normalisations, sampling geometry
            and pooling stay in float32: with all of them in bfloat16, descriptors change (cosine 0.99).
        on_cpu: Whether to use kernels that are fastest on a CPU, but can neither be exported nor compiled.
        for_graph: Whether to use forms that other runtimes compute fastest.

    Returns:
        A model whose `pooler_output` is the descriptor, in float32.
    """
    if model.training:
        raise ValueError("A model in training mode cannot be prepared: call `model.eval()` first.")
    prepared: Any = copy.copy(model)
    forms: dict[type[nn.Module], Any] = {
        Embeddings: PreparedEmbeddings,
        AdapterBlock: GraphBlock if for_graph else PreparedBlock,
        RecoveryModule: PreparedRecovery,
        DeformableAggregator: GatheringAggregator if on_cpu else PreparedAggregator,
    }
    parts = {name: _optimize_part(part, dtype, forms) for name, part in model.named_children()}
    prepared._modules = dict(model._modules) | parts  # a part that was removed is `None`, and no child
    prepared.encoder = copy.copy(model.encoder)
    blocks = nn.ModuleList(_optimize_part(block, dtype, forms) for block in model.encoder.layers)
    prepared.encoder._modules = dict(model.encoder._modules) | {"layers": blocks}
    if on_cpu and dtype == torch.float32:
        pack_products(prepared)
    optimized: VPRPreTrainedModel = prepared.eval()
    return optimized


def can_prepare(model: nn.Module) -> bool:
    """Return whether [`prepare`] can fold a model's weights.

    It cannot for classes from outside this package (code that was saved next to weights), nor for layers that quantisation,
    adapters such as LoRA, parametrisations or hooks have changed. Such a model runs unchanged.
    """
    if not isinstance(model, VPRPreTrainedModel):
        return False
    parts = (part for part in (*model.children(), *model.encoder.layers) if type(part) in _FOLDED)
    return all(_is_plain(module) for part in parts for module in part.modules())


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer is one of torch or this package, with floating-point weights and without hooks."""
    weights_are_plain = all(
        type(weight) is nn.Parameter and weight.is_floating_point() and not weight.is_meta
        for weight in module.parameters(recurse=False)
    )
    is_changed = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
    return weights_are_plain and not is_changed and type(module).__module__.startswith(_PLAIN_LAYERS)


def _optimize_part(part: nn.Module, dtype: torch.dtype, forms: dict[type[nn.Module], Any]) -> nn.Module:
    """Return the faster form of a part, or the part itself if it has none: another aggregator runs unchanged.

    The type must be exact, because a subclass may compute something else.
    """
    return forms[type(part)](part, dtype) if type(part) in forms else part
