"""The optimizer, and how fast each parameter is trained."""

import math
from collections import defaultdict
from fnmatch import fnmatchcase

import torch
from torch import nn

from d2vpr_hf.training.options import Schedule, TrainingOptions


def make_optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """Make the optimizer of what has gradients.

    Returns:
        An optimizer with one parameter group for each factor that some parameter has, under `factor`.

    Raises:
        ValueError: If Adam is to decay weights, or a learning rate factor cannot be read or fits no parameter.
    """
    factors = _read_factors(options.learning_rate_factors or [])
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    trained = {name.removeprefix("model."): weights for name, weights in network.named_parameters() if weights.requires_grad}
    _refuse_idle(factors, trained)
    for name, parameter in trained.items():
        groups[_factor_of(name, factors)].append(parameter)
    listed = [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(listed, options.learning_rate, weight_decay=options.weight_decay)
    if options.weight_decay:
        raise ValueError(f"adam has no weight decay, got weight_decay={options.weight_decay}; take adamw.")
    return torch.optim.Adam(listed, options.learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]


def _read_factors(texts: list[str]) -> dict[str, float]:
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
                f"{text!r}. What is not to be trained at all is `frozen`."
            )
    return factors


def _factor_of(name: str, factors: dict[str, float]) -> float:
    return next((factor for pattern, factor in factors.items() if fnmatchcase(name, pattern)), 1.0)


def _refuse_idle(factors: dict[str, float], names: dict[str, nn.Parameter]) -> None:
    idle = [pattern for pattern in factors if not any(fnmatchcase(name, pattern) for name in names)]
    if idle:
        raise ValueError(f"learning_rate_factors: no trained parameter is called like {', '.join(idle)}.")


_PUBLISHED_EPOCHS = 3900  # after so many epochs, of 120 at most, the published climb would reach the full rate


def learning_rate_factor(schedule: Schedule, step: int, total_steps: int, steps_per_epoch: int, warmup_steps: int = 0) -> float:
    """Return what the learning rate is multiplied by.

    Args:
        schedule: `"constant"`; `"published"`, the linear climb of the published second stage, to 0.031 of the full rate at its
            120th epoch; or `"cosine"`, a linear climb over `warmup_steps`, then half a cosine down to 0.
        step: Step of the run, counted from 0.
        total_steps: Of the run.
        steps_per_epoch: Of the published schedule.
        warmup_steps: Of the cosine schedule.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "published":
        return (step + 1) / (_PUBLISHED_EPOCHS * steps_per_epoch)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))
