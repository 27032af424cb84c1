"""Generalised-mean pooling stays finite for every exponent that training can reach."""

import pytest
import torch

from d2vpr_hf.modeling import D2VPRConfig
from d2vpr_hf.modeling.generalized_mean import GeneralizedMean


@pytest.mark.parametrize("p", [3.0, 6.5, 8.0])
def test_gradients_are_finite(p):
    """At p = 8 the power of 1e-6 is 0 in float32, and the root of 0 has an infinite gradient: training ended in NaN."""
    pool = GeneralizedMean(D2VPRConfig(gem_p=p))
    vectors = torch.tensor([[[3.0, 4.0], [-4.0, -3.0]]], requires_grad=True)  # the second channel is negative everywhere
    averaging = torch.full((1, 2), 0.5)
    pooled = pool(vectors, averaging)
    pooled.sum().backward()
    assert torch.isfinite(vectors.grad).all() and torch.isfinite(pool.p.grad).all()
    exact = pool.double()(vectors.detach().double(), averaging)
    torch.testing.assert_close(pooled.detach().double(), exact, rtol=1e-6, atol=2e-5)
