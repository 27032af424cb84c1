"""An index whose rows are exported."""

import numpy as np
import pytest

from d2vpr_hf.index import PhotoFile, PlaceIndex
from d2vpr_hf.places import Place
from tests.index.workers import begin

DIM = 24


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(params=["float16", "float32"])
def index(request, tmp_path) -> PlaceIndex:
    """Several shards with removed rows, odd names, places that lack fields, and rows that are not stored yet."""
    made = begin(tmp_path / "index", descriptor_dim=DIM, shard_size=40, dtype=request.param)
    rng = np.random.default_rng(1)
    places = [
        Place(
            f"{number} 'it\"s', <b>\\{number}.jpg" if number % 5 == 0 else f"{number}.jpg",
            *((48 + rng.random(), 179.5 + number / 100 - 360 * (number > 50)) if number % 7 else ()),
            heading=float(rng.integers(360)) if number % 3 else None,
            timestamp=f"2024-05-{1 + number % 28:02d}T12:00:00Z" if number % 4 else None,
            condition="night" if number % 2 else None,
        )
        for number in range(100)
    ]
    for start in (0, 40):
        made.upsert(unit_rows(40, start), places[start : start + 40], [PhotoFile()] * 40)
    made.remove(["3.jpg", "49.jpg"])
    made.add(unit_rows(20, 2), places[80:])
    return made
