"""Descriptors of tokens and feature maps by each pooling, against values worked out by hand."""

import math

import pytest
import torch

from d2vpr_hf.modeling.grid_aggregation import cell_averaging
from d2vpr_hf.pretrained.pooling import Features, RegionPooling, available_pools, pool_features, split_output


def unit(*values: float) -> torch.Tensor:
    return torch.tensor([values]) / math.sqrt(sum(value**2 for value in values))


CLS = torch.tensor([[3.0, 4.0]])
PATCHES = torch.tensor([[[1.0, 0.0], [1.0, 2.0], [3.0, -5.0]]])  # (B, N, D) = (1, 3, 2)
GEM = unit(math.cbrt((1 + 1 + 27) / 3), math.cbrt(8 / 3))  # negative values count as almost 0


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("cls", unit(3, 4)),
        ("mean", unit(5, -3)),
        ("gem", GEM),
        ("cls+gem", torch.cat((unit(3, 4), GEM), dim=1) / math.sqrt(2)),
        ("pooler", unit(0, 2, 0)),
    ],
)
def test_poolings_by_hand(pool, expected):
    features = Features(CLS, PATCHES, (1, 3), torch.tensor([[0.0, 2.0, 0.0]]))
    torch.testing.assert_close(pool_features(features, pool), expected, atol=1e-5, rtol=0)


def test_half_precision_is_pooled_in_float32():
    features = Features(CLS.half(), PATCHES.half() * 100, (1, 3), None)  # 300³ is too large for half precision
    torch.testing.assert_close(pool_features(features, "gem"), GEM, atol=1e-5, rtol=0)


@pytest.mark.parametrize("has_cls", [True, False])
def test_regions_are_the_pyramid_of_cricavpr(has_cls):
    torch.manual_seed(0)
    patches, cls = torch.randn(2, 20, 4), torch.randn(2, 4)
    features = Features(cls if has_cls else None, patches, (5, 4), None)
    descriptors = pool_features(features, "regions", RegionPooling())
    first = cls if has_cls else patches.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3)
    units = torch.nn.functional.normalize(patches, dim=2).clamp(min=1e-6).pow(3)
    averaging = cell_averaging([[1 / 2], [5 / 16, 11 / 16]], (5, 4))
    regions = torch.cat((first[:, None], (averaging @ units).pow(1 / 3)), dim=1)
    expected = torch.nn.functional.normalize(regions.flatten(1), dim=1)
    assert descriptors.shape == (2, 14 * 4)
    torch.testing.assert_close(descriptors, expected)


EVERY_POOL = "cls mean gem cls+gem pooler regions"


class Output:
    pooler_output = torch.ones(1, 2, 1, 1)


@pytest.mark.parametrize(
    ("num_tokens", "size", "arguments", "grid", "pools"),
    [
        (
            1 + 4 + 6,
            (32, 48),
            {"num_prefix": 5, "has_cls": True, "strides": [16]},
            (2, 3),
            EVERY_POOL,
        ),
        (6, (32, 48), {"num_prefix": 0, "has_cls": False, "strides": [16]}, (2, 3), "mean gem pooler regions"),
        (6, (64, 96), {"num_prefix": 0, "has_cls": False, "strides": [16, 32]}, (2, 3), "mean gem pooler regions"),
        (12, (33, 49), {"num_prefix": 0, "has_cls": False, "strides": [16]}, (3, 4), "mean gem pooler regions"),
        (7, (32, 48), {"num_prefix": None, "has_cls": True, "strides": [16]}, (2, 3), EVERY_POOL),
        (11, (32, 48), {"num_prefix": 1, "has_cls": True, "strides": [16]}, None, "cls mean gem cls+gem pooler"),
    ],
)
def test_tokens_are_divided(num_tokens, size, arguments, grid, pools):
    tokens = torch.arange(float(num_tokens))[None, :, None]
    features = split_output(Output(), tokens, size, **arguments)
    assert features.grid_size == grid and features.pooler.shape == (1, 2)
    assert " ".join(available_pools(features)) == pools
    count = num_tokens - features.patches.shape[1]
    assert features.patches[0, 0, 0] == count and (features.cls is None or features.cls.item() == 0)


def test_feature_maps_are_divided_row_by_row():
    state = torch.arange(12.0).view(1, 2, 2, 3)
    features = split_output(object(), state, (64, 96), num_prefix=None, has_cls=True, strides=[])
    assert features.grid_size == (2, 3) and features.cls is None and features.pooler is None
    assert features.patches[0, 1].tolist() == [1.0, 7.0]


def test_vectors_that_are_not_patches_are_refused():
    """The outputs of a detector's decoder, such as DETR's 100 queries, would give a descriptor without a meaning."""
    with pytest.raises(ValueError, match=r"100 vectors for an image of 32x48 pixels, which are not tokens"):
        split_output(object(), torch.zeros(1, 100, 4), (32, 48), num_prefix=None, has_cls=True, strides=[16])
