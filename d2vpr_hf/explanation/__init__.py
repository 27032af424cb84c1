"""Explanation of a match: the points where the network sampled both photos, and the share of each region in the similarity."""

from d2vpr_hf.explanation.drawing import draw_bars, draw_photo_regions
from d2vpr_hf.explanation.matches import Explanation, explain_match
from d2vpr_hf.explanation.regions import PhotoRegions, region_names
from d2vpr_hf.explanation.similarity import cosine_of, region_shares

__all__ = [
    "Explanation",
    "PhotoRegions",
    "cosine_of",
    "draw_bars",
    "draw_photo_regions",
    "explain_match",
    "region_names",
    "region_shares",
]
