"""Progress of a run: mean losses since the last line of the log, and images a second."""

import math
import time
from collections import defaultdict

import torch
from accelerate import Accelerator


class Meter:
    """Collect the numbers of each step on the device; processes exchange them only when `read` is called.

    Args:
        accelerator: The run's accelerator.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._reset()

    def add(self, numbers: dict[str, torch.Tensor]) -> None:
        """Add the scalars of a step, or of one of its micro-batches."""
        for name, number in numbers.items():
            self._sums[name] += number.detach().to(self.accelerator.device, torch.float32)
        self._added += 1

    def count(self, images: int) -> None:
        """Add to the number of images that all processes have trained on."""
        self._images += images

    def read(self) -> dict[str, float]:
        """Return the means over all processes since the last call, and `images_per_second`. All processes must call this.

        Raises:
            FloatingPointError: If a number is not finite: the run has diverged.
        """
        if not self._added:
            return {}
        means = torch.stack(list(self._sums.values())) / self._added
        means = self.accelerator.reduce(means, "mean")
        numbers = dict(zip(self._sums, means.tolist(), strict=True))
        check_finite(numbers)
        numbers["images_per_second"] = self._images / (time.perf_counter() - self._start)
        self._reset()
        return numbers

    def pause(self) -> None:
        """Stop the clock until `go_on` is called, because validation does not count as training time."""
        self._paused = time.perf_counter()

    def go_on(self) -> None:
        """Start the clock again after `pause`."""
        self._start += time.perf_counter() - self._paused

    def _reset(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.accelerator.device))
        self._added = 0  # steps or micro-batches
        self._images = 0
        self._start = time.perf_counter()


def check_finite(numbers: dict[str, float]) -> None:
    """Raise FloatingPointError if one of a run's numbers is not finite."""
    not_finite = [name for name, number in numbers.items() if not math.isfinite(number)]
    if not_finite:
        raise FloatingPointError(
            f"Not a finite number: {', '.join(not_finite)}. Steps after the newest checkpoint are not saved. Begin a new run "
            "with a lower learning_rate, warmup_steps, clipped gradients (`max_grad_norm=1`), or bf16 as mixed_precision."
        )
