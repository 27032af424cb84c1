"""MultiSimilarity loss and miner (arXiv 1904.06627) of stage 2: similar descriptors for photos of a place only."""

from typing import NamedTuple

import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner


class MinedPairs(NamedTuple):
    """Pairs that are hard enough to learn from, as rows of the batch: anchors with positives, anchors with negatives."""

    anchors: torch.Tensor
    positives: torch.Tensor
    negative_anchors: torch.Tensor
    negatives: torch.Tensor


class MetricLoss:
    """MultiSimilarity loss over mined pairs, by cosine similarity.

    Args:
        alpha: Factor in the exponents of positive pairs.
        beta: Factor in the exponents of negative pairs.
        base: Cosine similarity that is subtracted from that of each pair.
        epsilon: Margin of the miner, a cosine similarity.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 50.0, base: float = 0.0, epsilon: float = 0.1) -> None:
        self.loss = MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
        self.miner = MultiSimilarityMiner(epsilon=epsilon)

    def mine(self, descriptors: torch.Tensor, place_ids: torch.Tensor) -> MinedPairs:
        """Choose the pairs of descriptors (B, D) with place ids (B,)."""
        return MinedPairs(*self.miner(descriptors, place_ids))

    def __call__(self, descriptors: torch.Tensor, place_ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss, in float32 and outside autocast.

        Args:
            descriptors: (B, D), those of all processes.
            place_ids: (B,).

        Returns:
            The loss; and, for the log, `positive_pairs` and `negative_pairs`, the numbers of pairs, and `active`, the share of
            images that are an anchor.
        """
        with torch.autocast(descriptors.device.type, enabled=False):
            descriptors = descriptors.float()
            pairs = self.mine(descriptors, place_ids)
            loss = self.loss(descriptors, place_ids, pairs)
        anchors = torch.cat((pairs.anchors, pairs.negative_anchors)).unique()
        counts = {"positive_pairs": len(pairs.anchors), "negative_pairs": len(pairs.negative_anchors)}
        active = len(anchors) / len(descriptors)
        return loss, {name: torch.tensor(float(value)) for name, value in {**counts, "active": active}.items()}
