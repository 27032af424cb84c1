"""On ZeroGPU the network runs in functions that the package `spaces` decorates; a stand-in for it pickles as that does."""

import pickle
import sys
from types import ModuleType

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.space.space_encoder import SpaceEncoder, ZeroGPUEncoder, space_encoder_class
from d2vpr_hf.space.zero_gpu import import_spaces, on_gpu
from tests.photos import save


@pytest.fixture
def durations(monkeypatch):
    """Put the stand-in in place; return the durations that it was asked for."""
    requests = []

    def decorate(function, duration):
        def call(*arguments, **options):
            arguments, options = pickle.loads(pickle.dumps((arguments, options)))
            requests.append(duration(*arguments, **options))
            return pickle.loads(pickle.dumps(function(*arguments, **options)))

        return call

    spaces = ModuleType("spaces")
    spaces.GPU = lambda duration: lambda function: decorate(function, duration)
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    return requests


def test_the_network_asks_for_a_gpu_once_for_all_photos(durations, tmp_path):
    photos = [save(tmp_path / f"{seed}.jpg", seed) for seed in range(20)]
    assert space_encoder_class() is ZeroGPUEncoder
    encoder = ZeroGPUEncoder(device="cpu")
    batches, counts = [], []
    encoded = encoder.encode(photos, counts.append, on_batch=batches.append)
    assert durations == [17] and counts == [20] and batches == [encoded]
    np.testing.assert_array_equal(encoded.descriptors, PlaceEncoder().encode(photos).descriptors)
    assert encoder.explain(photos[0], photos[1]).cosine == pytest.approx(SpaceEncoder().explain(photos[0], photos[1]).cosine)
    assert durations == [17, 15]


def test_nothing_changes_elsewhere(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert import_spaces() is None and space_encoder_class() is SpaceEncoder and on_gpu(len, len) is len


def test_a_folder_named_spaces_is_not_the_package(monkeypatch):
    folder = ModuleType("spaces")
    folder.__path__ = ["/repository/spaces"]
    monkeypatch.setitem(sys.modules, "spaces", folder)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    with pytest.raises(ImportError, match=r"Run app\.py in a folder without a folder `spaces`"):
        import_spaces()
