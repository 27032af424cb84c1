"""The way over a GPU, by doubles on a CPU: CUDA graphs, copies while the network computes, and the default precision.

The doubles have the order of a GPU's work, and write into the same memory again as a CUDA graph does.
"""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends import gpu_streams, registry
from d2vpr_hf.backends.cuda_graphs import Recording, ReplayedNetwork
from d2vpr_hf.backends.optimized.optimize import prepare
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.own_models import OwnModel
from d2vpr_hf.encoders.prefix_model import PrefixModel
from d2vpr_hf.encoders.projected_model import ProjectedModel
from d2vpr_hf.modeling import D2VPRImageProcessor
from tests.conftest import tiny_model
from tests.photos import draw

PROCESSOR = D2VPRImageProcessor(size={"height": 70, "width": 70})


def images(count, height=70):
    return torch.randn(count, 3, height, 70, generator=torch.Generator().manual_seed(count))


def network(pixel_values):
    return pixel_values.mean(dim=(2, 3)) + 1


class Recorder:
    """Records a network as a CUDA graph does: each replay reads one input and writes one output."""

    def __init__(self, factor=1.0):
        self.sizes, self.factor = [], factor

    def __call__(self, network, pixel_values):
        self.sizes.append(tuple(pixel_values.shape))
        inputs, outputs = pixel_values.clone(), torch.zeros_like(network(pixel_values))
        return Recording(lambda: outputs.copy_(network(inputs) * self.factor), inputs, outputs)


def test_a_size_is_recorded_when_it_comes_again():
    """The last batch of some photos comes once, and must not take memory for a recording."""
    recorder = Recorder()
    replayed = ReplayedNetwork(network, recorder)
    batches = [images(4), images(4) * 2, images(3), images(4) * 3]
    results = [replayed(batch) for batch in batches]
    assert recorder.sizes == [(4, 3, 70, 70)]
    for batch, result in zip(batches, results, strict=True):  # a later replay does not change an earlier result
        torch.testing.assert_close(result, network(batch))


def test_few_sizes_are_recorded():
    """Photos that are not resized have many sizes, and the activations of each recording stay in memory."""
    recorder = Recorder()
    replayed = ReplayedNetwork(network, recorder)
    for height in range(10, 20):
        for _ in range(2):
            torch.testing.assert_close(replayed(images(1, height)), network(images(1, height)))
    assert len(recorder.sizes) == 4


def test_a_recording_that_fails_is_not_used(caplog):
    def refuse(network, pixel_values):
        raise RuntimeError("operation not permitted when stream is capturing")

    replayed = ReplayedNetwork(network, refuse)
    with caplog.at_level(logging.WARNING):
        results = [replayed(images(2)) for _ in range(4)]
    assert all(torch.equal(result, network(images(2))) for result in results)
    assert [record.message for record in caplog.records] == [
        "Images of the size (2, 3, 70, 70) run without a CUDA graph: operation not permitted when stream is capturing"
    ]


def test_a_recording_with_other_numbers_is_not_used(caplog):
    """It could read memory that was freed after the first run; the descriptors would be wrong in silence."""
    replayed = ReplayedNetwork(network, Recorder(factor=1.01))
    with caplog.at_level(logging.WARNING):
        results = [replayed(images(2)) for _ in range(4)]
    assert all(torch.equal(result, network(images(2))) for result in results)
    assert "changes their descriptors by 0.01 of their length" in caplog.text


class CpuMemory(TorchDispatchMode):
    """Notes operations whose results are in the memory of the CPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in tree_leaves(result)):
            self.names.append(str(function))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prepared_model_reads_no_memory_of_the_cpu(dtype):
    """A CUDA graph would read it again at each replay, when it holds something else: the matrix of the fusion did."""
    prepared = prepare(tiny_model(), dtype).to("meta")
    with torch.inference_mode():
        prepared(torch.zeros(2, 3, 70, 70, device="meta"))  # position embeddings of this size are resampled once
        with CpuMemory() as memory:
            prepared(torch.zeros(2, 3, 70, 70, device="meta"))
    assert not memory.names


class Streams:
    """Notes the order of copies; a result is there when it is waited for."""

    def __init__(self):
        self.order = []

    def to_device(self, pixel_values):
        self.order.append(f"copy {len(pixel_values)}")
        return pixel_values

    def to_cpu(self, descriptors):
        number = len([event for event in self.order if event.startswith("copy")])
        self.order.append(f"compute {number}")

        def finish():
            self.order.append(f"wait {number}")
            return descriptors.numpy()

        return finish


@pytest.fixture
def gpu_encoder(monkeypatch):
    """An encoder whose model seems to be on a GPU, with the streams that it uses."""
    stacked = []
    monkeypatch.setattr(gpu_streams, "stack_pinned", lambda photos: stacked.append(len(photos)) or np.stack(photos))
    encoder = PlaceEncoder(tiny_model(), PROCESSOR, device="cpu", batch_size=2)
    encoder.backend.streams = Streams()
    encoder.descriptor_model.device = SimpleNamespace(type="cuda")
    return encoder, encoder.backend.streams, stacked


def test_the_gpu_gets_a_batch_before_the_former_one_is_fetched(gpu_encoder, tmp_path):
    """Otherwise the GPU waits while the CPU stacks and copies the next photos."""
    encoder, streams, stacked = gpu_encoder
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    photos = [draw(0), draw(1), tmp_path / "broken.jpg", draw(2), draw(3), draw(4)]
    reported = []
    encoded = encoder.encode(photos, on_batch=lambda batch: reported.extend(batch.rows.tolist()))
    assert streams.order == [
        *("copy 2", "compute 1", "copy 1", "compute 2", "wait 1"),
        *("copy 2", "compute 3", "wait 2", "wait 3"),
    ]
    assert stacked == [2, 1, 2] and reported == [0, 1, 3, 4, 5] and list(encoded.skipped) == [2]
    plain = PlaceEncoder(tiny_model(), PROCESSOR, device="cpu", batch_size=2).encode(photos)
    assert np.array_equal(encoded.descriptors, plain.descriptors)
    assert np.array_equal(encoded.rows, plain.rows)


@pytest.mark.parametrize(
    "wrap", [lambda model: ProjectedModel(model, lambda descriptors: descriptors[:, :8]), lambda model: PrefixModel(model, 8)]
)
def test_descriptors_from_a_gpu_are_changed_by_wrappers(gpu_encoder, wrap):
    """A wrapper passes on the methods of its model: unprojected descriptors would be taken for projected ones."""
    encoder, streams, _ = gpu_encoder
    wrapped = wrap(encoder.descriptor_model)
    pixels = images(2).numpy()
    finish = wrapped.start_describing(pixels)
    assert streams.order == ["copy 2", "compute 1"]
    assert np.array_equal(finish(), wrapped.describe(pixels))
    with pytest.raises(ValueError, match="`resize_on_gpu=True` needs a model of this package"):
        PlaceEncoder(wrapped, resize_on_gpu=True)


def test_a_wrapper_without_the_method_computes_as_on_a_cpu(gpu_encoder):
    """A wrapper of another program may pass on a method that it does not know, without its change of the descriptors."""

    class Negated:
        def __init__(self, model):
            self._model = model

        def __getattr__(self, name):
            return getattr(self._model, name)

        def describe(self, pixel_values):
            return -self._model.describe(pixel_values)

    encoder, _, stacked = gpu_encoder
    encoder.descriptor_model = Negated(encoder.descriptor_model)
    encoded = encoder.encode([draw(0), draw(1)])
    plain = PlaceEncoder(tiny_model(), PROCESSOR, device="cpu", batch_size=2).encode([draw(0), draw(1)])
    assert np.array_equal(encoded.descriptors, -plain.descriptors) and not stacked


@pytest.fixture
def resizing_encoder(gpu_encoder, monkeypatch):
    """An encoder whose photos the GPU resizes."""
    encoder, _, _ = gpu_encoder
    monkeypatch.setattr(gpu_streams, "pin", lambda photo: photo)
    encoder.resize_on_gpu = True
    assert encoder.descriptor_model.can_resize_on_gpu
    return encoder


def test_a_gpu_resizes_photos_of_several_sizes_in_one_batch(resizing_encoder):
    """Batches by the size of the file would be as small as there are sizes; arrays come as pixel values among bytes."""
    photos = [draw(0, 80, 100), np.asarray(draw(1)), draw(2, 100, 80), draw(3, 80, 100).convert("L"), draw(4)]
    encoded = resizing_encoder.encode(photos)
    assert resizing_encoder.backend.streams.order[-1] == "wait 5"  # one copy for each photo
    plain = PlaceEncoder(tiny_model(), PROCESSOR, device="cpu", batch_size=2).encode(photos)
    np.testing.assert_allclose(encoded.descriptors, plain.descriptors, atol=1e-6)
    assert encoded.rows.tolist() == [0, 1, 2, 3, 4]


def test_a_gpu_that_resizes_differently_is_not_used(resizing_encoder, monkeypatch, caplog):
    """Its descriptors would differ in silence from those of an index."""
    photos = [draw(number, 80, 100) for number in range(4)]
    resizing = resizing_encoder.descriptor_model.gpu_resizing
    to_device, on_gpu = resizing_encoder.backend.streams.to_device, []

    def brighten(photo):
        on_gpu.append(photo.dtype)
        return to_device(photo if photo.is_floating_point() else photo // 2 + 100)

    monkeypatch.setattr(resizing_encoder.backend.streams, "to_device", brighten)
    with caplog.at_level(logging.WARNING, "d2vpr_hf.encoders.gpu_resizing"):
        encoded = resizing_encoder.encode(photos)
    plain = PlaceEncoder(tiny_model(), PROCESSOR, device="cpu", batch_size=2).encode(photos)
    np.testing.assert_allclose(encoded.descriptors, plain.descriptors, atol=1e-6)
    assert not resizing.is_equal and torch.uint8 not in on_gpu[2:]
    messages = [record.message for record in caplog.records if "resizes" in record.message]
    assert len(messages) == 1 and messages[0].startswith("The GPU resizes photos of the size (80, 100) with pixel values that")


def test_only_a_gpu_resizes():
    with pytest.raises(ValueError, match=r"`resize_on_gpu=True` needs a model .* on a GPU .* on cpu\. Omit it"):
        PlaceEncoder(tiny_model(), PROCESSOR, device="cpu", resize_on_gpu=True)


def test_a_backend_on_a_cpu_computes_when_the_result_is_needed():
    model = OwnModel(tiny_model(), PROCESSOR, "cpu")
    finish = model.start_describing(images(2).numpy())
    assert np.array_equal(finish(), model.describe(images(2).numpy()))


@pytest.mark.parametrize(
    ("capability", "device", "dtype", "precision"),
    [
        ((9, 0), "cuda", torch.float32, "bf16"),
        ((8, 0), "cuda", torch.float32, "bf16"),
        ((7, 5), "cuda", torch.float32, "fp32"),
        ((9, 0), "cuda", torch.float16, "fp16"),
        ((9, 0), "cpu", torch.float32, "fp32"),
        (RuntimeError("no driver"), "cuda", torch.float32, "fp32"),
    ],
)
def test_the_default_precision_is_bfloat16_where_a_gpu_is_faster_in_it(capability, device, dtype, precision, monkeypatch):
    def get_capability(device):
        if isinstance(capability, Exception):
            raise capability
        return capability

    model = tiny_model().to(dtype)
    monkeypatch.setattr(torch.cuda, "get_device_capability", get_capability)
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device(device)))
    assert registry.settle_backend(model, "torch", None) == Runtime("torch", precision)
    assert registry.settle_backend(model, "torch", "fp32") == Runtime("torch", "fp32")


def test_a_model_that_cannot_be_prepared_runs_in_the_type_of_its_weights(monkeypatch):
    """Its code would run in bfloat16 as a whole, and move sampling points."""
    model = tiny_model()
    model.recovery.projection.register_forward_hook(lambda *call: None)
    monkeypatch.setattr(registry, "has_bfloat16_units", lambda device: True)
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("cuda")))
    assert registry.default_precision(model) == "fp32"


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [("torch fp32", "torch fp32"), ("torch bf16", "torch bf16"), ("openvino fp32", "torch bf16"), (None, "torch bf16")],
)
def test_an_index_in_the_type_of_the_weights_is_continued_in_it(recorded, expected):
    """An index of an earlier version on a GPU was made in float32; its next rows and queries must not differ in silence."""
    model = OwnModel(tiny_model(), PROCESSOR, "cpu", precision="bf16")  # as chosen on a GPU
    model.keep_runtime(None if recorded is None else Runtime.parse(recorded))
    assert str(model.runtime) == expected
