"""The code of `make reproduce`, without the published weights, which are not available offline."""

import sys

import pytest

from benchmarks import reproduce
from benchmarks.reproduce import PUBLISHED, Published
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from tests.conftest import save_folder, tiny_model
from tests.photos import save_row


@pytest.fixture
def photos(tmp_path):
    """Every query is its database photo, so all recalls are 100 %."""
    for side in ("database", "queries"):
        save_row(tmp_path / "test" / side)
    return tmp_path / "test"


@pytest.fixture
def encoder(tiny_folder, monkeypatch):
    """A tiny model; the projection and size that the script expects are patched to match it."""
    encoder = PlaceEncoder(str(tiny_folder), batch_size=4)
    monkeypatch.setattr(reproduce, "PROJECTION_DIM", encoder.model.config.projection_dim)
    monkeypatch.setattr(reproduce, "SIZE", encoder.processor.size)
    return encoder


def test_differences_are_points_above_the_published_recalls(encoder, photos):
    evaluation, differences = reproduce.reproduce(encoder, photos, Published((99.5, 100.0, 100.0), 9, 9))
    assert differences == pytest.approx([0.5, 0.0, 0.0])
    assert evaluation.database["count"] == 9


@pytest.mark.parametrize(("published", "status"), [((99.7, 100.0, 100.0), 0), ((99.6, 100.0, 100.0), 1)])
def test_the_exit_status_follows_from_the_largest_difference(
    encoder, tiny_folder, photos, monkeypatch, capsys, published, status
):
    monkeypatch.setitem(PUBLISHED, "sped", Published(published))
    arguments = ["reproduce.py", "--model", str(tiny_folder), "--dataset", "sped", "--photos", str(photos)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    assert ended.value.code == status
    assert f"R@1: 100.0 here, {published[0]} published" in capsys.readouterr().out


def test_another_variant_of_a_data_set_is_refused(encoder, photos):
    with pytest.raises(ValueError, match="of 10,000 photos as database, this data set has 9"):
        reproduce.reproduce(encoder, photos, PUBLISHED["pitts30k"])


def test_nordland_is_the_variant_that_the_published_code_reads(encoder, tmp_path):
    """With 2,760 queries and one frame, the same weights have another recall."""
    assert (PUBLISHED["nordland"].database, PUBLISHED["nordland"].queries) == (27_592, 27_592)
    for side, step in (("database", 1), ("queries", 10)):
        for row in range(0, 20, step):
            path = tmp_path / "nordland" / side / f"@0@{row * 16.67:.1f}@@@@@{row}@@@@@@@@.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"27,592 photos as database, this data set has 20\. It is nordland: 2 queries.*±1 frame"
    ):
        reproduce.reproduce(encoder, tmp_path / "nordland", PUBLISHED["nordland"])


def test_a_model_that_differs_from_the_published_one_is_refused(tiny_folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"reduced to 4096 numbers, this model has no projection.*fit-projection"):
        reproduce.check_model(PlaceEncoder(str(tiny_folder)))
    monkeypatch.setattr(reproduce, "PROJECTION_DIM", 8)
    batched = save_folder(tiny_model(use_cross_image_encoder=True, projection_dim=8), tmp_path / "batched")
    with pytest.raises(ValueError, match="without cross-image encoder"):
        reproduce.check_model(PlaceEncoder(str(batched)))
    smaller = PlaceEncoder(str(save_folder(tiny_model(projection_dim=8), tmp_path / "smaller")))
    smaller.processor.size = {"height": 112, "width": 112}
    with pytest.raises(ValueError, match="photos of 224x224"):
        reproduce.check_model(smaller)
