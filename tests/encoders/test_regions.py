"""Regions of photos: those that descriptors hold, and those that models compute."""

import numpy as np
import pytest

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.reranking.open_reranker import check_regions, holds_regions
from d2vpr_hf.reranking.region_similarity import split_regions
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.photos import save


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        save(folder / f"{number}.jpg", number)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("make", [tiny_model, lambda: tiny_cricavpr(use_cross_image_encoder=False)])
def test_a_descriptor_is_the_regions_that_the_model_computes(make, photos, tmp_path):
    save_folder(make(), tmp_path / "model")
    encoder = PlaceEncoder(tmp_path / "model")
    regions = encoder.encode_regions(photos)
    assert encoder.holds_regions and regions.descriptors.shape == (3, *encoder.region_shape)
    assert len(encoder.region_boxes) == encoder.region_shape[0] == 14
    stored = split_regions(encoder.encode(photos).descriptors, 14)
    np.testing.assert_allclose(split_regions(regions.descriptors.reshape(3, -1), 14), stored, atol=1e-5)


def test_a_part_of_a_descriptor_and_a_projected_one_hold_no_regions_but_their_model_computes_them(photos, tmp_path):
    save_folder(tiny_model(projection_dim=8), tmp_path / "projected")
    for encoder in (PlaceEncoder(tmp_path / "projected"), PlaceEncoder(tmp_path / "projected", dim=4)):
        assert not encoder.holds_regions and encoder.can_encode_regions
        assert encoder.encode_regions(photos).descriptors.shape == (3, 14, 48)


def test_a_cross_image_encoder_cannot_encode_photos_one_by_one(photos, tmp_path):
    save_folder(tiny_cricavpr(), tmp_path / "model")
    encoder = PlaceEncoder(tmp_path / "model")
    assert encoder.holds_regions and not encoder.can_encode_regions
    with pytest.raises(ValueError, match="without a cross-image encoder"):
        encoder.encode_regions(photos)


def test_a_vision_transformer_has_the_cells_of_its_tokens(photos):
    """Those of any pooling are the blocks of the pooling of regions."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from d2vpr_hf.model_info.preprocessing import Preprocessing

    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=70))
    encoders = [PlaceEncoder(model, Preprocessing(), pool=pool, image_size=70) for pool in ("cls", "regions")]
    assert [holds_regions(encoder) for encoder in encoders] == [False, True]
    cells = [encoder.encode_regions(photos).descriptors for encoder in encoders]
    np.testing.assert_allclose(*cells, atol=1e-6)
    blocks = split_regions(encoders[1].encode(photos).descriptors, 14)
    np.testing.assert_allclose(split_regions(cells[0].reshape(3, -1), 14), blocks, atol=1e-5)


class OtherEncoder:
    model_name, fingerprint = "other", "o"
    descriptor_dim, projection_dim = 4, None
    batch_size, depends_on_batch = 1, False
    runtime = Runtime("other", "fp32")


def test_an_encoder_without_regions_is_refused_by_name():
    with pytest.raises(ValueError, match=r"other gives descriptors only, without regions or tokens of patches"):
        check_regions(OtherEncoder())
