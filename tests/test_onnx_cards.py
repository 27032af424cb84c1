"""`card-onnx` runs a graph on photos and records its properties, and refuses graphs that cannot be encoders."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from d2vpr_hf import PlaceEncoder, PlaceIndex, card_onnx
from d2vpr_hf.cli import app
from d2vpr_hf.model_info.encoder_card import read_card
from d2vpr_hf.model_info.preprocessing import Preprocessing
from tests.onnx_files import TensorProto, plain_descriptors, rename_external, write_graph
from tests.photos import draw, save, save_row

pytest.importorskip("onnxruntime")


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def photos(tmp_path):
    return save_row(tmp_path / "photos")


def test_the_command_writes_a_folder_that_all_commands_take(tmp_path, photos):
    graph = write_graph(tmp_path / "mine.onnx", external="mine.onnx.data", unit=False)
    done = run(
        "card-onnx", graph, "--image-size", 32, "--mean", "0.5,0.4,0.3", "--std", "0.2", "--licence", "mit", "--title", "Mine",
        "--training-data", "Photos of Gridtown.", "--photos", photos, "--out", tmp_path / "model",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for part in ("Wrote", "checked on 8 photos, by onnxruntime fp32", "images 32×32", "any size", "divided by them"):
        assert part in done.output
    folder = tmp_path / "model"
    card = read_card(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "encoder.json", "mine.onnx.data", "model.onnx"]
    assert card.preprocessing == Preprocessing(size=(32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert (card.title, card.license, card.normalize, card.depends_on_batch) == ("Mine", "mit", True, False)
    assert (card.input_name, card.output_name, card.descriptor_dim) == ("images", "descriptor", 24)
    assert set(card.sha256) == {"model.onnx", "mine.onnx.data"}
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in readme and "Photos of Gridtown." in readme and "24 numbers" in readme

    index = tmp_path / "index"
    done = run("index", photos, "--model", folder, "--out", index)
    assert done.exit_code == 0, done.output
    query = sorted(photos.iterdir())[3]
    done = run("search", index, query, "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)[0]["matches"][0]["path"] == str(query)
    done = run("localize", index, query)
    assert done.exit_code == 0, done.output
    done = run("evaluate", "--database", photos, "--queries", photos, "--model", folder)
    assert done.exit_code == 0 and "100.0" in done.output, done.output
    assert PlaceIndex.open(index).settings.model_name == str(folder)


def test_a_second_run_gives_the_same_fingerprint(tmp_path):
    write_graph(tmp_path / "mine.onnx")
    prints = set()
    for name in ("a", "b"):
        card_onnx(tmp_path / "mine.onnx", tmp_path / name, preprocessing={"size": (32, 32)})
        prints.add(PlaceEncoder(tmp_path / name).fingerprint)
    assert len(prints) == 1


def test_a_graph_of_one_size_needs_no_options(tmp_path):
    write_graph(tmp_path / "mine.onnx", size=32, batch=1)
    done = run("card-onnx", tmp_path / "mine.onnx", "--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    for part in (
        "4 drawn photos, because none were given",
        "this size only",
        "takes 1 photo at once",
        "licence of the weights: not stated",
    ):
        assert part in done.output
    card = read_card(tmp_path / "model")
    assert card.preprocessing == Preprocessing(size=(32, 32)) and not card.normalize and card.title == "mine"
    images = [save(tmp_path / "photos" / f"{seed}.png", seed) for seed in range(3)]
    expected = plain_descriptors(tmp_path / "model" / "model.onnx", images, 32)
    np.testing.assert_allclose(PlaceEncoder(tmp_path / "model").encode(images).descriptors, expected, atol=1e-5)


def test_dependence_on_the_batch_is_recorded_and_said(tmp_path, caplog):
    write_graph(tmp_path / "mine.onnx", kind="batch")
    done = run("card-onnx", tmp_path / "mine.onnx", "--image-size", "32,48", "--out", tmp_path / "model")
    assert done.exit_code == 0 and "depend on the other photos of a batch" in done.output
    card = read_card(tmp_path / "model")
    assert card.depends_on_batch and card.preprocessing.size == (32, 48)
    encoder = PlaceEncoder(tmp_path / "model")
    assert encoder.depends_on_batch and "depends on the other photos of its batch" in caplog.text
    assert "yes" in (tmp_path / "model" / "README.md").read_text().split("depend on the batch")[1][:10]


def test_photos_may_be_images(tmp_path):
    write_graph(tmp_path / "mine.onnx", number_type=TensorProto.FLOAT16)
    images = [draw(seed) for seed in range(3)]
    card = card_onnx(
        tmp_path / "mine.onnx", tmp_path / "model", preprocessing=Preprocessing(size=(32, 32)), photos=images, source={"a": 1}
    )
    assert card.checked["photos"] == 3 and card.checked["runtime"] == "onnxruntime fp16" and card.source == {"a": 1}
    assert read_card(tmp_path / "model") == card


@pytest.mark.parametrize(
    ("options", "arguments", "reason"),
    [
        ({"kind": "nan"}, ["--image-size", "32"], "not finite"),
        (
            {"kind": "two"},
            ["--image-size", "32"],
            "attention (?, 48). Name the right one by `--output`",
        ),
        ({"kind": "maps"}, ["--image-size", "32"], "Expected descriptors of the shape"),
        ({"kind": "custom"}, ["--image-size", "32"], "operators of example.ops"),
        ({}, [], "takes images of several sizes. Give the one that it was trained for, by `--image-size`"),
        ({"size": 32}, ["--image-size", "40"], "takes images of 32×32 only"),
        ({"size": 32, "batch": 2, "kind": "batch"}, [], "takes exactly 2 photos"),
        ({}, ["--image-size", "32", "--output", "tokens"], "has no output 'tokens'"),
        ({}, ["--image-size", "32", "--std", "0"], "greater than 0"),
        ({}, ["--image-size", "32", "--mean", "1,2"], "expected R,G,B"),
        ({}, ["--image-size", "32", "--rescale", "1e-30"], "equal descriptors for different photos"),
    ],
)
def test_a_graph_that_cannot_be_an_encoder_leaves_no_folder(tmp_path, options, arguments, reason):
    graph = write_graph(tmp_path / "mine.onnx", **options)
    done = run("card-onnx", graph, *arguments, "--out", tmp_path / "model")
    assert done.exit_code != 0 and reason in str(done.exception) + done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.onnx"]


def test_weights_outside_of_the_folder_are_not_copied(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (tmp_path / "graphs").mkdir()
    graph = write_graph(tmp_path / "graphs" / "mine.onnx", external="weights")
    rename_external(graph, "../secret")
    with pytest.raises(ValueError, match="Only names of files in the same folder"):
        card_onnx(graph, tmp_path / "model", preprocessing={"size": (32, 32)})
    assert not (tmp_path / "model").exists()


def test_places_that_cannot_be_written(tmp_path):
    graph = write_graph(tmp_path / "mine.onnx")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        card_onnx(graph, tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        card_onnx(tmp_path / "other.onnx", tmp_path / "model")


def test_the_official_file_of_megaloc_needs_no_options(tmp_path):
    """It is recognised by its name, its input and output, and its size; here with small weights."""
    write_graph(tmp_path / "megaloc.onnx", width=8448, size=322)
    card = card_onnx(tmp_path / "megaloc.onnx", tmp_path / "model")
    assert (card.title, card.arxiv, card.descriptor_dim) == ("MegaLoc", "2502.17237", 8448)
    assert card.license == "MIT" and "GSV-Cities" in card.training_data
    encoder = PlaceEncoder(tmp_path / "model")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "megaloc.onnx").rename(tmp_path / "downloads" / "megaloc.onnx")
    downloaded = PlaceEncoder(tmp_path / "downloads")  # without a card
    assert downloaded.facts == encoder.facts and downloaded.fingerprint == encoder.fingerprint


def test_other_exports_of_megaloc_are_not_taken_for_it(tmp_path):
    """Exports of other people have the same names; they take other sizes, and some contain the normalisation."""
    write_graph(tmp_path / "megaloc.onnx", width=8448, size=520)
    with pytest.raises(ValueError, match="card-onnx"):
        PlaceEncoder(tmp_path)
