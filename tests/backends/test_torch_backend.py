"""The prepared model and the torch backend: the plain model's numbers, faster.

Tolerances: folding in float64 and other orders of sums move a float32 descriptor by 4e-7 of its norm here.
"""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.optimized.optimize import prepare
from d2vpr_hf.backends.protocol import check_backend
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.backends.torch_backend import TorchBackend
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.modeling.deformable_aggregation import DeformableAggregator
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.utils.optional_imports import import_extra
from tests.conftest import PARITY, parity_images, published_weights, relative, tiny_cricavpr, tiny_model
from tests.photos import draw

HALF = [torch.bfloat16, torch.float16]
MODELS = {
    "student": tiny_model,
    "without offsets": lambda: tiny_model(use_offsets=False, use_scales=False),
    "without fusion": lambda: tiny_model(use_top_down_fusion=False, use_position_encoding=False),
    "gated": lambda: tiny_model(use_swiglu_ffn=True),
    "without a bias": lambda: tiny_model(qkv_bias=False),
    "branches of several widths": lambda: tiny_model(adapter_branch_ratios=[0.25, 0.5, 0.25]),
    "direct branches alone": lambda: tiny_model(adapter_branch_ratios=[0.5, 0.5], adapter_kernel_sizes=[1, 1]),
    "projected": lambda: tiny_model(projection_dim=8),
    "with cross-image encoder": lambda: tiny_model(use_cross_image_encoder=True),
    "teacher": tiny_cricavpr,
}


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def describe(model, pixels):
    return model(pixels).pooler_output


@pytest.mark.parametrize("form", [{"on_cpu": True}, {}, {"for_graph": True}])
@pytest.mark.parametrize("kind", MODELS)
def test_a_prepared_model_gives_the_plain_descriptors(kind, form):
    """Channels joined in a wrong order, a forgotten scale, x and y swapped where samples are gathered."""
    model = MODELS[kind]()
    prepared = prepare(model, **form)
    for size in ((70, 70), (42, 126), (126, 42), (70, 70)):
        assert relative(describe(prepared, images(3, 3, *size)), describe(model, images(3, 3, *size))) < 3e-6


def test_a_prepared_model_gives_the_published_descriptor(tmp_path):
    """At full size, with seeded weights in the published form."""
    from d2vpr_hf.convert import convert_weights

    torch.save({"model_state_dict": published_weights("d2vpr")}, tmp_path / "a.pth")
    convert_weights(tmp_path / "a.pth", tmp_path / "out")
    descriptors = TorchBackend(load_model(tmp_path / "out")).encode(parity_images("d2vpr", 2, 224))
    golden = load_file(PARITY / "golden.safetensors")["d2vpr.descriptor"]
    assert relative(torch.from_numpy(descriptors), golden) < 3e-6


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_keeps_sampling_and_pooling_in_float32(dtype):
    """All in bfloat16, samples move by a hundredth of the image and powers of small numbers vanish."""
    model = tiny_model()
    with torch.no_grad():
        exact, rounded = model(images(4, 3, 70, 70)), prepare(model, dtype, on_cpu=True)(images(4, 3, 70, 70))
    assert rounded.pooler_output.dtype == rounded.sampling_positions.dtype == rounded.last_hidden_state.dtype == torch.float32
    assert torch.isfinite(rounded.pooler_output).all()
    assert torch.cosine_similarity(rounded.pooler_output, exact.pooler_output).min() > 0.9999
    assert (rounded.sampling_positions - exact.sampling_positions).abs().mean() < 1e-3


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_survives_large_activations(dtype):
    """DINOv2's residual streams have single values of hundreds; in half precision all other values would vanish."""
    model = tiny_model()
    model.embeddings.cls_token.data[..., 0] = 1e3
    rounded = describe(prepare(model, dtype, on_cpu=True), images(2, 3, 70, 70))
    assert torch.cosine_similarity(rounded, describe(model, images(2, 3, 70, 70))).min() > 0.999


def test_even_surfaces_keep_their_colour_in_bfloat16():
    """Each pixel of a sky is rounded the same way: over a patch that added up, and moved descriptors by up to a tenth."""
    model = load_model(None).eval()
    colours = torch.empty(32, 3, 1, 1).uniform_(-2, 2.6, generator=torch.Generator().manual_seed(0))
    flat = colours.expand(32, 3, 28, 28)
    with torch.no_grad():
        exact, rounded = (prepare(model, dtype).embeddings(flat) for dtype in (torch.float32, torch.bfloat16))
    changes = (rounded - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert changes.max() < 0.004  # the product is rounded by up to 2**-8; it was 0.007


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_preparing_does_not_change_the_model(dtype):
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    prepare(model, dtype, on_cpu=True)
    assert all(
        torch.equal(before[name], tensor) and before[name].dtype == tensor.dtype for name, tensor in model.state_dict().items()
    )
    assert type(model.encoder.layers[0]).__name__ == "AdapterBlock"


@pytest.mark.parametrize("on_cpu", [True, False])
def test_a_part_without_a_faster_form_runs_unchanged(on_cpu):
    """An added aggregator must not need changes here. A subclass has its own forward, which the faster form does not know."""

    class Louder(DeformableAggregator):
        def _pool(self, *arguments):
            return 2 - super()._pool(*arguments)

    model = tiny_model()
    before = describe(model, images(2, 3, 70, 70))
    model.aggregator.__class__ = Louder
    prepared = prepare(model, on_cpu=on_cpu)
    assert prepared.aggregator is model.aggregator
    assert relative(describe(prepared, images(2, 3, 70, 70)), describe(model, images(2, 3, 70, 70))) < 3e-6
    assert relative(describe(model, images(2, 3, 70, 70)), before) > 0.01


def test_a_model_in_training_is_not_prepared():
    with pytest.raises(ValueError, match=r"call `model\.eval\(\)` first"):
        prepare(tiny_model().train())


@pytest.mark.parametrize("count", [1, 2, 3, 8, 17])
def test_photos_divided_over_cores_keep_their_order(count, monkeypatch):
    monkeypatch.setattr("d2vpr_hf.backends.torch_backend.num_cores", lambda: 2)
    model = tiny_model()
    found = TorchBackend(model).encode(images(count, 3, 70, 70))
    assert relative(torch.from_numpy(found), describe(model, images(count, 3, 70, 70))) < 3e-6


def test_a_batch_for_a_cross_image_encoder_is_not_divided(monkeypatch):
    """With a cross-image encoder half a batch gives other descriptors."""
    monkeypatch.setattr("d2vpr_hf.backends.torch_backend.num_cores", lambda: 2)
    model = tiny_model(use_cross_image_encoder=True)
    found = TorchBackend(model).encode(images(8, 3, 70, 70))
    assert relative(torch.from_numpy(found), describe(model, images(8, 3, 70, 70))) < 3e-6


def test_weights_in_half_precision_choose_the_precision():
    backend = TorchBackend(tiny_model().bfloat16())
    assert backend.precision == "bf16"
    assert np.isfinite(backend.encode(images(1, 3, 70, 70))).all()


def test_an_encoder_groups_photos_by_size_and_keeps_their_order():
    """Without resizing, photos of several sizes share a batch."""
    model, processor = tiny_model(), D2VPRImageProcessor(do_resize=False)
    photos = [draw(i, *size) for i, size in enumerate([(70, 98), (42, 56), (70, 98), (98, 70), (42, 56)])]
    together = PlaceEncoder(model, processor, batch_size=4).encode(photos).descriptors
    alone = [PlaceEncoder(model, processor).encode([photo]).descriptors[0] for photo in photos]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_reopening_the_backend_takes_up_changes_of_the_model():
    model, processor = tiny_model(), D2VPRImageProcessor(size={"height": 70, "width": 70})
    encoder = PlaceEncoder(model, processor)
    before = encoder.encode([draw(0)]).descriptors
    model.recovery.projection.weight.data.mul_(-1)
    encoder.reopen_backend()
    assert np.abs(encoder.encode([draw(0)]).descriptors - before).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("tensorrt", None, "A backend is auto, torch, .*, got 'tensorrt'"),
        ("torch", "int8", "The precision of the backend torch is fp32 or bf16 or fp16, got 'int8'"),
        ("auto", "fp8", "got 'fp8'"),
    ],
)
def test_unknown_backends_and_precisions_are_refused(name, precision, message):
    with pytest.raises(ValueError, match=message):
        check_backend(name, precision)


def test_the_error_of_a_missing_extra_names_the_command_that_installs_it():
    with pytest.raises(
        ImportError, match=r'no_such_library cannot be imported .*: pip install "d2vpr-hf\[export\]" installs it'
    ):
        import_extra("no_such_library.part", "export")


@pytest.mark.slow
def test_a_compiled_model_gives_the_plain_descriptors():
    model = tiny_model()
    backend = TorchBackend(model, compiled=True)
    for size in ((70, 70), (42, 126), (70, 70)):
        found = torch.from_numpy(backend.encode(images(2, 3, *size)))
        assert relative(found, describe(model, images(2, 3, *size))) < 3e-6


@pytest.mark.parametrize("choice", [("torch", None), ("torch", "bf16"), ("torch-compiled", "fp16"), ("auto", "fp16")])
def test_an_encoder_names_its_runtime_without_opening_the_backend(choice):
    """An index notes it, and to compare it nothing must be converted or compiled."""
    model, processor = tiny_model(), D2VPRImageProcessor(size={"height": 70, "width": 42})
    encoder = PlaceEncoder(model, processor, backend=choice[0], precision=choice[1], device="cpu")
    runtime = encoder.runtime
    assert "backend" not in vars(encoder)
    assert runtime == Runtime(encoder.backend.name, encoder.backend.precision)
