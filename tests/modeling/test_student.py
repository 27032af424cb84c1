"""The student beyond its golden descriptors: images that are not square, other configurations, initialisation."""

import copy

import pytest
import torch

from d2vpr_hf.modeling import D2VPRConfig, D2VPRModel
from d2vpr_hf.modeling.deformable_aggregation import region_boxes, sample_grid
from tests.conftest import TINY, relative, tiny_model


def describe(model, images):
    with torch.no_grad():
        return model(images).pooler_output


def transpose_config(config: D2VPRConfig) -> D2VPRConfig:
    """Swap x and y of every region, in the same order."""
    regions = [
        {"level": r["level"], "box": [r["box"][i] for i in (1, 0, 3, 2)], "rows": r["columns"], "columns": r["rows"]}
        for r in config.regions
    ]
    return D2VPRConfig(**(TINY | {"regions": regions}))


def transpose_model(model: D2VPRModel) -> D2VPRModel:
    """Make the model that sees a transposed image as `model` sees the image."""
    transposed = D2VPRModel(transpose_config(model.config)).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "embeddings.position_embeddings":
            side = model.config.position_grid_size
            grid = tensor[:, 1:].unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)
            tensor = torch.cat((tensor[:, :1], grid), dim=1)
        elif tensor.ndim == 4:
            tensor = tensor.transpose(2, 3)
        elif "offset_generator.output" in name or name.endswith("position_encoding.fc1.weight"):
            axis = 0 if "output" in name else 1
            tensor = tensor.index_select(axis, torch.tensor([1, 0, 3, 2]))
        state[name] = tensor
    transposed.load_state_dict(state)
    return transposed


@pytest.mark.parametrize("shape", [(42, 126), (126, 42), (70, 70), (14, 14)])
def test_height_and_width_are_never_swapped(shape):
    model = tiny_model()
    images = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(1))
    turned = describe(transpose_model(model), images.transpose(2, 3))
    assert relative(turned, describe(model, images)) < 2e-6


def test_transposing_the_image_alone_changes_the_descriptor():
    """Without this the test above could pass on a model that is blind to direction."""
    model = tiny_model()
    images = torch.randn(1, 3, 42, 126)
    assert relative(describe(model, images.transpose(2, 3)), describe(model, images)) > 1e-2


def test_batch_of_four_equals_four_batches_of_one():
    model = tiny_model()
    images = torch.randn(4, 3, 70, 98)
    assert relative(describe(model, images), torch.cat([describe(model, image[None]) for image in images])) < 1e-6


def test_cross_image_encoder_looks_at_the_batch_and_takes_one_image():
    model = tiny_model(use_cross_image_encoder=True)
    images = torch.randn(3, 3, 70, 70)
    together, alone = describe(model, images)[:1], describe(model, images[:1])
    assert alone.shape == together.shape
    assert relative(alone, together) > 1e-3


def test_cross_image_encoder_equals_torchs_layers():
    """The layers are written on our own attention; torch's `nn.TransformerEncoderLayer` says what they compute."""
    model = tiny_model(use_cross_image_encoder=True)
    features = torch.randn(5, 14, 48)
    expected = features
    for layer in model.cross_image_encoder.layers:
        reference = torch.nn.TransformerEncoderLayer(48, 4, 32, 0.1, "gelu").eval()
        names = {"attention.qkv.": "self_attn.in_proj_", "attention.proj": "self_attn.out_proj", "mlp.fc": "linear"}
        state = {}
        for name, tensor in layer.state_dict().items():
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            state[name] = tensor
        reference.load_state_dict(state)
        expected = reference(expected)
    assert relative(model.cross_image_encoder(features), expected) < 1e-6


def test_offsets_and_scales_by_hand():
    """With a constant offset map every position is known in closed form."""
    model = tiny_model()
    output = model.aggregator.sampler.offset_generator.output
    torch.nn.init.zeros_(output.weight)
    output.bias.data = torch.tensor([0.1, -9.0, 0.0, 100.0])
    positions = model(torch.randn(1, 3, 70, 70)).sampling_positions[0]
    # the first medium region: box 0..0.5, centre 0.25, size 0.5, 8 x 8 samples, row by row
    # x: scale 0.5 + 1.5 * sigmoid(0) = 1.25 and offset 0.1 * 0.5; y: scale 2 and an offset cut at -0.25 * 0.5
    x = (0.25 + (torch.linspace(0, 0.5, 8) - 0.25) * 1.25 + 0.05).clamp(0, 1)
    y = (0.25 + (torch.linspace(0, 0.5, 8) - 0.25) * 2.0 - 0.125).clamp(0, 1)
    assert torch.allclose(positions[:64], torch.cartesian_prod(y, x).flip(1), atol=1e-6)


def test_region_boxes_are_those_of_the_positions():
    model = tiny_model()
    output = model(torch.randn(2, 3, 70, 70))
    start = 0
    for region, count in enumerate(model.config.sample_counts, 1):
        points = output.sampling_positions[:, start : start + count]
        expected = torch.cat((points.mean(1), points.amax(1) - points.amin(1)), dim=1)
        assert torch.allclose(output.region_boxes[:, region], expected, atol=1e-6)
        start += count
    assert start == 512


def test_default_regions_are_the_published_ones():
    config = D2VPRConfig()
    assert config.sample_counts == [64] * 4 + [25, 30, 25, 30, 36, 30, 25, 30, 25]
    assert [(r["rows"], r["columns"]) for r in config.regions[4:7]] == [(5, 5), (5, 6), (5, 5)]
    neighbours = [config.overlapping_small_regions(i) for i in range(4)]
    assert neighbours == [[4, 5, 7, 8], [5, 6, 8, 9], [7, 8, 10, 11], [8, 9, 11, 12]]
    assert (config.num_regions, config.descriptor_dim, config.tap_layers) == (14, 10752, [2, 4, 8, 12])


SWITCHES = ("use_offsets", "use_scales", "use_top_down_fusion", "use_position_encoding", "published_offset_sampling")


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_changes_the_descriptor_and_leaves_no_idle_weight(switch):
    full, ablated = tiny_model(), tiny_model(**{switch: False})
    ablated.load_state_dict({k: v for k, v in full.state_dict().items() if k in ablated.state_dict()})
    images = torch.randn(2, 3, 70, 70)
    assert relative(describe(ablated, images), describe(full, images)) > 1e-4
    ablated(images).pooler_output.square().sum().backward()
    assert [name for name, weight in ablated.named_parameters() if weight.grad is None] == []


def test_without_offsets_and_scales_samples_stay_on_their_grid():
    model = tiny_model(use_offsets=False, use_scales=False)
    assert model.aggregator.sampler is None
    box = model(torch.randn(1, 3, 70, 70)).region_boxes[0]
    assert torch.allclose(box[1], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    assert torch.allclose(box[9], torch.tensor([0.5, 0.5, 3 / 8, 3 / 8]))


def test_last_layer_instead_of_taps_keeps_the_parameter_count():
    taps, last = (tiny_model(num_hidden_layers=4, use_tap_layers=use) for use in (True, False))
    assert [p.shape for p in taps.parameters()] == [p.shape for p in last.parameters()]
    images = torch.randn(1, 3, 70, 70)
    reads = {model: set() for model in (taps, last)}
    for model, seen in reads.items():
        states = list(model(images, output_hidden_states=True).hidden_states)
        tokens = model.recovery(states)
        for layer in range(5):
            changed = [torch.zeros_like(s) if i == layer else s for i, s in enumerate(states)]
            if not torch.equal(model.recovery(changed), tokens):
                seen.add(layer)
    assert reads[taps] == {1, 3, 4}  # of 4 blocks: a sixth, a third, two thirds and all, rounded
    assert reads[last] == {4}


def test_any_table_of_regions():
    regions = [
        {"level": "small", "box": [0.0, 0.0, 1.0, 0.4], "rows": 2, "columns": 3},
        {"level": "medium", "box": [0.1, 0.1, 0.9, 0.9], "rows": 4, "columns": 2},
    ]
    model = tiny_model(regions=regions)
    output = model(torch.randn(2, 3, 28, 42))
    assert output.sampling_positions.shape == (2, 14, 2)
    assert output.pooler_output.shape == (2, 3 * 48)


def test_projection_by_hand():
    model = tiny_model(projection_dim=5)
    plain = tiny_model()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("projection")})
    images = torch.randn(2, 3, 70, 70)
    expected = (describe(plain, images) - model.projection.mean) @ model.projection.components.T
    assert torch.allclose(describe(model, images), expected, atol=1e-6)
    assert model.config.descriptor_dim == 5


def test_position_embeddings_are_used_as_stored_on_their_grid():
    embeddings = tiny_model().embeddings
    assert torch.equal(embeddings.resample_positions((5, 5)), embeddings.position_embeddings)
    for offset in (0.0, 0.1):
        embeddings.position_offset = offset
        assert embeddings.resample_positions((3, 7)).shape == (1, 22, 32)


@pytest.mark.parametrize("side", range(1, 60))
def test_resampling_gives_the_grid_that_was_asked_for(side):
    """A scale factor that rounds the wrong way would give one row too few; 0.1 was added against that."""
    embeddings = tiny_model().embeddings
    assert embeddings.resample_positions((side, 3)).shape[1] == 1 + 3 * side


def test_fresh_student_is_the_plain_vit_below_the_recovery_module():
    """Adapters end in zeros, so a student initialised from DINOv2 starts as DINOv2."""
    torch.manual_seed(0)
    model = D2VPRModel(D2VPRConfig(**TINY)).eval()
    images = torch.randn(2, 3, 70, 70)
    silent = copy.deepcopy(model)
    for layer in silent.encoder.layers:
        layer.adapter_scale = 0.0
    expected = silent(images, output_hidden_states=True).hidden_states
    assert all(map(torch.equal, model(images, output_hidden_states=True).hidden_states, expected))


def test_fresh_initialisation():
    torch.manual_seed(0)
    state = D2VPRModel(D2VPRConfig(**TINY, use_cross_image_encoder=True)).state_dict()
    for name, tensor in state.items():
        if ".branches." in name and ".conv." in name:
            assert (tensor == 1e-5).all(), name
        if ".adapter.up." in name or name.endswith("recovery.projection.bias"):
            assert (tensor == 0).all(), name
    down = state["encoder.layers.0.adapter.down.weight"]
    assert down.std() == pytest.approx(0.02, rel=0.1)
    # torch's default: uniform within 1 / sqrt(inputs); the offset head's halves are one layer over 2 * 48 inputs
    bounds = {
        "aggregator.sampler.offset_generator.patch_projection.weight": 96,
        "aggregator.sampler.offset_generator.global_projection.bias": 96,
        "aggregator.fusion.small_to_medium.up.weight": 16,
        "aggregator.position_encoding.fc2.weight": 8,
        "cross_image_encoder.layers.0.mlp.fc2.weight": 32,
    }
    for name, inputs in bounds.items():
        assert 0.8 * inputs**-0.5 < state[name].abs().max() <= inputs**-0.5, name
    xavier = (6 / (48 + 3 * 48)) ** 0.5
    assert 0.9 * xavier < state["cross_image_encoder.layers.0.attention.qkv.weight"].abs().max() <= xavier


def test_gradients_agree_with_finite_differences():
    """Autograd through sampling, clamping and the generalised mean, in float64."""
    model = tiny_model().double()
    model.requires_grad_(False)
    images = torch.randn(1, 3, 28, 28, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(14 * 48, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: model(x).pooler_output @ weights, (images,), eps=1e-6, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 70, 70), r"must be floating-point \(batch, 3, height, width\), got torch\.float32 \(3, 70, 70\)"),
        (torch.zeros(1, 1, 70, 70), r"got torch\.float32 \(1, 1, 70, 70\)"),
        (torch.zeros(0, 3, 70, 70), r"\(0, 3, 70, 70\)"),
        (torch.zeros(1, 3, 70, 70, dtype=torch.uint8), r"got torch\.uint8"),
        (torch.zeros(1, 3, 70, 71), "multiples of 14, got 70x71"),
        (torch.zeros(1, 3, 0, 70), "multiples of 14, got 0x70"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(images)


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="output_hiden_states"):
        tiny_model()(torch.zeros(1, 3, 70, 70), output_hiden_states=True)


def region(**changes):
    return {"level": "small", "box": [0, 0, 1, 1], "rows": 2, "columns": 2} | changes


WRONG = [
    ({"hidden_size": "8"}, "`hidden_size` must be a whole number of at least 1, got '8'"),
    ({"num_hidden_layers": 0}, "`num_hidden_layers` must be a whole number"),
    ({"hidden_size": 33}, "`hidden_size` must be a multiple of `num_attention_heads`"),
    ({"image_size": 71}, "`image_size` must be a multiple of `patch_size`"),
    ({"use_cross_image_encoder": True, "cross_image_num_heads": 5}, "`recovery_size` must be a multiple of"),
    ({"tap_layers": [3]}, r"`tap_layers` must be blocks from 1 to `num_hidden_layers` \(2\)"),
    ({"tap_layers": [0, 1]}, "`tap_layers` must be None or whole numbers"),
    ({"tap_layers": 2}, "`tap_layers` must be None or whole numbers"),
    ({"use_offsets": "false"}, "`use_offsets` must be True or False, got 'false'"),
    ({"mlp_ratio": 0}, "`mlp_ratio` must be a number above 0"),
    ({"gem_eps": -1.0}, "`gem_eps` must be a number above 0"),
    ({"offset_limit": float("nan")}, "`offset_limit` must be a number of at least 0"),
    ({"fusion_dropout": 2}, r"`fusion_dropout` must be a number in \[0, 1\)"),
    ({"position_embedding_offset": -0.1}, r"`position_embedding_offset` must be a number in \[0, 1\)"),
    ({"adapter_branch_ratios": [0.5, 0.25, 0.1]}, "must cut the adapter's 16 channels"),
    ({"adapter_kernel_sizes": [1, 2, 5]}, "`adapter_kernel_sizes` must be odd"),
    ({"adapter_kernel_sizes": [1, 3]}, "of one length"),
    ({"scale_range": [2.0, 0.5]}, r"`scale_range` must be \[smallest, largest\]"),
    ({"scale_range": 0.5}, "`scale_range` must be two numbers"),
    ({"projection_dim": 0}, "`projection_dim` must be None or a whole number of at least 1"),
    ({"projection_dim": 673}, "at most the 672 numbers"),
    ({"regions": []}, "`regions` must be a list of regions, at least one"),
    ({"regions": None}, "`regions` must be a list of regions"),
    ({"regions": [region(level="medium")]}, "Top-down fusion needs"),
    ({"regions": [region(level="big")]}, 'level is "medium" or "small"'),
    ({"regions": [region(box=[0, 0, 1.1, 1])]}, "box is"),
    ({"regions": [region(box=None)]}, "box is"),
    ({"regions": [region(rows=1)]}, "at least 2 rows"),
    ({"regions": [region(rows=2.5)]}, "at least 2 rows"),
    ({"regions": [{"box": [0, 0, 1, 1]}]}, "A region has the keys"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        D2VPRConfig(**(TINY | changes))


def test_overrides_are_checked_too(tmp_path):
    """transformers sets them after the configuration was made."""
    D2VPRConfig(**TINY).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`hidden_size` must be a multiple"):
        D2VPRModel(D2VPRConfig.from_pretrained(tmp_path, hidden_size=33))
    with pytest.raises(ValueError, match="have it derived from the depth"):
        D2VPRModel(D2VPRConfig.from_pretrained(tmp_path, num_hidden_layers=1))
    model = D2VPRModel(D2VPRConfig.from_pretrained(tmp_path, num_hidden_layers=3, tap_layers=None))
    assert model.recovery.layers == [1, 1, 2, 3]


def test_a_configuration_shares_nothing_with_its_maker():
    regions = [region(level="medium"), region()]
    config = D2VPRConfig(**(TINY | {"regions": regions}))
    regions[0]["rows"] = 99
    assert config.sample_counts == [4, 4]


def test_where_extremes_tie_the_gradient_goes_to_one_sample():
    """Seeded weights have such ties in float32; splitting the gradient moved 229 gradient norms by up to 1e-3."""
    positions = torch.rand(1, 512, 2)
    positions[0, :64, 0] = 0.25
    positions[0, [3, 7], 0] = 0.9
    positions.requires_grad_()
    grid = sample_grid(D2VPRConfig().regions, torch.device("cpu"))
    region_boxes(positions, grid)[0, 1, 2].backward()
    assert sorted(positions.grad[0, :64, 0].unique().tolist()) == [-1.0, 0.0, 1.0]
