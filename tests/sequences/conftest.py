"""A map of photos along a road, with descriptors that no two photos share."""

import numpy as np
import pytest

from d2vpr_hf.index import IndexSettings, PlaceIndex
from d2vpr_hf.localization import Calibration
from d2vpr_hf.localization.consensus import FEATURES
from d2vpr_hf.places import Place

ROAD = 40  # photos, 10 m apart


def make_index(folder, places):
    with PlaceIndex.create(folder, IndexSettings("none", "0" * 64, len(places))) as index:
        index.add(np.eye(len(places), dtype=np.float32), places)
    return PlaceIndex.open(folder)


@pytest.fixture(scope="session")
def road(tmp_path_factory):
    """The road in a local frame, along x; cameras look along it (yaw 0)."""
    places = [Place(f"{number:02d}", x=10.0 * number, y=0.0, yaw=0.0, frame="hall") for number in range(ROAD)]
    return make_index(tmp_path_factory.mktemp("road") / "index", places)


@pytest.fixture(scope="session")
def calibration():
    """Confidence from the similarity alone: 0.5 at a similarity of 0.5, 0.98 at 0.9; half of the queries were correct."""
    weights = [10.0 if name == "similarity" else 0.0 for name in FEATURES]
    return Calibration(
        weights=weights,
        bias=-5.0,
        means=[0.0] * len(FEATURES),
        deviations=[1.0] * len(FEATURES),
        thresholds=[0.9, 0.8],
        precision=[0.99, 0.95],
        coverage=[0.4, 0.5],
        radius_confidence=[0.0, 1.0],
        radius=[100.0, 5.0],
        num_queries=100,
        num_correct=50,
    )


def seen(*similarities):
    """Return a descriptor with these similarities to photos of the road: pairs of number and similarity."""
    descriptor = np.zeros(ROAD, np.float32)
    for number, similarity in similarities:
        descriptor[number] = similarity
    rest = np.arange(ROAD)[descriptor == 0]
    descriptor[rest] = np.sqrt(max(0.0, 1 - float(descriptor @ descriptor)) / len(rest)) if len(rest) else 0
    return descriptor / np.linalg.norm(descriptor)
