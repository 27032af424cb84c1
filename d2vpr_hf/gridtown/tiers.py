"""Three tiers of difficulty, frozen: numbers on them can be compared as long as their digests stay.

A tier says how far the photos of a place differ and how much of a town repeats. The database is a plain visit by day; queries
are other visits. Test cities are seeds of their own, which nothing is trained on.
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

TEST_SEEDS = (9001, 9002, 9003)  # cities that are for testing only
VAL_SEEDS = (8001,)
TRAIN_SEEDS = range(1, 8001)


class TierName(StrEnum):
    """Names of the tiers, the easiest first."""

    EASY = "easy"
    STANDARD = "standard"
    ALL = "all"


@dataclass(frozen=True)
class Tier:
    """How photos of one place differ, and how much of a town repeats.

    Attributes:
        database: Variation of the photos that are searched.
        queries: Variation of the photos that are looked for.
        copy_share: Share of street segments that copy another one.
    """

    database: Variation
    queries: Variation
    copy_share: float

    def variation(self, visit: int) -> Variation:
        """Return the variation of a visit: 0 is the database's, the others are queries'."""
        return self.queries if visit else self.database


_MAP = Variation(weathers=("day",), shift=0.5, advance=0.5, turn=2.0, tilt=1.0, zoom=0.0)
_THIRD = Variation(weathers=("day",), shift=1.0, advance=0.8, turn=4.0, tilt=1.3, zoom=2.0, traffic=0.5)
TIERS = {
    TierName.EASY: Tier(database=_MAP, queries=_THIRD, copy_share=0.0),
    TierName.STANDARD: Tier(database=_MAP, queries=Variation(weathers=("day",)), copy_share=COPY_SHARE),
    TierName.ALL: Tier(database=_MAP, queries=Variation(traffic=1.3), copy_share=COPY_SHARE),
}


def tier_digest(name: TierName, seed: int = TEST_SEEDS[0]) -> str:
    """Hash everything that a tier draws: a small city of it, and some photos of every visit.

    The digest does not depend on the machine. A change of it changes what every number on the tier means.
    """
    tier = TIERS[name]
    city = make_city(seed, 12, tier.copy_share)
    photos = [draw_photo(city, place, place % 4, visit, tier.variation(visit)) for place in range(12) for visit in range(3)]
    drawn = {"tier": asdict(tier), "city": _numbers(city), "photos": [asdict(photo) for photo in photos]}
    return hashlib.sha256(json.dumps(drawn, sort_keys=True, default=_rounded).encode()).hexdigest()


def _numbers(city: City) -> dict[str, Any]:
    """Return a city's tables, rounded where processors may differ in the last bits."""
    tables = {column.name: getattr(city, column.name) for column in fields(city)}
    return {name: vars(table) if hasattr(table, "__dataclass_fields__") else table for name, table in tables.items()}


def _rounded(value: Any) -> Any:
    return np.round(np.asarray(value, dtype=np.float64), 6).tolist()
