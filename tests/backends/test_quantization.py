"""int8 weights with which no processor saturates. This holds by arithmetic, on whatever processor the test runs."""

import numpy as np
import onnx
import pytest
import torch

from d2vpr_hf.backends.graph.quantization import quantize_graph, safe_scales

INT16 = np.iinfo(np.int16)


def saturating_product(activations, weights):
    """Multiply (B, K) uint8 by (K, N) int8 as AVX2's `vpmaddubsw` does: pairs of products are added in 16 bits."""
    products = activations.astype(np.int64)[:, :, None] * weights.astype(np.int64)  # (B, K, N)
    pairs = products.reshape(len(activations), -1, 2, weights.shape[1]).sum(axis=2)
    return pairs.clip(INT16.min, INT16.max).sum(axis=1)


def quantise(weights, scales):
    return np.rint(weights / scales).clip(-127, 127).astype(np.int8)


def largest_pair(weights):
    """Return the largest sum of two neighbouring weights of the same sign, of (K, N) int8."""
    pairs = np.pad(weights.astype(int), ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1])
    return max(np.clip(sign * pairs, 0, None).sum(axis=1).max() for sign in (1, -1))


@pytest.mark.parametrize("kind", ["normal", "heavy-tailed", "constant", "odd"])
def test_safe_scales_do_not_saturate(kind):
    """Weights up to 127 gave descriptors three times less exact on processors without VNNI."""
    generator = np.random.default_rng(0)
    weights = {
        "normal": generator.normal(size=(64, 40)),
        "heavy-tailed": generator.standard_t(2, size=(64, 40)),
        "constant": np.full((64, 40), -0.3),
        "odd": generator.normal(size=(63, 40)),
    }[kind].astype(np.float32)
    quantised = quantise(weights, safe_scales(weights))
    assert largest_pair(quantised) * 255 <= INT16.max
    padded = np.pad(quantised, ((0, len(quantised) % 2), (0, 0)))
    activations = np.concatenate([255 * (padded.T > 0), 255 * (padded.T < 0)]).astype(np.uint8)  # the worst for each column
    np.testing.assert_array_equal(
        saturating_product(activations, padded), activations.astype(np.int64) @ padded.astype(np.int64)
    )


def test_scales_of_eight_bits_saturate():
    """Otherwise the test above would pass with any scales."""
    weights = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
    quantised = quantise(weights, np.abs(weights).max(axis=0) / 127)
    activations = np.full((1, 64), 255, np.uint8)
    assert largest_pair(quantised) * 255 > INT16.max
    assert (saturating_product(activations, quantised) != activations.astype(np.int64) @ quantised.astype(np.int64)).any()


def test_safe_scales_are_finer_than_seven_bits():
    """Seven bits are safe too, but coarser: a pair of neighbours has seldom two large weights."""
    weights = np.random.default_rng(0).normal(size=(96, 288)).astype(np.float32)
    assert np.median(safe_scales(weights) / (np.abs(weights).max(axis=0) / 64)) < 0.8


def test_a_channel_of_zeros_has_a_scale():
    """A scale of 0 makes descriptors that are not finite."""
    assert safe_scales(np.zeros((4, 2), np.float32)).tolist() == [1, 1]


def test_exported_weights_cannot_saturate(quantised):
    graph = onnx.load(quantised[0] / "model.onnx").graph
    weights = [onnx.numpy_helper.to_array(weight) for weight in graph.initializer]
    weights = [weight for weight in weights if weight.dtype == np.int8 and weight.ndim == 2]
    assert len(weights) == 2 * 9 + 3  # of two blocks, patches, recovery and offsets
    assert max(largest_pair(weight) for weight in weights) * 255 <= INT16.max


def test_a_network_of_convolutions_has_no_int8(tmp_path):
    """Such a graph was written unchanged, and called int8."""
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Conv", ["pixel_values", "kernel"], ["descriptors"])],
        "convolutions",
        [helper.make_tensor_value_info("pixel_values", number, (1, 3, 4, 4))],
        [helper.make_tensor_value_info("descriptors", number, (1, 2, 1, 1))],
        [onnx.numpy_helper.from_array(np.ones((2, 3, 4, 4), np.float32), "kernel")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r'it consists of convolutions\. Export it with `precision="fp32"`'):
        quantize_graph(tmp_path / "model.onnx", tmp_path / "int8.onnx", [torch.zeros(1, 3, 4, 4)])
    assert not (tmp_path / "int8.onnx").exists()
