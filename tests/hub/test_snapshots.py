"""Data sets on the Hub are recognised by the folder of their photos in the cache, and recorded by evaluations."""

import shutil

import pytest

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, PositiveRule, evaluate
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.hub.snapshots import find_dataset

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/home/me/hub/datasets--user--streets/snapshots/{COMMIT}/test", {"dataset": "user/streets", "revision": COMMIT}),
        (f"datasets--a-b--c.d--e/snapshots/{COMMIT}", {"dataset": "a-b/c.d--e", "revision": COMMIT}),
        (f"/hub/models--user--streets/snapshots/{COMMIT}", {}),
        ("/data/datasets--user--streets/test", {}),
        ("queries", {}),
        (None, {}),
    ],
)
def test_a_data_set_is_named_by_the_cache(path, expected):
    assert find_dataset(path) == expected


def test_an_evaluation_records_the_data_set_of_both_sides(tmp_path, tiny_folder):
    encoder = PlaceEncoder(tiny_folder, batch_size=4)
    town = tmp_path / f"datasets--user--town/snapshots/{COMMIT}/town"
    simulate(town, num_places=2, image_size=56, seed=3)
    database, queries = town / "images/test/database", town / "images/test/queries"
    evaluation = evaluate(database, queries, encoder, PositiveRule())
    assert evaluation.dataset == ("user/town", COMMIT)
    evaluation.save(tmp_path / "report.json")
    assert Evaluation.load(tmp_path / "report.json").dataset == ("user/town", COMMIT)
    shutil.copytree(queries, tmp_path / "queries")
    assert evaluate(database, tmp_path / "queries", encoder, PositiveRule()).dataset is None
