"""CricaVPR beyond its golden descriptor: other grids, images that are not square, other configurations."""

import pytest
import torch

from d2vpr_hf.modeling import CricaVPRConfig, CricaVPRModel
from d2vpr_hf.modeling.grid_aggregation import GridAggregator, cell_averaging, cell_edges
from tests.conftest import TINY_CRICAVPR, relative, tiny_cricavpr

PUBLISHED_CUTS = CricaVPRConfig().region_cuts


def describe(model, images):
    with torch.no_grad():
        return model(images).pooler_output


def test_the_published_pyramid():
    config = CricaVPRConfig()
    assert (config.num_regions, config.descriptor_dim, config.feature_size) == (14, 10752, 768)
    assert [cell_edges(cuts, 16) for cuts in PUBLISHED_CUTS] == [[0, 8, 16], [0, 5, 11, 16]]


@pytest.mark.parametrize(
    ("side", "halves", "thirds"),
    [
        (3, [0, 2, 3], [0, 1, 2, 3]),  # 1.5 is rounded to the even edge
        (8, [0, 4, 8], [0, 2, 6, 8]),  # 2.5 and 5.5
        (23, [0, 12, 23], [0, 7, 16, 23]),  # 322 pixels: 11.5, 7.19, 15.81
        (37, [0, 18, 37], [0, 12, 25, 37]),  # 518 pixels: 18.5, 11.56, 25.44
    ],
)
def test_cells_of_other_grids_by_hand(side, halves, thirds):
    assert [cell_edges(cuts, side) for cuts in PUBLISHED_CUTS] == [halves, thirds]


def test_averaging_is_the_mean_over_each_cell():
    """Against slices of the map, on a grid that is not square: swapped axes or a cell too many would show."""
    height, width = 6, 11
    values = torch.randn(height, width, 5)
    rows, columns = [[cell_edges(cuts, side) for cuts in PUBLISHED_CUTS] for side in (height, width)]
    expected = [
        values[top:bottom, left:right].mean((0, 1))
        for level in range(2)
        for top, bottom in zip(rows[level], rows[level][1:], strict=False)
        for left, right in zip(columns[level], columns[level][1:], strict=False)
    ]
    averaging = cell_averaging(PUBLISHED_CUTS, (height, width))
    assert averaging.shape == (13, height * width)
    assert torch.allclose(averaging @ values.flatten(0, 1), torch.stack(expected), atol=1e-6)


def test_aggregation_by_hand():
    """One-hot patches: with p = 3 a region where k of n patches have a channel gives (k / n) ** (1 / 3) there."""
    aggregator = GridAggregator(CricaVPRConfig(region_cuts=[[0.5]]))
    tokens = torch.zeros(1, 1 + 16, 2)
    tokens[:, 0] = torch.tensor([3.0, -4.0])  # is not changed
    tokens[:, 1:, 0] = 7.0  # normalised to 1
    tokens[:, 1] = torch.tensor([0.0, 2.0])  # one of the first quadrant's four patches
    features = aggregator(tokens, (4, 4))[0]
    assert features[0].tolist() == [3.0, -4.0]
    assert features[1].tolist() == pytest.approx([0.75 ** (1 / 3), 0.25 ** (1 / 3)], rel=1e-4)
    assert features[2].tolist() == pytest.approx([1.0, 1e-6], rel=1e-4)


@pytest.mark.parametrize("shape", [(42, 126), (126, 42), (70, 70)])
def test_height_and_width_are_never_swapped(shape):
    """A transposed image through transposed weights gives the same regions in transposed order."""
    model = tiny_cricavpr(use_cross_image_encoder=False)
    transposed = tiny_cricavpr(use_cross_image_encoder=False)
    state = model.state_dict()
    for name, tensor in state.items():
        if name == "embeddings.position_embeddings":
            grid = tensor[:, 1:].unflatten(1, (5, 5)).transpose(1, 2).flatten(1, 2)
            state[name] = torch.cat((tensor[:, :1], grid), dim=1)
        elif tensor.ndim == 4:
            state[name] = tensor.transpose(2, 3)
    transposed.load_state_dict(state)
    images = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, turned = model(images).region_features, transposed(images.transpose(2, 3)).region_features
    order = [0, 1, 3, 2, 4, 5, 8, 11, 6, 9, 12, 7, 10, 13]
    assert relative(turned[:, order], expected) < 2e-6
    assert relative(turned, expected) > 1e-3


def test_batch_of_four_equals_four_batches_of_one_without_the_encoder():
    model = tiny_cricavpr(use_cross_image_encoder=False)
    images = torch.randn(4, 3, 70, 98)
    assert relative(describe(model, images), torch.cat([describe(model, image[None]) for image in images])) < 1e-6


def test_with_the_encoder_a_descriptor_depends_on_its_batch():
    model = tiny_cricavpr()
    images = torch.randn(3, 3, 70, 70)
    assert relative(describe(model, images[:1]), describe(model, images)[:1]) > 1e-3


def test_images_with_too_few_patches_are_refused():
    with pytest.raises(ValueError, match="2 patches along an axis are too few for 3 regions"):
        tiny_cricavpr()(torch.zeros(1, 3, 28, 70))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"region_cuts": []}, "`region_cuts` must be a list of levels"),
        ({"region_cuts": [0.5]}, "`region_cuts` must be a list of levels"),
        ({"region_cuts": [[0.6, 0.5]]}, "`region_cuts` must be a list of levels"),
        ({"region_cuts": [[0.0]]}, "`region_cuts` must be a list of levels"),
        ({"cross_image_num_heads": 5}, "`hidden_size` must be a multiple of `cross_image_num_heads`"),
        ({"use_swiglu_ffn": 1}, "`use_swiglu_ffn` must be True or False"),
        ({"projection_dim": 673}, "at most the 672 numbers"),
    ],
)
def test_wrong_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CricaVPRConfig(**(TINY_CRICAVPR | changes))


def test_fresh_model_is_the_plain_vit():
    """Adapters end in zeros, so a CricaVPR that starts from DINOv2 has its tokens."""
    torch.manual_seed(0)
    model = CricaVPRModel(CricaVPRConfig(**TINY_CRICAVPR)).eval()
    images = torch.randn(2, 3, 70, 70)
    expected = model(images).last_hidden_state
    for layer in model.encoder.layers:
        layer.adapter_scale = 0.0
    assert torch.equal(model(images).last_hidden_state, expected)


def test_gated_mlps():
    """As wide as DINOv2's: two thirds of four times the width, rounded up to a multiple of 8."""
    assert CricaVPRConfig(hidden_size=1536, num_attention_heads=24, use_swiglu_ffn=True).mlp_size == 4096
    model = tiny_cricavpr(use_swiglu_ffn=True)
    assert model.encoder.layers[0].mlp.gate_up.weight.shape == (2 * 128, 48)
    model(torch.randn(1, 3, 70, 70)).pooler_output.square().mul(torch.linspace(-1, 1, 672)).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
