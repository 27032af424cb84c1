"""A moving average of the weights: it is validated and saved, while training continues with the weights themselves."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class MovingAverage:
    """An exponential moving average of the parameters of a network. Its state is part of checkpoints.

    Running statistics of BatchNorm are not averaged: they are moving averages themselves.

    Args:
        network: The network whose parameters are averaged.
        decay: Weight of the old average, below 1. In the first steps it is at most (1 + step) / (10 + step), so that the random
            initial weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._parameters = [weights for weights in network.parameters() if weights.requires_grad]
        self._averages = [weights.detach().clone() for weights in self._parameters]
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for average, weights in zip(self._averages, self._parameters, strict=True):
            average.lerp_(weights.detach(), 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Set the network to the averages while this context is open."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weights in zip(self._averages, self._parameters, strict=True):
            trained = weights.detach().clone()
            weights.copy_(average)
            average.copy_(trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and the number of updates."""
        return {"count": self.count, **{str(number): average for number, average in enumerate(self._averages)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.count = int(state["count"])
        for number, average in enumerate(self._averages):
            average.copy_(state[str(number)])
