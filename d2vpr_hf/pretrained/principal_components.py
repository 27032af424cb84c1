"""Principal components of a teacher's tokens, with partial whitening: they make a wide teacher as wide as its student."""

import math
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from d2vpr_hf.utils.atomic_files import store_file

_LEAST_SHARE = 1e-10  # of the largest eigenvalue; smaller ones are rounding errors and would become noise


class TokenStatistics:
    """Sums over tokens, in float64, from which principal components are computed.

    Args:
        width: Channels of a token.

    Attributes:
        sums: (1 + width, 1 + width) float64 on the CPU: the sums of the products of two channels, with a channel of ones first.
            Sums over several processes are added up.
    """

    def __init__(self, width: int) -> None:
        self.sums = torch.zeros(1 + width, 1 + width, dtype=torch.float64)

    def add(self, tokens: torch.Tensor) -> None:
        """Add tokens (..., width)."""
        rows = tokens.detach().flatten(0, -2).to("cpu", torch.float64)
        rows = torch.cat((torch.ones(len(rows), 1, dtype=torch.float64), rows), dim=1)
        self.sums += rows.T @ rows

    @property
    def count(self) -> int:
        """The number of tokens."""
        return round(float(self.sums[0, 0]))


class PrincipalComponents(nn.Module):
    """A projection of tokens: (x - mean) @ directions.

    Column i of the directions is the eigenvector of the i-th largest eigenvalue of the tokens' covariance, divided by
    eigenvalue ** (whitening / 2). With `whitening` 0 the components keep their variances, with 1 all have the variance 1.

    Args:
        mean: (width,) float32.
        directions: (width, N) float32.
        kept: Share of the tokens' variance that the N components have, before whitening.
    """

    mean: torch.Tensor
    directions: torch.Tensor

    def __init__(self, mean: torch.Tensor, directions: torch.Tensor, kept: float) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)
        self.kept = kept

    @classmethod
    def fit(cls, statistics: TokenStatistics, count: int, whitening: float) -> Self:
        """Compute components, in float64.

        Args:
            statistics: Sums over tokens.
            count: Number of components.
            whitening: Exponent of the whitening, from 0 to 1.

        Raises:
            ValueError: If the tokens do not have that many components.
        """
        mean = statistics.sums[0, 1:] / statistics.count
        covariance = statistics.sums[1:, 1:] / statistics.count - torch.outer(mean, mean)
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        eigenvalues, vectors = eigenvalues.flip(0).clamp(min=0), vectors.flip(1)  # the largest eigenvalue first
        available = int((eigenvalues > _LEAST_SHARE * eigenvalues[0]).sum()) if eigenvalues[0] > 0 else 0
        if count > available:
            raise ValueError(
                f"{count} principal components are required, but {statistics.count} tokens of {len(mean)} channels have "
                f"{available}. Lower `teacher_components`, or fit them to more images (`teacher_fit_images`)."
            )
        signs = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()  # eigenvectors have any sign
        directions = (vectors * signs)[:, :count] * eigenvalues[:count] ** (-whitening / 2)
        kept = float(eigenvalues[:count].sum() / eigenvalues.sum())
        return cls(mean.float(), directions.float().contiguous(), kept)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Project tokens (..., width) to (..., N), in float32."""
        return (tokens.float() - self.mean) @ self.directions


def save_components(components: list[PrincipalComponents], path: Path) -> None:
    """Store the components of each tap in a safetensors file.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    for number, tap in enumerate(components):
        tensors |= {f"{number}.mean": tap.mean.cpu().contiguous(), f"{number}.directions": tap.directions.cpu().contiguous()}
    metadata = {f"{number}.kept": repr(tap.kept) for number, tap in enumerate(components)}
    store_file(path, lambda scratch: save_file(tensors, scratch, metadata))


def load_components(path: Path) -> list[PrincipalComponents]:
    """Load the components of each tap.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or not such a file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}, the principal components of the run's teacher, is missing. Restore it, or begin a new run."
        )
    try:
        with safe_open(path, "pt") as file:
            shares = file.metadata() or {}
            return [
                PrincipalComponents(
                    file.get_tensor(f"{number}.mean"), file.get_tensor(f"{number}.directions"), float(shares[f"{number}.kept"])
                )
                for number in range(len(shares))
            ]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Restore it, or begin a new run.") from error


def split_components(requested: list[str], taps: list[str], widths: list[int]) -> list[int]:
    """Return the number of components of each tap.

    Args:
        requested: One total, such as `["192"]`, which is divided evenly over the taps, where the first ones have one more if
            it cannot be divided; or `TAP=N` for each tap.
        taps: Names of the taps.
        widths: Channels of each tap.

    Raises:
        ValueError: If the request has another form, names other taps, or is for more components than a tap has channels.
    """
    names = [text.rpartition("=")[0] for text in requested]
    try:
        numbers = [int(text.rpartition("=")[2]) for text in requested]
    except ValueError:
        numbers = []
    is_total = len(requested) == 1 and not names[0]
    if not numbers or min(numbers) < 1 or not (is_total or sorted(names) == sorted(taps)):
        raise ValueError(
            f"`teacher_components` must be one number, or TAP=N for each of the taps {', '.join(taps)}, with numbers of at "
            f"least 1; got {' '.join(requested)}."
        )
    if is_total:
        counts = [math.ceil((numbers[0] - position) / len(taps)) for position in range(len(taps))]
    else:
        counts = [dict(zip(names, numbers, strict=True))[tap] for tap in taps]
    too_many = [f"{tap}: {count} of {width}" for tap, count, width in zip(taps, counts, widths, strict=True) if count > width]
    if too_many or min(counts) < 1:
        problem = f"got {'; '.join(too_many)}" if too_many else f"got {numbers[0]} for {len(taps)} taps"
        raise ValueError(
            f"`teacher_components` must be at least 1 for each tap, and at most its number of channels; {problem}."
        )
    return counts
