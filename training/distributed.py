"""Bring together what the processes of a run hold. Without a process group all of it is the identity."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed


def num_processes() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather_with_gradients(tensor: torch.Tensor) -> torch.Tensor:
    """Join the (n, ...) tensors of all processes to (num_processes * n, ...), in their order, differentiably.

    The gradients that the processes' losses have for a process's own part are added up. Where each process computes the loss of
    the whole, and gradients are then averaged over the processes, as distributed training does, what comes out is the gradient
    of the whole. The tensors must be of one shape.
    """
    return tensor if num_processes() == 1 else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        context.size = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(num_processes())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (total,) = gradients
        total = total.contiguous().clone()
        distributed.all_reduce(total)
        start = distributed.get_rank() * context.size
        return total[start : start + context.size]


def on_main(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Do something in one process while the others wait."""
    if accelerator.is_main_process:
        work()
    accelerator.wait_for_everyone()
