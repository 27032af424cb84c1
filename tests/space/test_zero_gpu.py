"""On ZeroGPU the network runs in functions that the package `spaces` decorates; a stand-in for it pickles as that does."""

import importlib.util
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.space.opened_space import open_space
from d2vpr_hf.space.photo_map import Question
from d2vpr_hf.space.settings import Settings
from d2vpr_hf.space.space_encoder import SpaceEncoder, ZeroGPUEncoder, space_encoder_class
from d2vpr_hf.space.town_map import TownPlan
from d2vpr_hf.space.zero_gpu import import_spaces, on_gpu
from tests.photos import save, save_row
from tests.space.running import APP


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
    assert len(encoder.encode(str(photos[0])).descriptors) == 1
    assert durations == [17, 15, 15]


@pytest.mark.parametrize("form", ["resize", "five-crops", "nearest-crop"])
def test_queries_have_their_form_on_a_gpu(durations, tmp_path, form):
    """Crops of queries would be missing, or ask for a GPU for each photo."""
    photos = [save(tmp_path / f"{seed}.jpg", seed) for seed in range(3)]
    counts = []
    encoded = ZeroGPUEncoder(device="cpu", test_time=form).encode_queries(photos, counts.append, order=[2, 0, 1])
    expected = PlaceEncoder(device="cpu", test_time=form).encode_queries(photos)
    assert durations == [15] and counts == [3]
    np.testing.assert_allclose(encoded.descriptors, expected.descriptors, atol=1e-6)


@pytest.fixture
def on_cpu(monkeypatch):
    """Let the encoder's default device be the CPU: the package `spaces` simulates a GPU, and its stand-in does not."""
    monkeypatch.setitem(ZeroGPUEncoder.__init__.__kwdefaults__, "device", "cpu")


def test_the_town_is_indexed_without_a_gpu(durations, on_cpu, tiny_folder, tmp_path, monkeypatch):
    """Before the launch there is none."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # starting processes would take longer than rendering
    plan = TownPlan(places=9, image_size=32, queries_per_place=1, examples=3)
    opened = open_space(Settings(str(tiny_folder), None, tmp_path, None), plan)
    assert durations == [] and isinstance(opened.photo_map.encoder, ZeroGPUEncoder) and len(opened.photo_map.index) == 24
    answer = opened.photo_map.answer([Question(opened.examples[0])])[0]
    assert durations == [15] and len(answer.matches) == 5


def test_each_request_of_a_program_asks_for_a_gpu(durations, on_cpu, tmp_path, monkeypatch):
    """Its visitor's quota pays for it; a batch would be paid by one visitor."""
    photos = sorted(save_row(tmp_path / "photos").glob("*.jpg"))
    index_photos(tmp_path / "photos", tmp_path / "index", PlaceEncoder())[0].close()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # the app sets it for the whole process
    specification = importlib.util.spec_from_file_location("space_app", APP)
    app = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(app)
    files = app.Files(app.Visitors(tmp_path), frozenset(photo.resolve() for photo in photos))
    page = app.build(open_space(Settings(None, str(tmp_path / "index"), tmp_path, None)), files)
    events = {event.api_name: event for event in page.fns.values()}
    assert not any(events[name].batch for name in ("localize", "search", "explain"))
    assert events["localize"].fn(str(photos[1]), 3, 0.95, "", "", "", "", False)["matches"][0]["photo"] == photos[1].name
    assert [match["photo"] for match in events["search"].fn(str(photos[2]), 1)["matches"]] == [photos[2].name]
    assert "Expected 1 to 20 matches" in events["search"].fn(str(photos[2]), 0)["error"]
    assert durations == [15, 15]


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
