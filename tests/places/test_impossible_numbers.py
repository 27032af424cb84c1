"""Numbers that are not finite are refused where a program gives places: a search by distance would silently leave them out."""

import math
from dataclasses import replace

import numpy as np
import pytest

from d2vpr_hf.localization.calibration import position_errors
from d2vpr_hf.localization.consensus import PositionEstimate
from d2vpr_hf.places import Place
from d2vpr_hf.places.filters import within_radius
from d2vpr_hf.readers import PlaceTable, read_places, write_places
from d2vpr_hf.readers.group_places import group_places
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.index.workers import BytesEncoder, begin, write_photos

GOOD = Place("good.jpg", 43.5, 11.5, heading=10.0)
BAD = [
    {"latitude": math.nan},
    {"longitude": math.inf},
    {"latitude": np.float32("nan")},
    {"heading": -math.inf},
    {"x": math.nan, "y": 0.0},
    {"x": 0.0, "y": 0.0, "z": math.inf},
    {"x": 0.0, "y": 0.0, "yaw": math.nan},
    {"utm_east": math.inf, "utm_north": 0.0, "utm_zone": "32N"},
]


@pytest.mark.parametrize("values", BAD, ids=str)
def test_numbers_that_are_not_finite_are_refused(values, tmp_path):
    bad = replace(GOOD, path="bad.jpg", **values)
    table = PlaceTable(tmp_path / "photos", [GOOD, bad], "csv")
    index = begin(tmp_path / "index")
    row = np.eye(1, BytesEncoder().descriptor_dim)
    with pytest.raises(ValueError, match=r"bad\.jpg: \w+ must be a finite number"):
        index.add(row, bad)
    with pytest.raises(ValueError, match=r"bad\.jpg: \w+ must be a finite number"):
        index.update(row, bad)
    for use in (lambda: write_places(table, tmp_path / "places.csv"), lambda: group_places(table, min_photos=1)):
        with pytest.raises(ValueError, match=r"bad\.jpg: \w+ must be a finite number"):
            use()
    assert not (tmp_path / "places.csv").exists() and len(index) == 0
    with pytest.raises(ValueError, match="must be a finite number"):
        within_radius([GOOD], bad, 10.0)
    estimate = PositionEstimate(GOOD, "the Earth", np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match=r"bad\.jpg: \w+ must be a finite number"):
        position_errors([estimate], [bad])


def test_a_table_of_a_program_is_refused_before_it_is_stored(tmp_path):
    write_photos(tmp_path / "photos", 2)
    table = PlaceTable(tmp_path / "photos", [Place("00.jpg", 1.0, 2.0), Place("01.jpg", math.nan, 2.0)], "csv")
    with pytest.raises(ValueError, match=r"01\.jpg: latitude must be a finite number"):
        index_photos(table, tmp_path / "index", BytesEncoder())


@pytest.mark.parametrize("number", ["nan", "inf", "-Infinity", "1e999"])
def test_numbers_in_tables_are_finite(number, tmp_path):
    (tmp_path / "places.csv").write_text(f"path,latitude,longitude\na.jpg,{number},1\n")
    with pytest.raises(ValueError, match=r"places\.csv.*finite"):
        read_places(tmp_path / "places.csv")
