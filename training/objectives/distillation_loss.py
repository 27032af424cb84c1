"""How far a student is from its teacher: stage 1 of D²-VPR (arXiv 2511.12528)."""

from typing import Literal

import torch
from torch import nn

from d2vpr_hf.modeling import D2VPRModelOutput
from d2vpr_hf.pretrained.teachers import TeacherTargets

Reduction = Literal["mean", "sum"]


class DistillationLoss:
    """Sum the weighted terms that have a weight; all in float32.

    Args:
        descriptor_weight: Of the squared error of descriptors, the published loss.
        token_mse_weight: Of the squared error of tokens: recovered ones against the teacher's.
        token_cosine_weight: Of the tokens' mean cosine distance, 1 - cos.
        reduction: Whether a vector's squared errors are averaged, as published, or added up; vectors are averaged.

    Raises:
        ValueError: If a weight is negative, or all are zero.
    """

    def __init__(
        self,
        descriptor_weight: float = 1.0,
        token_mse_weight: float = 0.0,
        token_cosine_weight: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        self.weights = {
            "descriptor_mse": descriptor_weight,
            "token_mse": token_mse_weight,
            "token_cosine": token_cosine_weight,
        }
        if min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ValueError(f"Expected weights of at least 0, not all of them 0, got {self.weights}.")
        self.reduction = reduction

    def __call__(self, output: D2VPRModelOutput, targets: TeacherTargets) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss, and each term that has a weight, unweighted.

        Raises:
            ValueError: If descriptors or tokens are of different shapes.
        """
        terms = {name: self._term(name, output, targets) for name, weight in self.weights.items() if weight}
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def _term(self, name: str, output: D2VPRModelOutput, targets: TeacherTargets) -> torch.Tensor:
        if name == "descriptor_mse":
            return self._squared_error(output.pooler_output, targets.descriptors)
        if name == "token_mse":
            return self._squared_error(output.last_hidden_state, targets.tokens)
        return _cosine_distance(output.last_hidden_state, targets.tokens)

    def _squared_error(self, found: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
        error = nn.functional.mse_loss(_as_wanted(found, wanted), wanted)
        return error if self.reduction == "mean" else error * wanted.shape[-1]


def _cosine_distance(found: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
    return 1 - nn.functional.cosine_similarity(_as_wanted(found, wanted), wanted, dim=-1).mean()


def _as_wanted(found: torch.Tensor | None, wanted: torch.Tensor) -> torch.Tensor:
    if found is None or found.shape != wanted.shape:
        shape = None if found is None else tuple(found.shape)
        raise ValueError(f"The student gives {shape} where the teacher gives {tuple(wanted.shape)}: see `recovery_size`.")
    return found.float()
