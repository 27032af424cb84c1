"""`--dim`: an index and its queries take the first numbers of each descriptor, and the index records how many."""

import logging

import numpy as np
import pytest

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos
from d2vpr_hf.projection import fit_projection
from tests.command_line import run
from tests.conftest import save_folder, tiny_model
from tests.other_model import OtherModel
from tests.photos import save_row


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("prefixes")
    save_row(root / "photos")
    fit_projection(root / "photos", root / "model", PlaceEncoder(save_folder(tiny_model(), root / "plain")), 6)
    return root


def test_an_index_records_the_number_of_numbers(folders, tmp_path):
    """Queries take as many without being told; whole descriptors have another fingerprint."""
    status, _, err = run("index", folders / "photos", "--out", tmp_path / "index", "--model", folders / "model", "--dim", "3")
    assert status == 0, err
    index = PlaceIndex.open(tmp_path / "index")
    assert index.settings.descriptor_dim == 3 and index.settings.model_options == {"dim": 3}
    assert PlaceEncoder.for_index(index).descriptor_dim == 3
    photos = sorted((folders / "photos").iterdir())
    status, out, err = run("search", tmp_path / "index", photos[0], "--top-k", "1")
    assert status == 0 and photos[0].name in out, err
    status, _, err = run("search", tmp_path / "index", photos[0], "--dim", "4")
    assert status != 0 and "dim 4" in err
    whole = PlaceEncoder(folders / "model").encode(photos).descriptors[:, :3]
    np.testing.assert_allclose(index.descriptors[:], whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=2e-3)


def test_wrong_and_doubtful_numbers(folders, tmp_path, caplog):
    with pytest.raises(ValueError, match="have 6 numbers, got `dim=7`"):
        PlaceEncoder(folders / "model", dim=7)
    with pytest.raises(ValueError, match="whole number of at least 1"):
        PlaceEncoder(folders / "model", dim=0)
    with pytest.raises(ValueError, match="Leave `dim` out"):
        fit_projection(folders / "photos", tmp_path / "out", PlaceEncoder(folders / "model", dim=3), 2)
    with caplog.at_level(logging.WARNING):
        encoder = PlaceEncoder(OtherModel(), dim=5)
    assert "has no projection" in caplog.text and encoder.descriptor_dim == 5
    assert encoder.model_options == {"pool": "gem", "dim": 5} and encoder.fingerprint != OtherModel().fingerprint
    with pytest.raises(AttributeError):
        _ = encoder.descriptor_model.network


def test_an_index_of_another_number_is_refused(folders, tmp_path):
    index_photos(folders / "photos", tmp_path / "index", PlaceEncoder(folders / "model", dim=3))
    with pytest.raises(ValueError, match=r"with dim 3 \(here with dim 2\)"):
        index_photos(folders / "photos", tmp_path / "index", PlaceEncoder(folders / "model", dim=2))
