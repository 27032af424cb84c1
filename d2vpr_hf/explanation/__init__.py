"""Explanation of a match: the points where the network sampled both photos, and the share of each region in the similarity."""

from d2vpr_hf.explanation.drawing import draw_bars, draw_patches, draw_photo_regions
from d2vpr_hf.explanation.matches import Explanation, explain_match, reason_against
from d2vpr_hf.explanation.patches import PatchMap, PatchSimilarity, has_patches
from d2vpr_hf.explanation.regions import PhotoRegions, region_names
from d2vpr_hf.explanation.similarity import cosine_of, region_shares

__all__ = [
    "Explanation",
    "PatchMap",
    "PatchSimilarity",
    "PhotoRegions",
    "cosine_of",
    "draw_bars",
    "draw_patches",
    "draw_photo_regions",
    "explain_match",
    "has_patches",
    "reason_against",
    "region_names",
    "region_shares",
]
