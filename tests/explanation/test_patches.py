"""Patch similarities of a vision transformer: each patch by its most similar patch of the other photo."""

import re

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation import PatchMap, draw_patches, explain_match, reason_against
from d2vpr_hf.explanation.patches import covered_box, patch_similarities
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.space import pages
from tests.conftest import tiny_cricavpr
from tests.other_model import OtherModel
from tests.photos import save


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save(folder / "query.jpg", 1), save(folder / "match.jpg", 2)


def test_each_patch_has_its_largest_cosine():
    """Two patches against three, of lengths other than one; by hand."""
    first = np.array([[[2, 0], [0, 3]]], np.float32)  # (1, 2, 2)
    second = np.array([[[1, 1]], [[0, -1]], [[5, 0]]], np.float32)  # (3, 1, 2)
    of_first, of_second = patch_similarities(first, second)
    np.testing.assert_allclose(of_first, [[1, 2**-0.5]], atol=1e-6)
    np.testing.assert_allclose(of_second, [[2**-0.5], [0], [1]], atol=1e-6)


def test_patches_of_two_photos(pair):
    encoder = PlaceEncoder(OtherModel())
    explanation = explain_match(encoder, *pair)
    assert explanation.query.similarity.shape == explanation.match.similarity.shape == (5, 5)
    assert explanation.query.size == (60, 90) and explanation.query.box == (0, 0, 90, 60)
    descriptors = encoder.encode(list(pair)).descriptors
    assert explanation.cosine == pytest.approx(float(descriptors[0] @ descriptors[1]), abs=1e-6)
    assert reason_against(encoder) is None
    same = explain_match(encoder, pair[0], pair[0])
    np.testing.assert_allclose(same.query.similarity, 1, atol=1e-5)
    values = explanation.to_dict()
    assert np.array(values["patches"]["match"]["similarity"]).shape == (5, 5) and "note" in values
    panel = pages.explanation_panel(explanation, "data:a", "data:b", 3)
    assert panel.count("<rect") == 2 * 25 + 24 and "Match 3: similarity of each patch" in panel and "sampling" not in panel


def test_patches_of_a_crop_cover_the_middle_of_the_photo():
    """A photo of 100x200 is resized to 50x100, and 50x40 are cropped: 30 pixels are missing at both sides, 60 of the photo."""
    assert covered_box(Preprocessing(shortest_edge=50, crop_size=(50, 40)), 100, 200, (3, 50, 40)) == (60, 0, 140, 100)
    assert covered_box(Preprocessing(size=(70, 70)), 100, 200, (3, 70, 70)) == (0, 0, 200, 100)
    assert covered_box(Preprocessing(fit_size=(50, 50), pad_size=(50, 50)), 100, 200, (3, 50, 50)) == (0, 0, 200, 200)


def test_bright_patches_are_similar():
    photo = PatchMap(np.array([[0.0, 0.5, 1.0]], np.float32), (100, 300), (0.0, 0.0, 300.0, 100.0))
    drawing = draw_patches(photo, "data:a", "a <photo>", (0.0, 1.0))
    colours = [tuple(bytes.fromhex(colour)) for colour in re.findall(r'fill="#(......)"', drawing)]
    assert [sum(colour) for colour in colours] == sorted(sum(colour) for colour in colours) and "a &lt;photo&gt;" in drawing
    assert re.findall(r'<rect x="([\d.]+)"', drawing) == ["0.0", "200.0", "400.0"] and 'viewBox="0 0 600.0 200.0"' in drawing


def test_models_without_patches_have_a_reason(pair):
    class Graph(OtherModel):
        tokens = None

    encoder = PlaceEncoder(Graph())
    assert "Matches of Tiny DINOv2 cannot be explained: they come from a graph" in reason_against(encoder)
    with pytest.raises(ValueError, match="which gives descriptors only"):
        explain_match(encoder, *pair)
    assert "cannot be explained" in pages.why_intro(reason_against=reason_against(encoder))
    assert "sampling points" in reason_against(PlaceEncoder(tiny_cricavpr(), _processor()))


def test_tokens_without_a_grid_cannot_be_compared(pair):
    model = OtherModel()
    model.tokens = lambda pixels: None
    with pytest.raises(ValueError, match="The tokens of Tiny DINOv2 have no grid"):
        explain_match(PlaceEncoder(model), *pair)


def _processor():
    from d2vpr_hf.modeling import D2VPRImageProcessor

    return D2VPRImageProcessor()
