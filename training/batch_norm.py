"""BatchNorm in training: three policies for its statistics."""

from typing import Literal

import torch
from torch import distributed, nn

from d2vpr_hf.modeling.generalized_mean import at_least_float32
from d2vpr_hf.modeling.vision_transformer import CheckpointSafeBatchNorm, inside_backward_pass
from d2vpr_hf.training.distributed import gather_with_gradients, num_processes

BatchNormPolicy = Literal["published", "frozen", "synchronised"]


class SynchronisedBatchNorm(CheckpointSafeBatchNorm):
    """BatchNorm over the images of all processes, on any device and backend, gloo on the CPU included.

    torch's `SyncBatchNorm` needs a GPU. All processes must have the same number of images.
    """

    num_batches_tracked: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W) by the mean and variance over the images of all processes."""
        if not self.training or num_processes() == 1:
            return super().forward(features)
        mean, variance = _joint_statistics(features)
        if not inside_backward_pass():
            self._track(mean.detach(), variance.detach(), features.numel() // features.shape[1] * num_processes())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (features * scale[:, None, None] + shift[:, None, None]).to(features.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        """Update the running statistics as torch does: by the momentum, with the unbiased variance."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def _joint_statistics(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and (biased) variance (C,) of each channel of (B, C, H, W) over the images of all processes."""
    local_variance, local_mean = torch.var_mean(at_least_float32(features), dim=(0, 2, 3), correction=0)
    means, variances = gather_with_gradients(torch.stack((local_mean, local_variance))[None]).unbind(1)  # 2 x (processes, C)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def apply_policy(model: nn.Module, policy: BatchNormPolicy) -> None:
    """Put a model into train mode with a BatchNorm policy. Call this again after each `eval()`.

    Args:
        model: A model of this package.
        policy: `"published"`: each process normalises by its own batch and updates running statistics, also in blocks with
            frozen weights. `"frozen"`: running statistics are used and not updated. `"synchronised"`: as published, but over
            the batch of all processes.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, CheckpointSafeBatchNorm):
            module.train(policy != "frozen")
            if policy == "synchronised":
                module.__class__ = SynchronisedBatchNorm  # same parameters and buffers, so their names stay


def share_statistics(model: nn.Module) -> None:
    """Copy the first process's running statistics, which the saved model has, to all processes.

    Training does not use running statistics, so the copy does not change training.
    """
    if num_processes() == 1:
        return
    for module in model.modules():
        if isinstance(module, CheckpointSafeBatchNorm):
            for statistic in module.buffers(recurse=False):
                distributed.broadcast(statistic, src=0)
