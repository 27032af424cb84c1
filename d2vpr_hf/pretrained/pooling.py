"""Pool the tokens or the feature map of a vision model into one descriptor.

Shapes: B images, N patches in H rows and W columns, D channels.
"""

from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from d2vpr_hf.model_info.model_options import Pool
from d2vpr_hf.modeling import CricaVPRConfig
from d2vpr_hf.modeling.generalized_mean import at_least_float32
from d2vpr_hf.modeling.grid_aggregation import GridAggregator
from d2vpr_hf.modeling.modeling_vpr import flatten_and_normalize
from d2vpr_hf.modeling.vision_transformer import GridSize

GEM_POWER = 3.0  # the usual exponent (arXiv 1711.02512)
GEM_EPS = 1e-6


class Features(NamedTuple):
    """Outputs of a vision model.

    Attributes:
        cls (`torch.Tensor` of shape (B, D)): Class token; `None` if the model has none.
        patches (`torch.Tensor` of shape (B, N, D)): Tokens of the patches row by row, without class token and registers.
        grid_size: Rows and columns of the patches; `None` if it is not known.
        pooler (`torch.Tensor` of shape (B, P)): Output of the model's own pooling; `None` if there is none.
    """

    cls: torch.Tensor | None
    patches: torch.Tensor
    grid_size: GridSize | None
    pooler: torch.Tensor | None


def available_pools(features: Features) -> tuple[Pool, ...]:
    """Return the poolings that a model has."""
    missing: set[str] = set()
    if features.cls is None:
        missing |= {"cls", "cls+gem"}
    if features.pooler is None:
        missing.add("pooler")
    if features.grid_size is None:
        missing.add("regions")
    return tuple(pool for pool in get_args(Pool) if pool not in missing)


def pool_features(features: Features, pool: Pool, regions: "RegionPooling | None" = None) -> torch.Tensor:
    """Return descriptors (B, D'), L2-normalised in float32.

    `cls+gem` normalises both parts before joining them, so that they count alike.

    Args:
        features: Outputs of a model that has this pooling.
        pool: Name of the pooling.
        regions: Pooling of regions, for `"regions"`.
    """
    normalize = nn.functional.normalize
    patches = at_least_float32(features.patches)
    if pool == "regions":
        assert regions is not None and features.grid_size is not None
        first = generalized_mean(patches) if features.cls is None else at_least_float32(features.cls)
        return regions(torch.cat((first.unsqueeze(1), patches), dim=1), features.grid_size)
    if pool == "mean":
        return normalize(patches.mean(1), dim=1)
    if pool == "gem":
        return normalize(generalized_mean(patches), dim=1)
    single = features.pooler if pool == "pooler" else features.cls
    assert single is not None
    descriptors = normalize(at_least_float32(single), dim=1)
    if pool == "cls+gem":
        return normalize(torch.cat((descriptors, normalize(generalized_mean(patches), dim=1)), dim=1), dim=1)
    return descriptors


def generalized_mean(patches: torch.Tensor) -> torch.Tensor:
    """Return the generalised mean (B, D) of patches (B, N, D); negative values count as almost 0."""
    return patches.clamp(min=GEM_EPS).pow(GEM_POWER).mean(1).pow(1 / GEM_POWER)


class RegionPooling(nn.Module):
    """CricaVPR's pyramid of 14 regions, pooled without training: the global token, and the GeM of 2×2 and of 3×3 cells.

    It pools L2-normalised tokens with the exponent 3 (arXiv 2402.19231, section 3.2).
    """

    def __init__(self) -> None:
        super().__init__()
        pyramid = CricaVPRConfig()
        self.num_regions = pyramid.num_regions
        self.aggregator = GridAggregator(pyramid).requires_grad_(False)

    def forward(self, tokens: torch.Tensor, grid_size: GridSize) -> torch.Tensor:
        """Pool the global token and N patches (B, 1 + N, D) into descriptors (B, 14 * D), L2-normalised in their type.

        Raises:
            ValueError: If the grid is too small for the regions.
        """
        return flatten_and_normalize(self.aggregator(tokens, grid_size))


def split_output(
    output: Any, state: torch.Tensor, image_size: tuple[int, int], *, num_prefix: int | None, has_cls: bool, strides: list[int]
) -> Features:
    """Divide the output of a vision model into its class token and patches.

    Args:
        output: The output, with `pooler_output` if the model has a pooling of its own.
        state: Tokens (B, prefix + N, D) or a feature map (B, D, H, W) of the output or of a layer.
        image_size: Height and width of the images.
        num_prefix: Number of tokens before the patches; `None` to take all that the grid of patches leaves.
        has_cls: Whether the first token before the patches is a class token.
        strides: Pixels of a patch's side that are possible, such as those of the stages of a Swin; empty if not known.

    Raises:
        ValueError: If the layout of the tokens is not known.
    """
    pooler = getattr(output, "pooler_output", None)
    pooler = None if pooler is None else pooler.flatten(1)
    if state.ndim == 4:
        return Features(
            None, state.flatten(2).transpose(1, 2), (state.shape[2], state.shape[3]), pooler
        )  # (B, D, H, W) -> (B, N, D)
    if state.ndim != 3:
        raise ValueError(f"Expected tokens (B, N, D) or a feature map (B, D, H, W), got the shape {tuple(state.shape)}.")
    grid_size = _find_grid(state.shape[1], image_size, num_prefix, strides)
    if num_prefix is None:
        if grid_size is None:
            raise ValueError(
                f"The model gives {state.shape[1]} vectors for an image of {image_size[0]}x{image_size[1]} pixels, which are "
                "not tokens of a grid of patches."
            )
        num_prefix = state.shape[1] - grid_size[0] * grid_size[1]
    cls = state[:, 0] if has_cls and num_prefix else None
    return Features(cls, state[:, num_prefix:], grid_size, pooler)


_MOST_PREFIX_TOKENS = 16  # class token and registers


def _find_grid(num_tokens: int, image_size: tuple[int, int], num_prefix: int | None, strides: list[int]) -> GridSize | None:
    """Return the grid whose number of patches fits the number of tokens; `None` if none does."""
    for stride in strides:
        floor = (image_size[0] // stride, image_size[1] // stride)
        ceiling = (-(-image_size[0] // stride), -(-image_size[1] // stride))  # padded images
        for grid_size in (floor, ceiling):
            rest = num_tokens - grid_size[0] * grid_size[1]
            if rest == num_prefix or (num_prefix is None and 0 <= rest <= _MOST_PREFIX_TOKENS):
                return grid_size
    return None
