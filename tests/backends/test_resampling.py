"""Resizing by matrices computes what torch's `interpolate` does."""

import pytest
import torch

from d2vpr_hf.backends.graph.resampling import antialiasing_matrix
from tests.conftest import relative


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(480, 640), (97, 33), (10, 12)])
def test_resizing_equals_torch_with_antialiasing(mode, size):
    """Smaller and larger; a support cut at the edges, or a scale between corners, would show in the outer rows."""
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    rows, columns = (antialiasing_matrix(torch.ones(side), target, mode) for side, target in zip(size, (28, 42), strict=True))
    expected = torch.nn.functional.interpolate(image, (28, 42), mode=mode, antialias=True, align_corners=False)
    assert relative(rows @ image @ columns.T, expected) < 1e-5
