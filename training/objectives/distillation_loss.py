"""Distance of a student's outputs from its teachers': stage 1 of D²-VPR (arXiv 2511.12528).

The relational term compares the similarities of the photos of a batch, after Relational Knowledge Distillation (arXiv
1904.05068) and Similarity-Preserving Knowledge Distillation (arXiv 1907.09682), so that widths may differ.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from d2vpr_hf.modeling import D2VPRModelOutput
from d2vpr_hf.modeling.generalized_mean import at_least_float32
from d2vpr_hf.pretrained.teachers import TeacherTargets
from d2vpr_hf.training.distributed import gather_with_gradients
from d2vpr_hf.training.objectives.head import prefixes
from d2vpr_hf.training.option_values import WeightSchedule

Reduction = Literal["mean", "sum"]


class DistillationLoss:
    """Weighted sum of up to five terms, each averaged over the teachers. Terms that always have weight 0 are not computed.

    Each weight is a number or a schedule over steps; see [`WeightSchedule`].

    Args:
        descriptor_weight: Weight of the descriptors' squared error, the published loss.
        token_mse_weight: Weight of the squared error of the student's recovered tokens against the teacher's.
        token_cosine_weight: Weight of the tokens' mean cosine distance, 1 - cos.
        reduction: Reduction of the squared errors of a vector: `"mean"`, as published, or `"sum"`. Vectors are averaged.
        descriptor_cosine_weight: Weight of the descriptors' mean cosine distance.
        relational_weight: Weight of the relational term; see [`relational_error`].
        matryoshka_dims: Widths of prefixes of the student's descriptors, over which the relational term is averaged too.

    Raises:
        ValueError: If a weight is negative, or all weights are 0.
    """

    def __init__(
        self,
        descriptor_weight: float | str = 1.0,
        token_mse_weight: float | str = 0.0,
        token_cosine_weight: float | str = 0.0,
        reduction: Reduction = "mean",
        descriptor_cosine_weight: float | str = 0.0,
        relational_weight: float | str = 0.0,
        matryoshka_dims: Sequence[int] = (),
    ) -> None:
        given = {
            "descriptor_mse": descriptor_weight,
            "descriptor_cosine": descriptor_cosine_weight,
            "relational": relational_weight,
            "token_mse": token_mse_weight,
            "token_cosine": token_cosine_weight,
        }
        weights = {name: WeightSchedule.parse(weight, f"weight of {name}") for name, weight in given.items()}
        self.weights = {name: weight for name, weight in weights.items() if not weight.is_zero}
        if not self.weights:
            raise ValueError(f"Expected weights of at least 0, not all of them 0, got {given}.")
        self.reduction, self.matryoshka_dims = reduction, matryoshka_dims

    def __call__(
        self,
        output: D2VPRModelOutput,
        targets: TeacherTargets | Sequence[TeacherTargets],
        step: int = 0,
        mapped: Sequence[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss, and each computed term, unweighted, for the log.

        Args:
            output: The student's output.
            targets: The targets of the teacher, or a list with those of each teacher.
            step: The step, which the weights depend on.
            mapped: The student's descriptors as its head for each teacher maps them; `None` without heads.

        Raises:
            ValueError: If the shapes of student and teacher differ.
        """
        targets = [targets] if isinstance(targets, TeacherTargets) else targets
        mapped = mapped or [output.pooler_output] * len(targets)  # type: ignore[list-item] # the models give descriptors
        terms = {
            name: torch.stack(
                [
                    self._term(name, output, descriptors, of_teacher)
                    for descriptors, of_teacher in zip(mapped, targets, strict=True)
                ]
            ).mean()
            for name in self.weights
        }
        loss = torch.stack([self.weights[name](step) * term for name, term in terms.items()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def _term(self, name: str, output: D2VPRModelOutput, descriptors: torch.Tensor, targets: TeacherTargets) -> torch.Tensor:
        if name == "relational":
            assert output.pooler_output is not None
            widths = prefixes(output.pooler_output, self.matryoshka_dims)
            return torch.stack([relational_error(descriptors, targets.descriptors) for descriptors in widths]).mean()
        if name == "descriptor_mse":
            return self._squared_error(descriptors, targets.descriptors)
        if name == "descriptor_cosine":
            return _cosine_distance(descriptors, targets.descriptors)
        if name == "token_mse":
            return self._squared_error(output.last_hidden_state, targets.tokens)
        return _cosine_distance(output.last_hidden_state, targets.tokens)

    def _squared_error(self, output: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
        error = nn.functional.mse_loss(_check_shape(output, target), target)
        return error if self.reduction == "mean" else error * target.shape[-1]


def relational_error(descriptors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference between the cosine similarities of student and teacher, over all pairs of photos.

    The photos are those of all processes, each of which computes the same value.

    Args:
        descriptors: Descriptors (n, D) of the student, of this process.
        targets: Descriptors (n, T) of the teacher, of this process.
    """
    with torch.autocast(descriptors.device.type, enabled=False):
        matrices = []
        for side in (descriptors, targets):
            rows = nn.functional.normalize(gather_with_gradients(at_least_float32(side)), dim=1)
            matrices.append(rows @ rows.T)
        return nn.functional.mse_loss(matrices[0], matrices[1].to(matrices[0].dtype))


def _cosine_distance(output: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
    vectors = _check_shape(output, target)
    return 1 - nn.functional.cosine_similarity(vectors, target, dim=-1).mean()


def _check_shape(output: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
    """Return the student's output as float32 if it has the target's shape, else raise ValueError."""
    if output is None or output.shape != target.shape:
        shape = None if output is None else tuple(output.shape)
        raise ValueError(
            f"The student's output has the shape {shape}, the teacher's {tuple(target.shape)}: see `recovery_size` and `head`."
        )
    return output.float()
