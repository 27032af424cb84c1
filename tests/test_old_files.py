"""Models, indexes, calibrations, graphs, shards and reports of an earlier commit open today and give the same answers.

A renamed key, another order of fields or a new default would make people's maps unreadable, or change their answers in silence.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf import Evaluation, PlaceEncoder, PlaceIndex, index_photos
from d2vpr_hf.retrieval.distributed import merge_parts
from tests.command_line import run

OLD = Path(__file__).parent / "data" / "version_0_1"
INDEXES = ("index", "index_bits", "index_int8")
EXPECTED = json.loads((OLD / "expected.json").read_text())
ROUNDING = 2e-5  # of a similarity or a coordinate: processors add in different orders
# Of a confidence: the spread of matches is measured on a sphere now. Its metres differ from those of UTM by 0.15 % there.
SPHERE = 1e-4


@pytest.fixture(scope="module")
def encoder():
    return PlaceEncoder(OLD / "model", device="cpu")


@pytest.fixture
def old(tmp_path):
    """A copy, as opening may tidy up and updating writes."""
    return shutil.copytree(OLD, tmp_path / "old")


def printed(*arguments):
    code, output, errors = run(*arguments)
    assert code == 0, errors
    return json.loads(output)


def assert_same(new, old, where=""):
    """Everything that the old answer said is in the new one: numbers up to rounding, photos by their names."""
    if isinstance(old, dict):
        assert old.keys() <= new.keys(), where
        for key in old:
            assert_same(new[key], old[key], f"{where}.{key}")
    elif isinstance(old, list):
        assert len(new) == len(old), where
        for number, (new_item, old_item) in enumerate(zip(new, old, strict=True)):
            assert_same(new_item, old_item, f"{where}[{number}]")
    elif isinstance(old, float):
        tolerance = SPHERE if where.endswith(".confidence") else ROUNDING
        assert new == pytest.approx(old, rel=tolerance, abs=tolerance), where
    elif isinstance(old, str) and "/" in old:
        assert Path(new).name == Path(old).name, where
    else:
        assert new == old, where


@pytest.mark.parametrize("name", INDEXES)
def test_an_old_index_says_the_same_of_itself(name):
    assert_same(printed("info", OLD / name, "--json"), EXPECTED[name]["info"])


@pytest.mark.parametrize("name", INDEXES)
def test_an_old_index_finds_the_same(name):
    arguments = ("search", OLD / name, OLD / "queries", "--json", "--top-k", 3, "--model", OLD / "model", "--device", "cpu")
    assert_same(printed(*arguments), _with_queries(EXPECTED[name]["search"]))


def test_an_old_calibration_gives_the_same_answers():
    arguments = (
        "localize",
        OLD / "index",
        OLD / "queries",
        "--json",
        "--precision",
        0,
        "--model",
        OLD / "model",
        "--device",
        "cpu",
    )
    assert_same(printed(*arguments), _with_queries(EXPECTED["index"]["localize"]))


def _with_queries(answers):
    """The queries' folder has another name than it had."""
    return json.loads(json.dumps(answers).replace("/few/", "/queries/"))


def test_stored_descriptors_are_what_was_encoded():
    """Bit by bit: reading a file depends on no processor."""
    encoded = np.load(OLD / "descriptors.npy")
    assert (PlaceIndex.open(OLD / "index_bits").descriptors[:] == encoded).all()
    assert (PlaceIndex.open(OLD / "index").descriptors[:] == encoded.astype(np.float16)).all()


def test_an_old_model_has_its_fingerprint_and_descriptors(encoder):
    photos = sorted((OLD / "database").iterdir())
    assert encoder.fingerprint == EXPECTED["index"]["info"]["fingerprint"]
    assert np.abs(encoder.encode(photos).descriptors - np.load(OLD / "descriptors.npy")).max() < ROUNDING


def test_an_old_graph_gives_the_same_descriptors():
    graph = PlaceEncoder(OLD / "graph")
    assert graph.fingerprint == EXPECTED["index"]["info"]["fingerprint"]
    found = graph.encode(sorted((OLD / "database").iterdir())).descriptors
    assert np.abs(found - np.load(OLD / "descriptors.npy")).max() < ROUNDING


def test_an_old_index_goes_on_with_its_photos(old, encoder):
    """The photos moved to another folder, and their files have new times: none is encoded again, and every row stays."""
    before = PlaceIndex.open(old / "index").descriptors[:]
    index, report = index_photos(old / "database", old / "index", encoder)
    assert (report.kept, report.added, report.changed, report.removed) == (12, 0, 0, 0)
    assert (index.descriptors[:] == before).all() and index.verify() == []


def test_old_shards_make_the_old_index(old):
    merged = merge_parts([old / "parts"], old / "merged")
    paths = [place.path for place in PlaceIndex.open(OLD / "index").places]
    assert [place.path for place in merged.places] == paths
    for number, part in enumerate(sorted((OLD / "parts").iterdir())):
        stored = PlaceIndex.open(part).descriptors[:]
        assert (merged.descriptors[5 * number : 5 * number + len(stored)] == stored).all()


def test_an_old_report_reads_back():
    report = json.loads((OLD / "report.json").read_text())
    evaluation = Evaluation.load(OLD / "report.json")
    assert_same(evaluation.to_dict(), report)
