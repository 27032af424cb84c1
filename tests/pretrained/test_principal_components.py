"""Principal components of tokens, against numpy's singular values and by hand."""

import numpy as np
import pytest
import torch

from d2vpr_hf.pretrained.principal_components import (
    PrincipalComponents,
    TokenStatistics,
    load_components,
    save_components,
    split_components,
)


def tokens(count=500, width=6, seed=0):
    """Correlated channels with a mean far from 0, where a sum of squares without the mean would be wrong."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) @ torch.randn(width, width, generator=generator) + 50


def statistics_of(*parts):
    statistics = TokenStatistics(parts[0].shape[-1])
    for part in parts:
        statistics.add(part)
    return statistics


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_projected_tokens_have_the_variances_of_the_formula(whitening):
    """Each component is divided by variance ** (whitening / 2), which leaves variance ** (1 - whitening)."""
    values = tokens()
    components = PrincipalComponents.fit(statistics_of(values), 4, whitening)
    projected = components(values).double()
    centred = (values - values.mean(0)).double().numpy()
    variances = np.linalg.svd(centred, compute_uv=False) ** 2 / len(values)
    covariance = projected.T @ projected / len(values)
    np.testing.assert_allclose(covariance.numpy(), np.diag(variances[:4] ** (1 - whitening)), atol=1e-3 * variances[0])
    assert components.kept == pytest.approx(variances[:4].sum() / variances.sum())
    assert projected.mean(0).abs().max() < 1e-3


def test_shares_of_processes_add_up():
    """Tokens (B, N, D) that two processes add are those that one adds."""
    values = tokens().view(10, 50, 6)
    whole, first, second = (statistics_of(part) for part in (values, values[:4], values[4:]))
    assert whole.count == 500
    torch.testing.assert_close(first.sums + second.sums, whole.sums, rtol=1e-12, atol=0)


def test_signs_do_not_depend_on_the_solver():
    """Eigenvectors have any sign; the largest entry of each direction is positive here."""
    directions = PrincipalComponents.fit(statistics_of(tokens()), 6, 0).directions
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


def test_stored_components_are_the_same_numbers(tmp_path):
    fitted = [PrincipalComponents.fit(statistics_of(tokens(width=width)), 3, 0.5) for width in (6, 4)]
    save_components(fitted, tmp_path / "run" / "components.safetensors")
    loaded = load_components(tmp_path / "run" / "components.safetensors")
    for before, after in zip(fitted, loaded, strict=True):
        assert torch.equal(before.mean, after.mean) and torch.equal(before.directions, after.directions)
        assert before.kept == after.kept


def test_files_that_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_components(tmp_path / "components.safetensors")
    save_components([PrincipalComponents.fit(statistics_of(tokens()), 3, 0.5)], tmp_path / "components.safetensors")
    content = (tmp_path / "components.safetensors").read_bytes()
    (tmp_path / "components.safetensors").write_bytes(content[:-8])
    with pytest.raises(ValueError, match="is damaged"):
        load_components(tmp_path / "components.safetensors")


def test_tokens_with_fewer_components():
    """A channel that never changes, and channels that are sums of others, have no component: dividing by 0 would be noise."""
    values = tokens(width=3)
    dependent = torch.cat((values, values.sum(1, keepdim=True), torch.full((500, 1), 7.0)), dim=1)
    assert torch.isfinite(PrincipalComponents.fit(statistics_of(dependent), 3, 1.0)(dependent)).all()
    with pytest.raises(ValueError, match="4 principal components are required, but 500 tokens of 5 channels have 3"):
        PrincipalComponents.fit(statistics_of(dependent), 4, 1.0)
    with pytest.raises(ValueError, match="but 2 tokens of 6 channels have 1"):
        PrincipalComponents.fit(statistics_of(tokens(count=2)), 3, 0.5)


@pytest.mark.parametrize(
    ("requested", "counts"),
    [
        (["6"], [3, 3]),
        (["7"], [4, 3]),
        (["b.1=5", "a=2"], [2, 5]),
    ],
)
def test_numbers_of_components_of_two_taps(requested, counts):
    assert split_components(requested, ["a", "b.1"], [8, 8]) == counts


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        (["many"], "one number, or TAP=N for each of the taps a, b.1"),
        (["0"], "one number"),
        (["3", "3"], "one number"),
        (["a=2"], "one number"),
        (["a=2", "c=2"], "one number"),
        (["a=9", "b.1=2"], "a: 9 of 8"),
        (["18"], "a: 9 of 8; b.1: 9 of 8"),
        (["1"], "got 1 for 2 taps"),
    ],
)
def test_impossible_numbers_of_components(requested, reason):
    with pytest.raises(ValueError, match=reason):
        split_components(requested, ["a", "b.1"], [8, 8])
