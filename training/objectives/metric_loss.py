"""Photos of one place together, of others apart: MultiSimilarity loss and miner (arXiv 1904.06627), stage 2."""

from typing import NamedTuple

import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner


class MinedPairs(NamedTuple):
    """Pairs hard enough to learn from, as rows of the batch: anchors with positives, anchors with negatives."""

    anchors: torch.Tensor
    positives: torch.Tensor
    negative_anchors: torch.Tensor
    negatives: torch.Tensor


class MetricLoss:
    """MultiSimilarity loss over mined pairs, by cosine similarity.

    Args:
        alpha, beta, base: Of the loss.
        epsilon: Margin of the miner.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 50.0, base: float = 0.0, epsilon: float = 0.1) -> None:
        self.loss = MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
        self.miner = MultiSimilarityMiner(epsilon=epsilon)

    def mine(self, descriptors: torch.Tensor, place_ids: torch.Tensor) -> MinedPairs:
        """Choose the pairs; arguments as for the call."""
        return MinedPairs(*self.miner(descriptors, place_ids))

    def __call__(self, descriptors: torch.Tensor, place_ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss, in float32 and outside autocast.

        Args:
            descriptors: (B, D), of all processes.
            place_ids: (B,).

        Returns:
            The loss; and, for the log, the number of pairs of either kind and the share of images that are an anchor, `active`.
        """
        with torch.autocast(descriptors.device.type, enabled=False):
            descriptors = descriptors.float()
            pairs = self.mine(descriptors, place_ids)
            loss = self.loss(descriptors, place_ids, pairs)
        anchors = torch.cat((pairs.anchors, pairs.negative_anchors)).unique()
        counts = {"positive_pairs": len(pairs.anchors), "negative_pairs": len(pairs.negative_anchors)}
        active = len(anchors) / len(descriptors)
        return loss, {name: torch.tensor(float(value)) for name, value in {**counts, "active": active}.items()}
