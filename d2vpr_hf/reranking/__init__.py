"""Re-ranking of the best matches by the similarity of their regions."""

from d2vpr_hf.reranking.options import Reranking

__all__ = ["Reranking"]
