"""How a run is getting on: means since the last line, and images a second."""

import math
import time
from collections import defaultdict

import torch
from accelerate import Accelerator


class Meter:
    """Collect numbers of each step on the device, and bring them together only when somebody looks.

    Args:
        accelerator: Of the run.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._reset()

    def add(self, numbers: dict[str, torch.Tensor]) -> None:
        """Take in numbers (scalars) of a step, or of a part of one."""
        for name, number in numbers.items():
            self._sums[name] += number.detach().to(self.accelerator.device, torch.float32)
        self._added += 1

    def count(self, images: int) -> None:
        """Count images that all processes saw."""
        self._images += images

    def read(self) -> dict[str, float]:
        """Return means over what was added by all processes, and `images_per_second`; then begin anew. All must call it.

        Raises:
            FloatingPointError: If a number is not finite: the run has diverged.
        """
        if not self._added:
            return {}
        means = torch.stack(list(self._sums.values())) / self._added
        means = self.accelerator.reduce(means, "mean")
        read = dict(zip(self._sums, means.tolist(), strict=True))
        check_finite(read)
        read["images_per_second"] = self._images / (time.perf_counter() - self._start)
        self._reset()
        return read

    def pause(self) -> None:
        """Stop the clock until [`go_on`]: validation is no training."""
        self._paused = time.perf_counter()

    def go_on(self) -> None:
        """Let the clock go on."""
        self._start += time.perf_counter() - self._paused

    def _reset(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=self.accelerator.device))
        self._added, self._images, self._start = 0, 0, time.perf_counter()


def check_finite(numbers: dict[str, float]) -> None:
    """Raise FloatingPointError if one of a run's numbers is not finite."""
    broken = [name for name, number in numbers.items() if not math.isfinite(number)]
    if broken:
        raise FloatingPointError(
            f"Not a finite number: {', '.join(broken)}. Nothing since the newest checkpoint was saved. Begin a new run with a "
            "lower learning rate, a warm-up, clipped gradients (--max-grad-norm 1), or bf16 in the place of fp16."
        )
