"""The optimizer: a learning rate factor for each group of parameters, and a schedule over steps."""

import math
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from d2vpr_hf.training.options import Schedule, TrainingOptions

_PUBLISHED_EPOCHS = 3900  # the published linear increase, of 120 epochs, would reach the full rate after this number


def make_optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """Make the optimizer of the parameters that have gradients.

    Returns:
        An optimizer with one parameter group for each different factor, which the group holds under `factor`.

    Raises:
        ValueError: If Adam is combined with weight decay, or a learning rate factor cannot be read or matches no parameter.
    """
    trained = {name.removeprefix("model."): weights for name, weights in network.named_parameters() if weights.requires_grad}
    factors = _read_factors(options.learning_rate_factors or [])
    unmatched = [pattern for pattern in factors if not any(fnmatchcase(name, pattern) for name in trained)]
    if unmatched:
        raise ValueError(f"learning_rate_factors: no trained parameter has a name like {', '.join(unmatched)}.")
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained.items():
        factor = next((factor for pattern, factor in factors.items() if fnmatchcase(name, pattern)), 1.0)
        groups[factor].append(parameter)
    group_options = [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(group_options, options.learning_rate, weight_decay=options.weight_decay)
    if options.weight_decay:
        raise ValueError(f"adam has no weight decay, got weight_decay={options.weight_decay}; take adamw.")
    return torch.optim.Adam(group_options, options.learning_rate)


def _read_factors(texts: list[str]) -> dict[str, float]:
    """Read factors by pattern from PATTERN=FACTOR."""
    factors = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            factors[pattern] = float(number)
        except ValueError:
            factors[pattern] = math.nan
        if not pattern or not 0 < factors[pattern] < math.inf:
            raise ValueError(
                "learning_rate_factors are PATTERN=FACTOR with a factor above 0, such as 'aggregator.sampler.*=0.1', got "
                f"{text!r}. Use `frozen` for parameters that must not be trained."
            )
    return factors


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group: `learning_rate` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]


def learning_rate_factor(
    schedule: Schedule,
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    milestones: Sequence[int] = (),
    milestone_factor: float = 1.0,
) -> float:
    """Return the factor that a schedule multiplies the learning rate by.

    Args:
        schedule: `"constant"`; `"published"`, the linear increase of the published second stage, to 0.031 of the full rate at
            its 120th epoch; `"cosine"`, a linear increase over `warmup_steps`, then half a cosine down to 0; `"linear"`, the
            same increase, then constant; or `"steps"`, the same increase, and a factor at each milestone.
        step: Step of the run, counted from 0.
        total_steps: Number of steps of the run.
        steps_per_epoch: Number of steps of an epoch.
        warmup_steps: Number of steps of the linear increase.
        milestones: Epochs after which the schedule `"steps"` multiplies the rate.
        milestone_factor: Factor at each of them.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "published":
        return (step + 1) / (_PUBLISHED_EPOCHS * steps_per_epoch)
    increase = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if schedule == "linear":
        return increase
    if schedule == "steps":  # a milestone within the increase acts too
        return increase * milestone_factor ** sum(step >= epoch * steps_per_epoch for epoch in milestones)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))
