"""Explanations: shares must sum to the cosine, and points must be where the network sampled features."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation import cosine_of, draw_bars, draw_photo_regions, explain_match, region_names, region_shares
from d2vpr_hf.explanation.regions import locate_regions
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor
from tests.conftest import TINY, tiny_cricavpr, tiny_model
from tests.photos import save


def encoder_of(model, size=(70, 70)):
    return PlaceEncoder(model, D2VPRImageProcessor(size={"height": size[0], "width": size[1]}))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save(folder / "query.jpg", 1), save(folder / "match.jpg", 2)


@pytest.fixture(scope="module")
def encoder():
    return encoder_of(tiny_model())


def test_shares_by_hand():
    """The products (3, 4)·(4, 3) = 24 and (5, 0)·(5, 0) = 25 are divided by 50, the product of both descriptors' lengths."""
    first = np.array([[3.0, 4.0], [5.0, 0.0]])
    assert np.allclose(region_shares(first, [[4.0, 3.0], [5.0, 0.0]]), [0.48, 0.5])
    assert np.allclose(region_shares(first, [[-3.0, -4.0], [5.0, 0.0]]), [-0.5, 0.5])
    assert np.allclose(region_shares(10 * first, first), [0.5, 0.5])  # the scale does not matter


@pytest.mark.parametrize("seed", range(3))
def test_shares_sum_to_the_cosine(seed):
    first, second = np.random.default_rng(seed).normal(size=(2, 14, 768)).astype(np.float32)
    assert region_shares(first, second).sum() == pytest.approx(cosine_of(first, second), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.ones((14, 8)), np.ones((10, 8)), r"one model, got \(14, 8\) and \(10, 8\)"),
        (np.zeros((2, 2)),) * 2 + ("features of a photo are zero",),
    ],
)
def test_features_of_two_models_or_of_length_zero_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        region_shares(first, second)


def test_the_cosine_is_that_of_the_descriptors(encoder, pair):
    """The explained cosine must be that of the descriptors, which the search compares."""
    explanation = explain_match(encoder, *pair)
    first, second = encoder.encode(pair).descriptors
    assert explanation.cosine == pytest.approx(float(first @ second), abs=2e-6)
    assert explanation.shares.sum() == pytest.approx(explanation.cosine, abs=1e-12)
    assert len(explanation.names) == len(explanation.shares) == 14 and explanation.note is None


def test_each_share_is_the_product_of_its_part_of_the_descriptors(encoder, pair):
    explanation = explain_match(encoder, *pair)
    first, second = encoder.encode(pair).descriptors.reshape(2, 14, -1)
    assert np.allclose(explanation.shares, (first * second).sum(axis=1), atol=2e-6)


def test_a_photo_has_cosine_one_with_itself(encoder, pair):
    assert explain_match(encoder, pair[0], pair[0]).cosine == pytest.approx(1, abs=1e-6)


def test_bars_show_the_shares_in_order_and_their_sum(encoder, pair):
    """Bars must be in the order of their shares, with the right numbers and widths, and below them the sum."""
    explanation = explain_match(encoder, *pair)
    drawn = ElementTree.fromstring(f"<div>{draw_bars(explanation)}</div>")
    rows = [(int(row.get("data-region")), *row) for row in drawn.iter("li")]
    assert sorted(region for region, *_ in rows) == list(range(14))
    largest = abs(explanation.shares).max()
    for region, name, track, share in rows:
        assert (name.text, share.text) == (explanation.names[region], f"{explanation.shares[region]:+.4f}")
        width = float(re.search(r"width:([\d.]+)%", track[0].get("style")).group(1))
        assert width == pytest.approx(100 * abs(explanation.shares[region]) / largest, abs=0.01)
        assert ("negative" in track[0].get("class")) == (explanation.shares[region] < 0)
    shown = [float(row[3].text) for row in rows]
    assert shown == sorted(shown, reverse=True)
    assert drawn.find("p/b").text == f"{explanation.cosine:.4f}" and sum(shown) == pytest.approx(
        explanation.cosine, abs=14 * 5e-5
    )


def test_points_are_between_patch_centres_of_a_wide_photo():
    """A photo of 300 x 900 with an input of 224 x 224: 0 is the centre of the first patch (7 of 224), 1 that of the last."""
    positions = np.tile([[0.0, 0.0], [1.0, 1.0], [0.5, 1.0], [0.0, 0.5]], (128, 1))
    photo = locate_regions(D2VPRConfig(), positions, (224, 224), (300, 900))
    corners = [[7 / 224 * 900, 7 / 224 * 300], [217 / 224 * 900, 217 / 224 * 300], [450, 217 / 224 * 300], [7 / 224 * 900, 150]]
    assert np.allclose(photo.points[:4], corners)
    assert np.allclose(photo.boxes[0], [0, 0, 900, 300])
    assert np.allclose(photo.boxes[1], [*corners[0], *corners[1]])


def test_points_and_boxes_agree_with_the_output_of_the_model(encoder, pair):
    """Boxes must have the model's extents in pixels, and each region must have as many points as the model samples."""
    photo = explain_match(encoder, *pair).query
    pixels = encoder.processor([str(pair[0])], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        output = encoder.model(pixels)
    inner = np.array([70 - 14, 70 - 14]) / 70 * [90, 60]
    extents = photo.boxes[1:, 2:] - photo.boxes[1:, :2]
    assert np.allclose(extents, output.region_boxes[0, 1:, 2:].numpy() * inner, atol=1e-3)
    assert np.allclose(
        photo.points.mean(axis=0), (output.sampling_positions[0].numpy() * inner + [9, 6]).mean(axis=0), atol=1e-3
    )
    counts = [64] * 4 + [25, 30, 25, 30, 36, 30, 25, 30, 25]
    assert [int((photo.region == region).sum()) for region in range(14)] == [0, *counts] and photo.size == (60, 90)


def test_without_offsets_points_stay_on_the_grid(pair):
    explanation = explain_match(encoder_of(tiny_model(use_offsets=False, use_scales=False)), *pair)
    assert np.allclose(explanation.query.points, explanation.query.fixed)
    moved = explain_match(encoder_of(tiny_model()), *pair)
    assert np.allclose(moved.query.fixed, explanation.query.fixed) and not np.allclose(moved.query.points, moved.query.fixed)


def test_a_note_names_a_projection(pair):
    """Projected descriptors mix the regions, so the cosine before the projection is explained, and a note says so."""
    projected, plain = (explain_match(encoder_of(tiny_model(**changes)), *pair) for changes in ({"projection_dim": 8}, {}))
    assert "before the projection" in projected.note and plain.note is None
    assert projected.shares.sum() == pytest.approx(projected.cosine, abs=1e-12)
    assert projected.note in draw_bars(projected)


def test_models_without_explainable_descriptors_are_refused(pair):
    for model, message in [
        (tiny_model(use_cross_image_encoder=True), "depends on all photos of its batch"),
        (tiny_cricavpr(), "this model is 'cricavpr'"),
    ]:
        with pytest.raises(ValueError, match=message):
            explain_match(encoder_of(model), *pair)


def test_region_names_follow_the_table_of_regions():
    names = region_names(D2VPRConfig(**TINY))
    assert names[:3] == ["whole photo", "upper left quarter", "upper right quarter"]
    assert names[5] == "upper left ninth" and names[9] == "middle centre ninth" and len(set(names)) == 14
    assert region_names(D2VPRConfig(**TINY, use_top_down_fusion=False, regions=D2VPRConfig().regions[4:6])) == [
        "whole photo",
        "small region 1",
        "small region 2",
    ]


def test_drawings_are_valid_svg_and_escape_captions(encoder, pair):
    explanation = explain_match(encoder, *pair)
    deformed, fixed = (draw_photo_regions(explanation.query, "data:,x", '<b>"a"', deformed=moved) for moved in (True, False))
    space = "{http://www.w3.org/2000/svg}"
    for drawing, boxes in ((deformed, 13), (fixed, 0)):
        svg = ElementTree.fromstring(drawing.replace("<svg ", f'<svg xmlns="{space[1:-1]}" ', 1))
        assert svg.get("aria-label") == '<b>"a"' and svg.get("viewBox") == "0 0 600.0 400.0"
        assert len(list(svg.iter(f"{space}circle"))) == 512 and len(list(svg.iter(f"{space}rect"))) == boxes
    first = next(ElementTree.fromstring(deformed).iter("circle"))
    assert float(first.get("cx")) == pytest.approx(explanation.query.points[0, 0] * 600 / 90, abs=0.06)


def test_an_explanation_is_converted_to_json_values(encoder, pair):
    answer = explain_match(encoder, *pair).to_dict()
    assert answer["cosine"] == pytest.approx(sum(row["share"] for row in answer["regions"]), abs=1e-12)
    assert len(answer["query"]["points"]) == len(answer["query"]["region_of_point"]) == 512 and "note" not in answer
