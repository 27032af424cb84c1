"""Gridtown: street photos of procedural cities with exact positions, in any number, from a seed.

Simulated photos do not replace real ones: results on them only compare methods within this package.
"""

from d2vpr_hf.gridtown.city import City
from d2vpr_hf.gridtown.city_layout import make_city
from d2vpr_hf.gridtown.labels import Labels, Surface, label_photos, read_labels
from d2vpr_hf.gridtown.painting.photo_textures import cut_textures
from d2vpr_hf.gridtown.photo_spec import WEATHERS, Photo, Variation, draw_photo, parse_weathers
from d2vpr_hf.gridtown.simulate import Layout, simulate
from d2vpr_hf.gridtown.tiers import TEST_SEEDS, TIERS, TRAIN_SEEDS, VAL_SEEDS, Tier, TierName, tier_digest
from d2vpr_hf.gridtown.town import Town, make_town
from d2vpr_hf.gridtown.wildness import Wildness, make_wild

__all__ = [
    "TEST_SEEDS",
    "TIERS",
    "TRAIN_SEEDS",
    "VAL_SEEDS",
    "WEATHERS",
    "City",
    "Labels",
    "Layout",
    "Photo",
    "Surface",
    "Tier",
    "TierName",
    "Town",
    "Variation",
    "Wildness",
    "cut_textures",
    "draw_photo",
    "label_photos",
    "make_city",
    "make_town",
    "make_wild",
    "parse_weathers",
    "read_labels",
    "simulate",
    "tier_digest",
]
