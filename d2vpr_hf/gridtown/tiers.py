"""Three frozen tiers of difficulty. Results on a tier are comparable as long as its digest does not change.

A tier fixes how much the photos of a place differ and how much of a city is repeated. Database photos are taken by day from
almost the same spot, queries with the tier's variation. No model is trained on the seeds of the test cities.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np

from d2vpr_hf.gridtown.city import City
from d2vpr_hf.gridtown.city_layout import COPY_SHARE, make_city
from d2vpr_hf.gridtown.photo_spec import Variation, draw_photo

TEST_SEEDS = (9001, 9002, 9003)  # cities for testing only
VAL_SEEDS = (8001,)
TRAIN_SEEDS = range(1, 8001)


class TierName(StrEnum):
    """The tiers, the easiest first."""

    EASY = "easy"
    STANDARD = "standard"
    ALL = "all"


@dataclass(frozen=True)
class Tier:
    """Variation of the photos, and share of a city that is repeated.

    Attributes:
        database: Variation of the database photos.
        queries: Variation of the queries.
        copy_share: Share of street segments that copy another one.
    """

    database: Variation
    queries: Variation
    copy_share: float

    def variation(self, visit: int) -> Variation:
        """Return the variation of a visit: that of the database for visit 0, that of the queries for all others."""
        return self.queries if visit else self.database


_DATABASE = Variation(weathers=("day",), shift=0.5, advance=0.5, turn=2.0, tilt=1.0, zoom=0.0)
_SLIGHT = Variation(weathers=("day",), shift=1.0, advance=0.8, turn=4.0, tilt=1.3, zoom=2.0, traffic=0.5)
TIERS = {
    TierName.EASY: Tier(database=_DATABASE, queries=_SLIGHT, copy_share=0.0),
    TierName.STANDARD: Tier(database=_DATABASE, queries=Variation(weathers=("day",)), copy_share=COPY_SHARE),
    TierName.ALL: Tier(database=_DATABASE, queries=Variation(traffic=1.3), copy_share=COPY_SHARE),
}


def tier_digest(name: TierName, seed: int = TEST_SEEDS[0]) -> str:
    """Return the SHA-256 digest of a tier's draws: of a small city, and of some photos of three visits.

    The digest does not depend on the machine. If it changes, results on the tier are not comparable with earlier ones.
    """
    tier = TIERS[name]
    city = make_city(seed, 12, tier.copy_share)
    photos = [draw_photo(city, place, place % 4, visit, tier.variation(visit)) for place in range(12) for visit in range(3)]
    drawn = {"tier": asdict(tier), "city": _tables(city), "photos": [asdict(photo) for photo in photos]}
    return hashlib.sha256(json.dumps(drawn, sort_keys=True, default=_rounded).encode()).hexdigest()


def _tables(city: City) -> dict[str, Any]:
    """Return a city's tables as dictionaries of columns."""
    tables = {column.name: getattr(city, column.name) for column in fields(city)}
    return {name: vars(table) if hasattr(table, "__dataclass_fields__") else table for name, table in tables.items()}


def _rounded(value: Any) -> Any:
    """Convert an array to JSON, rounded because processors may differ in the last bits."""
    return np.round(np.asarray(value, dtype=np.float64), 6).tolist()
