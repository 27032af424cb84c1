"""Distance of a student's outputs from its teacher's: stage 1 of D²-VPR (arXiv 2511.12528)."""

from typing import Literal

import torch
from torch import nn

from d2vpr_hf.modeling import D2VPRModelOutput
from d2vpr_hf.pretrained.teachers import TeacherTargets

Reduction = Literal["mean", "sum"]


class DistillationLoss:
    """Weighted sum of up to three terms, in float32. Terms with weight 0 are not computed.

    Args:
        descriptor_weight: Weight of the descriptors' squared error, the published loss.
        token_mse_weight: Weight of the squared error of the student's recovered tokens against the teacher's.
        token_cosine_weight: Weight of the tokens' mean cosine distance, 1 - cos.
        reduction: Reduction of the squared errors of a vector: `"mean"`, as published, or `"sum"`. Vectors are averaged.

    Raises:
        ValueError: If a weight is negative, or all weights are 0.
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
        """Return the loss, and each computed term, unweighted, for the log.

        Raises:
            ValueError: If the shapes of student and teacher differ.
        """
        terms = {name: self._term(name, output, targets) for name, weight in self.weights.items() if weight}
        loss = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def _term(self, name: str, output: D2VPRModelOutput, targets: TeacherTargets) -> torch.Tensor:
        if name == "descriptor_mse":
            return self._squared_error(output.pooler_output, targets.descriptors)
        if name == "token_mse":
            return self._squared_error(output.last_hidden_state, targets.tokens)
        tokens = _check_shape(output.last_hidden_state, targets.tokens)
        return 1 - nn.functional.cosine_similarity(tokens, targets.tokens, dim=-1).mean()

    def _squared_error(self, output: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
        error = nn.functional.mse_loss(_check_shape(output, target), target)
        return error if self.reduction == "mean" else error * target.shape[-1]


def _check_shape(output: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
    """Return the student's output as float32 if it has the target's shape, else raise ValueError."""
    if output is None or output.shape != target.shape:
        shape = None if output is None else tuple(output.shape)
        raise ValueError(
            f"The student's output has the shape {shape}, the teacher's {tuple(target.shape)}: see `recovery_size`."
        )
    return output.float()
