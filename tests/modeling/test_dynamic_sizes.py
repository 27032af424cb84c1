"""One traced graph for images of all sizes: a size that Python reads from a shape becomes a constant of the graph."""

import functools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from d2vpr_hf.backends.optimized.optimize import prepare
from d2vpr_hf.modeling import AGGREGATORS
from d2vpr_hf.modeling.resampling import resample_axis
from d2vpr_hf.utils.optional_imports import import_extra
from tests.conftest import relative, tiny_cricavpr, tiny_model
from tests.modeling.test_contract import NEEDS_INDUCTOR

CHANGES = {  # of models of one block, whose program torch makes in half the time
    **{name: {"aggregator": name, "use_cross_image_encoder": True} for name in AGGREGATORS},
    "without offsets, projected": {"use_offsets": False, "use_scales": False, "projection_dim": 5},
    "no offset of positions": {"position_embedding_offset": 0.0},
    "cricavpr": {},
}
EXAMPLE = (2, 3, 56, 84)
SHAPES = ((3, 3, 42, 126), (2, 3, 140, 56), (4, 3, 70, 98), (2, 3, 70, 70))  # position embeddings are stored for 70x70


def dynamic_shapes():
    dim = torch.export.Dim
    rows, columns = dim("rows", min=3, max=128), dim("columns", min=3, max=128)  # the teacher's regions need three patches
    return {"pixel_values": {0: dim("batch", min=1, max=64), 2: 14 * rows, 3: 14 * columns}}


def make(kind):
    return (tiny_cricavpr if kind == "cricavpr" else tiny_model)(num_hidden_layers=1, **CHANGES[kind])


@functools.cache
def exported(kind, strict=False):
    """Return a model, and its program for images of any size. The program returns a tuple where `strict` is off.

    A class of outputs would have to be imported before a saved program is loaded.
    """
    model = make(kind)
    model.config.return_dict = strict
    with torch.no_grad():
        program = torch.export.export(model, (images(*EXAMPLE),), dynamic_shapes=dynamic_shapes(), strict=strict)
    model.config.return_dict = True
    return model, program


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def assert_equal_descriptors(describe, model):
    for shape in SHAPES:
        assert relative(describe(images(*shape)), model(images(*shape)).pooler_output) < 1e-5, shape


def as_it_is(model):
    return model


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "strict"), [*((kind, False) for kind in CHANGES), ("deformable", True), slow("cricavpr", True)]
)
def test_an_exported_program_takes_images_of_any_size(kind, strict):
    model, program = exported(kind, strict)
    describe = program.module()
    assert_equal_descriptors(lambda batch: describe(batch)[1], model)
    assert relative(describe(images(1, 3, 56, 98))[1], model(images(1, 3, 56, 98)).pooler_output) < 1e-5


def test_torch_finds_the_multiples_itself():
    """With `Dim.DYNAMIC` in place of multiples of 14; a check that torch cannot follow would fix the size."""
    dims = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    model = make("cricavpr")
    describe = torch.export.export(model, (images(*EXAMPLE),), dynamic_shapes={"pixel_values": dims}).module()
    assert_equal_descriptors(lambda batch: describe(batch).pooler_output, model)


RUN_SAVED = """
    import sys, torch
    program, images, descriptors = sys.argv[1:]
    describe = torch.export.load(program).module()
    torch.save([describe(batch)[1] for batch in torch.load(images)], descriptors)
    assert not {"d2vpr_hf", "transformers"} & set(sys.modules)
"""


@pytest.mark.parametrize("kind", ["deformable", "cricavpr"])
def test_a_saved_program_runs_by_torch_alone(kind, tmp_path):
    """`torch.export.save` writes fewer operations on sizes than a program may have: neither `abs` nor `math.ceil`."""
    model, program = exported(kind)
    torch.export.save(program, tmp_path / "model.pt2")
    torch.save([images(*shape) for shape in SHAPES], tmp_path / "images.pt")
    files = [tmp_path / name for name in ("model.pt2", "images.pt", "descriptors.pt")]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(RUN_SAVED), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    descriptors = dict(zip(SHAPES, torch.load(files[2]), strict=True))
    assert_equal_descriptors(lambda batch: descriptors[tuple(batch.shape)], model)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=(NEEDS_INDUCTOR, pytest.mark.slow))])
@pytest.mark.parametrize(
    ("kind", "change"), [("deformable", as_it_is), slow("cricavpr", as_it_is), slow("deformable", prepare)]
)
def test_one_compiled_graph_takes_images_of_any_size(kind, change, backend):
    """For a batch of one image torch makes another graph."""
    torch._dynamo.reset()
    model = make(kind)
    compiled = torch.compile(change(model), backend=backend, dynamic=True, fullgraph=True)
    with torch.no_grad():
        compiled(images(*EXAMPLE))
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_equal_descriptors(lambda batch: compiled(batch).pooler_output, model)


@pytest.mark.parametrize("kind", ["deformable", "cricavpr"])
def test_a_model_is_written_as_onnx_without_a_wrapper(kind, tmp_path):
    model = make(kind)
    with torch.no_grad():
        program = torch.onnx.export(
            model, (images(*EXAMPLE),), dynamo=True, opset_version=20, dynamic_shapes=dynamic_shapes(), verbose=False
        )
    program.save(tmp_path / "model.onnx")
    session = import_extra("onnxruntime", "export").InferenceSession(tmp_path / "model.onnx")

    def describe(batch):
        outputs = session.run(None, {"pixel_values": batch.numpy()})
        return next(torch.from_numpy(values) for values in outputs if values.shape == (len(batch), 14 * 48))

    assert_equal_descriptors(describe, model)


def published_positions(embeddings, grid_size):
    """Resample by torch as DINOv2's first release does, or by size as transformers' Dinov2 does."""
    side, offset = embeddings.position_grid_size, embeddings.position_offset
    grid = embeddings.position_embeddings[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, N, C) -> (1, C, H, W)
    factors = tuple((length + offset) / side for length in grid_size)
    rule = {"scale_factor": factors} if offset else {"size": grid_size}
    resampled = interpolate(grid, mode="bicubic", align_corners=False, **rule).flatten(2).transpose(1, 2)
    return torch.cat((embeddings.position_embeddings[:, :1], resampled), dim=1)


@pytest.mark.parametrize("stored", [14, 70, 518])
@pytest.mark.parametrize("offset", [0.0, 0.1])
@torch.no_grad()
def test_positions_are_resampled_by_the_published_rule(stored, offset):
    embeddings = tiny_model(image_size=stored, position_embedding_offset=offset).embeddings
    torch.nn.init.normal_(embeddings.position_embeddings)
    for grid_size in ((16, 16), (23, 23), (3, 11), (24, 32), (1, 2)):
        expected = published_positions(embeddings, grid_size)
        assert relative(embeddings.resample_positions(grid_size), expected) < 1e-6, grid_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_on_the_stored_grid_an_exported_graph_uses_the_stored_positions(dtype, offset):
    """Resampling there by the offset would move all of them."""
    embeddings = tiny_model(position_embedding_offset=offset).embeddings.to(dtype)
    torch.nn.init.zeros_(embeddings.patch_embeddings.weight)
    torch.nn.init.zeros_(embeddings.patch_embeddings.bias)
    torch.nn.init.zeros_(embeddings.cls_token)
    program = torch.export.export(embeddings, (images(*EXAMPLE),), dynamic_shapes=dynamic_shapes())
    assert torch.equal(program.module()(images(1, 3, 70, 70)), embeddings.position_embeddings)
    assert program.module()(images(1, 3, 42, 98)).shape == (1, 22, 32)


def test_samples_at_stored_values_are_not_rounded():
    """Not by autocast, which computes products in half precision, nor by gradients, which are those of a copy."""
    grid = torch.randn(5, 4, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample_axis(grid, 5, 1.0), grid)
    resample_axis(grid, 5, 1.0).square().sum().backward()
    assert torch.equal(grid.grad, 2 * grid)


@pytest.mark.parametrize("target", [5, 3, 11, 37, 16])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_bicubic_resampling_by_a_scale_equals_torch(target, offset):
    row = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    factors = ((target + offset) / 5, 1.0)
    expected = interpolate(row[None, None], scale_factor=factors, mode="bicubic", align_corners=False)[0, 0]
    assert relative(resample_axis(row, target, 5 / (target + offset)), expected) < 1e-6


def test_beyond_the_edges_the_outer_values_repeat():
    samples = resample_axis(torch.tensor([2.0, 2.0, 2.0]), 7, 3 / 7.1)
    assert np.allclose(samples, 2, atol=1e-6)
