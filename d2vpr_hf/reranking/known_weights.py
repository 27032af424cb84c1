"""Weights of regions of known models, fitted to the validation city by `python -m benchmarks.reranking`.

Indexes whose calibration was fitted with re-ranking have weights of their own, and other models have equal weights.
"""

from d2vpr_hf.reranking.options import Reranking

KNOWN_WEIGHTS = {  # fingerprint of the model: weight of the region similarity, and weights of the regions
    "424f195eec1924262ae6254c5f3b1139d52851e447f4757e558b3aa64c2938fb": (  # the embedded model
        2.14,
        (0.083, 0.101, 0.099, 0.074, 0.074, 0.095, 0.077, 0.049, 0.104, 0.117, 0.071, 0.019, 0.021, 0.016),
    ),
}


def with_known_weights(options: Reranking, fingerprint: str) -> Reranking:
    """Return options with the weights that are known for a model, unless they have weights."""
    if options.region_weights is not None or fingerprint not in KNOWN_WEIGHTS:
        return options
    return options.with_weights(*KNOWN_WEIGHTS[fingerprint])
