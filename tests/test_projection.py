"""Projections against numpy's SVD, and what is stored of them."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from d2vpr_hf import PlaceEncoder, load_model, projection
from d2vpr_hf.cli import app
from d2vpr_hf.encoders.projected_model import add_projection
from d2vpr_hf.export import export
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.model_info.encoder_card import read_card
from d2vpr_hf.pretrained.fitted_photos import warn_of_fitted_photos
from d2vpr_hf.projection import ProjectionFit, draw_sample, fit_index_projection, fit_projection
from d2vpr_hf.retrieval import index_photos
from tests.command_line import run
from tests.other_model import OtherModel


def draw(count, width, seed=0):
    """Descriptors far from the origin, whose variance falls by a power law: what is lost by taking the mean off shows here."""
    rng = np.random.default_rng(seed)
    return (3 + rng.standard_normal((count, width)) * np.arange(1, width + 1) ** -0.5).astype(np.float32)


def fit(rows, step):
    fitted = ProjectionFit(rows.shape[1])
    for start in range(0, len(rows), step):
        fitted.add(rows[start : start + step])
    return fitted


@settings(max_examples=30)
@given(st.integers(8, 200), st.integers(6, 60), st.integers(1, 70), st.integers(0, 99))
def test_equals_an_svd(count, width, step, seed):
    """More and fewer photos than numbers take two ways; neither may depend on how photos come in groups."""
    rows = draw(count, width, seed)
    projection = fit(rows, step).components(4)
    _, singular, axes = np.linalg.svd(rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64), full_matrices=False)
    assert np.allclose(projection.mean, rows.mean(axis=0), atol=1e-5)
    kept, expected = (rows.astype(np.float64) - projection.mean) @ projection.components.T, singular[:4] ** 2
    assert np.allclose((kept**2).sum(axis=0), expected, rtol=2e-3)
    assert np.allclose(projection.components @ projection.components.T, np.eye(4), atol=1e-4)
    assert projection.explained == pytest.approx(expected.sum() / (singular**2).sum(), rel=1e-3)
    apart = singular[:4] / singular[1:5] > 1.2  # directions of like variance may be any of their plane
    if apart.all():
        assert np.allclose(np.abs((projection.components * axes[:4]).sum(axis=1)), 1, atol=1e-3)


def test_components_have_signs_of_their_own():
    """Eigenvectors come with either sign; the same photos must give the same model."""
    components = fit(draw(300, 20), 50).components(3).components
    assert (components[np.arange(3), np.abs(components).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("count", [40, 400])
def test_whitened_descriptors_have_unit_length_on_average(count):
    """Their similarity, 1 - d² / 2, would mean nothing at a length of 10."""
    rows = draw(count, 64)
    found = fit(rows, 37).components(16, whiten=True)
    projected = (rows - found.mean) @ found.components.T
    covariance = np.cov(projected.T)
    assert np.allclose(covariance, np.eye(16) / 16, atol=1e-4)


def test_too_many_components():
    with pytest.raises(ValueError, match="10 descriptors of 20 numbers have at most 9 components, got `dim=10`"):
        fit(draw(10, 20), 5).components(10)
    flat = draw(100, 20)
    flat[:, 5:] = 1
    with pytest.raises(ValueError, match="vary along 5 directions only, got `dim=8`"):
        fit(flat, 30).components(8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((70, 70)).save(folder / f"@{500_000 + 100 * number}@4649776@32@T@@@{number}@@@@@@@@.png")
    return folder


def test_the_model_projects_as_numpy_does(photos, tmp_path):
    plain = PlaceEncoder(batch_size=8).encode(sorted(photos.iterdir())).descriptors
    done = CliRunner().invoke(
        app, ["fit-projection", str(EMBEDDED_MODEL), str(photos), "--dim", "8", "--whiten", "--out", str(tmp_path / "small")]
    )
    assert done.exit_code == 0, done.output
    assert f"{plain.shape[1]} numbers become 8" in done.output
    model = load_model(tmp_path / "small")
    assert model.config.projection_dim == model.config.descriptor_dim == 8
    descriptors = PlaceEncoder(tmp_path / "small", batch_size=8).encode(sorted(photos.iterdir())).descriptors
    components, mean = model.projection.components.numpy(), model.projection.mean.numpy()
    expected = (plain - mean) @ components.T
    assert (expected**2).sum(axis=1).mean() == pytest.approx(23 / 24, rel=1e-2)
    assert np.allclose(descriptors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-3)


def test_pca_keeps_lengths(photos, tmp_path):
    """The published form: mean and components, nothing after them."""
    files = sorted(photos.iterdir())
    plain = PlaceEncoder(batch_size=8).encode(files).descriptors
    found = fit_projection(photos, tmp_path / "small", PlaceEncoder(batch_size=8), 8)
    expected = (plain - found.mean) @ found.components.T
    assert np.allclose(PlaceEncoder(tmp_path / "small", batch_size=8).encode(files).descriptors, expected, atol=1e-5)


def test_evaluating_the_photos_of_the_fit_is_warned_of(photos, tmp_path, caplog):
    """By content: a copy under another name is the same photo."""
    from d2vpr_hf import evaluate

    fit_projection(photos, tmp_path / "small", PlaceEncoder(batch_size=8), 4)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    Image.new("RGB", (70, 70), "red").save(fresh / "@1@2@@@@@a@@@@@@@@.png")
    Image.new("RGB", (70, 70), "blue").save(fresh / "@1@2@@@@@b@@@@@@@@.png")
    assert warn_of_fitted_photos(str(tmp_path / "small"), sorted(fresh.iterdir())) == 0
    (fresh / "@1@2@@@@@c@@@@@@@@.png").write_bytes(next(photos.iterdir()).read_bytes())
    encoder = PlaceEncoder(tmp_path / "small")
    with caplog.at_level(logging.WARNING):
        evaluate(fresh, fresh, encoder, recall_values=[1])
    assert "The model's projection was fitted to 2 of these 6 photos" in caplog.text
    assert warn_of_fitted_photos(None, [photos]) == warn_of_fitted_photos(str(EMBEDDED_MODEL), [photos]) == 0


def test_refusals(photos, tmp_path):
    encoder = PlaceEncoder(batch_size=8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        fit_projection(photos, tmp_path / "full", encoder, 4)
    with pytest.raises(ValueError, match="at most 23 components"):
        fit_projection(photos, tmp_path / "new", encoder, 24)
    assert not (tmp_path / "new").exists() and encoder.model.config.projection_dim is None
    fit_projection(photos, tmp_path / "new", encoder, 4)
    with pytest.raises(ValueError, match="has a projection to 4 numbers already"):
        fit_projection(photos, tmp_path / "newer", PlaceEncoder(tmp_path / "new"), 2)
    assert torch.equal(load_model(tmp_path / "new").projection.mean, encoder.model.projection.mean)


@pytest.fixture(scope="module")
def indexed(photos, tmp_path_factory):
    """Indexes of the photos by number type."""
    encoder = PlaceEncoder(batch_size=8)
    folder = tmp_path_factory.mktemp("indexes")
    return {name: index_photos(photos, folder / name, encoder, dtype=name)[0] for name in ("float32", "float16")}


@pytest.mark.parametrize(("sample", "whiten"), [(None, False), (16, True)])
def test_an_index_gives_the_projection_of_its_photos(photos, indexed, tmp_path, sample, whiten):
    options = {"whiten": whiten, "sample": sample, "seed": 3}
    expected = fit_projection(photos, tmp_path / "photos", PlaceEncoder(batch_size=8), 8, **options)
    fitted = {
        dtype: fit_index_projection(index, tmp_path / dtype, PlaceEncoder(batch_size=8), 8, **options)
        for dtype, index in indexed.items()
    }
    assert np.allclose(fitted["float32"].mean, expected.mean, atol=1e-6)
    assert np.allclose(fitted["float32"].components, expected.components, atol=1e-3 * np.abs(expected.components).max())
    assert np.allclose(fitted["float16"].mean, expected.mean, atol=1e-4)  # single directions of like variance may be turned
    assert fitted["float16"].explained == pytest.approx(expected.explained, rel=1e-2)
    facts = [json.loads((tmp_path / name / "projection.json").read_text()) for name in ("photos", "float32", "float16")]
    assert facts[0]["photos"] == facts[1]["photos"] == facts[2]["photos"] and len(facts[0]["photos"]) == (sample or 24)
    assert (facts[1].get("sample"), facts[1].get("seed")) == ((16, 3) if sample else (None, None))
    expected_rows, rows = (
        PlaceEncoder(tmp_path / name).encode(sorted(photos.iterdir())).descriptors for name in ("photos", "float32")
    )
    assert np.allclose(rows, expected_rows, atol=1e-3)


def test_a_sample_depends_on_seed_and_paths_only():
    paths = [f"{number}.jpg" for number in range(500)]
    rows = draw_sample(paths, 100, 0)
    assert len(set(rows.tolist())) == 100 and (np.diff(rows) > 0).all()
    assert {paths[row] for row in rows} == {paths[::-1][row] for row in draw_sample(paths[::-1], 100, 0)}
    assert len(set(rows) & set(draw_sample(paths, 100, 1))) < 50
    assert 170 < rows.mean() < 330  # of all parts: a mean of 250 with a standard deviation of 13
    assert draw_sample(paths, 500, 0).tolist() == draw_sample(paths, None, 0).tolist() == list(range(500))


def test_an_index_of_a_million_rows_is_not_copied(indexed, tmp_path, monkeypatch):
    """Only blocks of it are in memory."""
    index = indexed["float16"]
    sizes = []
    take = type(index.descriptors).take
    monkeypatch.setattr(type(index.descriptors), "take", lambda self, rows: sizes.append(len(rows)) or take(self, rows))
    monkeypatch.setattr(type(index.descriptors), "__array__", None)
    monkeypatch.setattr(projection, "_PHOTOS_AT_ONCE", 5)
    fit_index_projection(index, tmp_path / "small", PlaceEncoder(batch_size=8), 4)
    assert sizes == [5, 5, 5, 5, 4]


def test_indexes_that_do_not_fit_are_refused(photos, indexed, tmp_path):
    with pytest.raises(ValueError, match="built with another model or other preprocessing"):
        fit_index_projection(indexed["float32"], tmp_path / "new", PlaceEncoder(OtherModel()), 4)
    fit_projection(photos, tmp_path / "small", PlaceEncoder(batch_size=8), 4)
    projected, _ = index_photos(photos, tmp_path / "index", PlaceEncoder(tmp_path / "small"))
    with pytest.raises(ValueError, match="holds descriptors that are projected to 4 numbers"):
        fit_index_projection(projected, tmp_path / "new", PlaceEncoder(), 2)
    with pytest.raises(ValueError, match="`sample` of at least 2 photos, got 1"):
        fit_index_projection(indexed["float32"], tmp_path / "new", PlaceEncoder(), 2, sample=1)
    assert not (tmp_path / "new").exists()


def test_the_command_takes_an_index(indexed, tmp_path, monkeypatch):
    monkeypatch.setattr(PlaceEncoder, "encode", None)
    arguments = ["--dim", "8", "--sample", "16", "--out", tmp_path / "small"]
    status, out, error = run("fit-projection", "--index", indexed["float32"].folder, *arguments)
    assert status == 0 and "numbers become 8" in out, error
    for wrong in (["m", "p", "--index", "i"], ["m"], []):
        status, _, error = run("fit-projection", *wrong, *arguments)
        assert status == 1 and "Give either MODEL and PHOTOS, or `--index INDEX`." in error


def test_the_aspect_that_a_projection_was_fitted_with_is_recorded(photos, tiny_folder, tmp_path, caplog):
    """The image processor stores a size only: without the aspect, the model would project other descriptors in silence."""
    encoder = PlaceEncoder(tiny_folder, device="cpu", image_size=42, keep_aspect=True)
    fit_projection(photos, tmp_path / "small", encoder, 4)
    assert "Open the model with `keep_aspect=True`" in caplog.text
    assert json.loads((tmp_path / "small" / "projection.json").read_text())["keep_aspect"] is True
    assert "photos that keep their aspect (`keep_aspect=True`)" in (tmp_path / "small" / "README.md").read_text()
    caplog.clear()
    again = PlaceEncoder(tmp_path / "small", device="cpu", keep_aspect=True)
    assert "keep their aspect" not in caplog.text and (again.shorter_side, again.projection_dim) == (42, 4)
    PlaceEncoder(tmp_path / "small", device="cpu")
    assert "was fitted to photos that keep their aspect, and here they are resized to one size" in caplog.text


@pytest.fixture
def other_model(tmp_path):
    """A model of another library in a folder, with a licence."""
    model = OtherModel()
    model.network.model.save_pretrained(tmp_path / "dinov2")
    (tmp_path / "dinov2" / "preprocessor_config.json").write_text("{}")
    (tmp_path / "dinov2" / "LICENSE").write_text("Do as you like.")
    (tmp_path / "dinov2" / "notes.txt").write_text("not part of the model")
    model.model_name = str(tmp_path / "dinov2")
    return model


@pytest.mark.parametrize("whiten", [False, True])
def test_a_projection_lies_next_to_the_unchanged_files_of_another_model(photos, other_model, tmp_path, whiten):
    encoder = PlaceEncoder(other_model, batch_size=8)
    projection = fit_projection(photos, tmp_path / "small", encoder, 6, whiten=whiten)
    copied = {"config.json", "model.safetensors", "preprocessor_config.json", "LICENSE"}
    assert {path.name for path in (tmp_path / "small").iterdir()} == copied | {
        "README.md",
        "encoder.json",
        "projection.json",
        "projection.safetensors",
    }
    assert all((tmp_path / "small" / name).read_bytes() == (tmp_path / "dinov2" / name).read_bytes() for name in copied)
    card = read_card(tmp_path / "small")
    assert (card.descriptor_dim, card.graph, card.model_options) == (6, None, {"pool": "gem"})
    assert card.facts == other_model.facts and card.preprocessing == other_model.preprocessing
    projected = PlaceEncoder(add_projection(other_model, tmp_path / "small", card))
    assert projected.fingerprint != encoder.fingerprint and projected.projection_dim == projected.descriptor_dim == 6
    files = sorted(photos.iterdir())
    expected = (encoder.encode(files).descriptors - projection.mean) @ projection.components.T
    if whiten:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(projected.encode(files).descriptors, expected, atol=1e-6)
    assert warn_of_fitted_photos(str(tmp_path / "small"), files) == len(files)
    with pytest.raises(ValueError, match="has a projection to 6 numbers already"):
        fit_projection(photos, tmp_path / "newer", projected, 2)
    text = (tmp_path / "small" / "README.md").read_text()
    assert "license: apache-2.0" in text and "# Tiny DINOv2, for d2vpr-hf" in text and "D²-VPR" not in text


def test_a_projection_becomes_part_of_an_exported_graph(photos, other_model, tmp_path):
    fit_projection(photos, tmp_path / "small", PlaceEncoder(other_model), 6, whiten=True)
    projected = PlaceEncoder(add_projection(other_model, tmp_path / "small", read_card(tmp_path / "small")))
    graph = export(projected, tmp_path / "graph").model
    assert graph.info["fingerprint"] == projected.fingerprint and graph.info["encoder"]["projection_dim"] == 6
    pixels = projected.descriptor_model.prepare(Image.open(sorted(photos.iterdir())[0]))[None]
    assert np.allclose(graph.open_backend("auto", None).encode(pixels), projected.descriptor_model.describe(pixels), atol=1e-5)


def test_a_projection_that_was_changed_or_does_not_fit_is_refused(photos, other_model, tmp_path):
    fit_projection(photos, tmp_path / "small", PlaceEncoder(other_model), 6)
    card = read_card(tmp_path / "small")
    save_file(
        {"mean": np.zeros(8, np.float32), "components": np.zeros((6, 8), np.float32)}, tmp_path / "small" / card.projection
    )
    with pytest.raises(ValueError, match="is not the file that"):
        add_projection(other_model, tmp_path / "small", card)
    with pytest.raises(ValueError, match="Expected a projection of 32 numbers to 6 in"):
        add_projection(other_model, tmp_path / "small", replace(card, sha256={}))


def test_models_without_files_get_no_projection(photos, other_model, tmp_path):
    other_model.model_name = None
    with pytest.raises(ValueError, match="This model was never saved"):
        fit_projection(photos, tmp_path / "small", PlaceEncoder(other_model), 6)
    del other_model.network
    with pytest.raises(ValueError, match="A projection cannot be stored with OtherModel"):
        fit_projection(photos, tmp_path / "small", PlaceEncoder(other_model), 6)
    assert not (tmp_path / "small").exists()
