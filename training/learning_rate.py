"""The learning rate of a step, as a function of the step alone: nothing to save, nothing to restore."""

import math

from d2vpr_hf.training.options import Schedule

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
