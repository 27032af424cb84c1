"""BatchNorm in training: three policies for its statistics."""

from collections.abc import Iterable
from typing import Any, Literal

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


class PreciseStatistics:
    """Mean and variance of the inputs of all BatchNorms of a model over many batches, in place of moving averages.

    The moving averages of the last batches, which may be of one city, differ from the statistics of all photos; see "Rethinking
    Batch in BatchNorm", arXiv 2105.07576, section 3.

    Args:
        model: The model. Within the context, its BatchNorms normalise by the batch, and all else is in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms = [module for module in model.modules() if isinstance(module, CheckpointSafeBatchNorm)]

    @torch.no_grad()
    def measure(self, batches: Iterable[torch.Tensor]) -> None:
        """Set the running statistics to those of batches of pixel values (B, 3, height, width) of all processes.

        Raises:
            ValueError: If there is no batch, or the network does not call its BatchNorms, as a compiled one.
        """
        sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in self._norms}
        counted = [int(norm.num_batches_tracked or 0) for norm in self._norms]

        def add(norm: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            features = at_least_float32(arguments[0])
            variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
            mean, variance = mean.cpu().double(), variance.cpu().double()
            count = features.numel() // features.shape[1]
            sums[norm] += count * torch.stack((mean, variance + mean.square(), torch.ones_like(mean)))

        handles = [norm.register_forward_pre_hook(add) for norm in self._norms]
        self._model.eval()
        for norm in self._norms:
            norm.train()
        try:
            for pixel_values in batches:
                self._model(pixel_values)
        finally:
            for handle in handles:
                handle.remove()
            self._model.eval()
        for norm, tracked in zip(self._norms, counted, strict=True):
            total = sums[norm].to(norm.running_mean.device)
            if num_processes() > 1:
                distributed.all_reduce(total)
            if not total[2].all():
                raise ValueError("No batch reached a BatchNorm, so that its statistics cannot be measured. Give photos.")
            mean, square = total[0] / total[2], total[1] / total[2]
            norm.running_mean.copy_(mean)
            norm.running_var.copy_((square - mean.square()) * total[2] / (total[2] - 1).clamp(min=1))
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.fill_(tracked)


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
