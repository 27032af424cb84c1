"""Gather tensors and order work over the processes of a run. Without a process group, each function is the identity."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed


def num_processes() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather_with_gradients(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate the (n, ...) tensors of all processes to (num_processes * n, ...), in their order, differentiably.

    The backward pass adds up the gradients of all processes' losses for this process's rows. If each process computes the loss
    of the joined batch, and gradients are then averaged over the processes, as distributed training does, the result is the
    gradient of the joined batch. The tensors must have the same shape in all processes.
    """
    return tensor if num_processes() == 1 else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        context.size = len(tensor)
        shares = [torch.empty_like(tensor) for _ in range(num_processes())]
        distributed.all_gather(shares, tensor.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (total,) = gradients
        total = total.contiguous().clone()
        distributed.all_reduce(total)
        start = distributed.get_rank() * context.size
        return total[start : start + context.size]


def on_main(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Run `work` in the main process while the other processes wait."""
    if accelerator.is_main_process:
        work()
    accelerator.wait_for_everyone()
