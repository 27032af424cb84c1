"""A DINOv2 of transformers on the whole way: index, position, evaluation, graph, projection and Hub agree with plain code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

from d2vpr_hf import PlaceEncoder, PlaceIndex, evaluate, index_photos, search_photos
from d2vpr_hf.evaluation import Evaluation, compare_evaluations
from d2vpr_hf.export import export
from d2vpr_hf.hub.push_index import push_index
from d2vpr_hf.hub.push_model import push_model
from d2vpr_hf.hub.space_files import read_package, space_files
from d2vpr_hf.hub.space_sources import check_sources
from d2vpr_hf.localization import calibrate, localize_photos
from d2vpr_hf.model_info.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from d2vpr_hf.projection import fit_projection
from d2vpr_hf.retrieval.distributed import embed_photos, merge_parts
from d2vpr_hf.space.about import about_page
from d2vpr_hf.space.opened_space import open_space
from d2vpr_hf.space.settings import Settings
from tests.hub_server import running_hub, use_hub
from tests.photos import at_name, save

SIZE = (70, 84)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny DINOv2 as transformers saves it; its published preprocessing crops, as that of the real ones."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 98}
    Dinov2Model(Dinov2Config(**sizes, layerscale_value=0.5)).save_pretrained(folder)
    steps = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
    BitImageProcessorPil(size={"shortest_edge": 80}, crop_size={"height": 70, "width": 70}, **steps).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with running_hub() as server:
        use_hub(server, tmp_path / "hub-cache", monkeypatch)
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight places, and the same photos as queries 3 m away."""
    world = tmp_path_factory.mktemp("world")
    for number in range(8):
        save(world / "database" / at_name(544_000 + 100 * number, 4_172_000), number, quality=95)
        save(world / "queries" / at_name(544_003 + 100 * number, 4_172_000), number, quality=90)
    return world


def plain_descriptors(folder: Path, photos: list[Path]) -> np.ndarray:
    """The same in plain code: resize, normalise, patches, GeM, norm."""
    model = Dinov2Model.from_pretrained(folder).eval()
    rows = []
    for photo in photos:
        image = Image.open(photo).convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC)
        pixels = (np.asarray(image, np.float32) / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        with torch.inference_mode():
            patches = model(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)).last_hidden_state[0, 1:]
        pooled = patches.clamp(min=1e-6).pow(3).mean(0).pow(1 / 3)
        rows.append((pooled / pooled.norm()).numpy())
    return np.array(rows)


@pytest.fixture(scope="module")
def encoder(folder):
    return PlaceEncoder(folder, pool="gem", image_size=SIZE, batch_size=3)


@pytest.fixture(scope="module")
def index(world, encoder, tmp_path_factory):
    return index_photos(world / "database", tmp_path_factory.mktemp("index") / "index", encoder, dtype="float32")[0]


@pytest.fixture(scope="module")
def graph_folder(encoder, tmp_path_factory):
    """Folder of the graph of the model with its options."""
    folder = tmp_path_factory.mktemp("graph") / "graph"
    export(encoder, folder)
    return folder


def test_search_agrees_with_plain_code(folder, world, index):
    """The encoder of the index opens the model with the options that the index records."""
    opened = PlaceEncoder.for_index(index)
    assert (
        opened.model_options == {"pool": "gem", "image_size": list(SIZE)} and opened.fingerprint == index.settings.fingerprint
    )
    database, queries = sorted((world / "database").iterdir()), sorted((world / "queries").iterdir())
    similarities = plain_descriptors(folder, queries) @ plain_descriptors(folder, database).T
    for row, result in zip(similarities, search_photos(index, queries, opened, top_k=8), strict=True):
        found = {match.place.path: match.similarity for match in result.matches}
        np.testing.assert_allclose([found[path.name] for path in database], row, atol=1e-5)


def test_parts_that_two_processes_encode_become_the_same_index(world, encoder, index, tmp_path):
    for process in range(2):
        embed_photos(world / "database", tmp_path / "parts", encoder, process=(process, 2), dtype="float32", shard_size=4)
    merged = merge_parts([tmp_path / "parts"], tmp_path / "merged")
    assert merged.settings.model_options == index.settings.model_options
    np.testing.assert_allclose(merged.descriptors[:], index.descriptors[:], atol=1e-6)


def test_positions_and_recall(world, encoder, index, tmp_path):
    for number in range(16):  # of other places
        save(tmp_path / "labelled" / at_name(560_000 + 100 * number, 4_172_000), 20 + number)
    for number in range(96):  # a calibration needs fifty of every other square of 100 m
        save(tmp_path / "labelled" / at_name(544_003 + 100 * (number % 8), 4_172_000 + number // 8), number % 8, quality=80)
    calibration, _ = calibrate(index, tmp_path / "labelled", encoder)
    positions = localize_photos(index, [world / "queries"], encoder, calibration, precision=0.0)
    assert len(positions) == 8 and all(position.place is not None for position in positions)
    evaluation = evaluate(world / "database", world / "queries", encoder, recall_values=[1])
    assert evaluation.recall()["recall@1"]["recall"] == 1.0
    evaluation.save(tmp_path / "a.json")
    model = json.loads((tmp_path / "a.json").read_text())["model"]
    assert (model["options"], model["license"]) == ({"pool": "gem", "image_size": list(SIZE)}, "apache-2.0")
    assert model["resolution"] == list(SIZE)
    assert compare_evaluations(Evaluation.load(tmp_path / "a.json"), evaluation).differences[0].second == 1.0


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_graph_searches_the_index_of_its_model(folder, world, encoder, graph_folder, index, backend):
    """One that `export` wrote, and one that the encoder makes when it opens the model."""
    queries = sorted((world / "queries").iterdir())
    if backend == "torch":
        graph = PlaceEncoder(graph_folder)
    else:
        graph = PlaceEncoder(folder, pool="gem", image_size=SIZE, device="cpu", backend=backend)
        assert str(graph.runtime) == "onnxruntime fp32"
    assert graph.fingerprint == encoder.fingerprint
    np.testing.assert_allclose(graph.encode(queries).descriptors, plain_descriptors(folder, queries), atol=1e-5)
    assert search_photos(index, queries, graph)[3].matches[0].place.path == sorted((world / "database").iterdir())[3].name


def test_a_projection_is_opened_with_its_model(folder, world, encoder, tmp_path):
    projection = fit_projection(world / "database", tmp_path / "small", encoder, 5)
    small = PlaceEncoder(tmp_path / "small", batch_size=3)
    queries = sorted((world / "queries").iterdir())
    expected = (plain_descriptors(folder, queries) - projection.mean) @ projection.components.T
    np.testing.assert_allclose(small.encode(queries).descriptors, expected, atol=1e-6)
    assert (small.facts.license, small.projection_dim) == ("apache-2.0", 5) and small.fingerprint != encoder.fingerprint
    built, _ = index_photos(world / "database", tmp_path / "index", small)
    assert PlaceEncoder.for_index(built).fingerprint == small.fingerprint
    with pytest.raises(ValueError, match="the projection fits only these"):
        PlaceEncoder(tmp_path / "small", pool="cls")
    with pytest.raises(ValueError, match="has a projection to 5 numbers already"):
        fit_projection(world / "database", tmp_path / "smaller", small, 3)


def test_an_index_on_the_hub_names_its_model_on_the_hub(folder, world, hub, tmp_path):
    hub.put("other/dinov2", {path.name: path.read_bytes() for path in folder.iterdir()})
    encoder = PlaceEncoder("other/dinov2", pool="gem", image_size=SIZE)
    index, _ = index_photos(world / "database", tmp_path / "index", encoder)
    push_index(index, "user/map")
    fetched = PlaceIndex.from_pretrained("user/map")
    assert (fetched.settings.model_name, fetched.settings.model_options) == ("other/dinov2", encoder.model_options)
    card = hub.files("user/map", "datasets")["README.md"].decode()
    assert "| options of the model | pool gem, image_size [70, 84] |" in card
    assert "| rights of the model | Licence of the weights: apache-2.0. |" in card
    info = fetched.info()
    assert (info["model_license"], info["model_options"]) == ("apache-2.0", encoder.model_options)
    assert PlaceEncoder.for_index(fetched).fingerprint == encoder.fingerprint
    local, _ = index_photos(world / "database", tmp_path / "local", PlaceEncoder(folder, pool="gem", image_size=SIZE))
    push_index(local, "user/map2", model="other/dinov2")  # the same weights, opened with the options of the index
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"]) | {"layer_norm_eps": 0.1}  # a later commit, of another model
    hub.put("other/dinov2", files | {"config.json": json.dumps(config).encode()})
    with pytest.raises(ValueError, match="does not make the descriptors of this index"):
        push_index(local, "user/map3", model="other/dinov2")


def test_a_plain_model_of_transformers_is_uploaded_by_transformers(folder, hub):
    with pytest.raises(ValueError, match="is a model of transformers, of type 'dinov2': transformers uploads it"):
        push_model(folder, "user/dinov2")
    assert not hub.repositories


def test_a_projection_is_uploaded_with_the_rights_of_its_model(folder, world, encoder, hub, tmp_path):
    fit_projection(world / "database", tmp_path / "small", encoder, 5)
    push_model(tmp_path / "small", "user/small")
    files = hub.files("user/small")
    assert {"config.json", "model.safetensors", "projection.safetensors", "encoder.json", "projection.json"} <= set(files)
    card = files["README.md"].decode()
    assert "license: apache-2.0" in card and 'name = "user/small"' in card and "does not cover them" in card
    assert PlaceEncoder("user/small").fingerprint == PlaceEncoder(tmp_path / "small").fingerprint


def test_a_graph_is_uploaded_with_the_licence_of_its_model(encoder, graph_folder, hub):
    push_model(graph_folder, "user/graph")
    assert "license: apache-2.0" in hub.files("user/graph")["README.md"].decode()
    assert PlaceEncoder("user/graph").fingerprint == encoder.fingerprint


def test_a_space_opens_an_index_of_the_model(folder, world, hub, tmp_path):
    """Its page describes this model, and explains matches by patches."""
    hub.put("other/dinov2", {path.name: path.read_bytes() for path in folder.iterdir()})
    encoder = PlaceEncoder("other/dinov2", pool="gem", image_size=SIZE)
    push_index(index_photos(world / "database", tmp_path / "index", encoder)[0], "user/map", thumbnails=True)
    sources = check_sources(None, "user/map")
    assert set(sources.model.files) == {"config.json", "preprocessor_config.json", "model.safetensors", "README.md"}
    settings = Settings(sources.variables["D2VPR_MODEL"], sources.variables["D2VPR_INDEX"], tmp_path / "cache", None)
    opened = open_space(settings)
    page = about_page(opened)
    assert "DINOv2" in page and "D²-VPR" not in page.split("Model and map")[0] and "2304.07193" in page
    assert "apache-2.0" in page and "<th scope='row'>options</th><td>pool gem, image size [70, 84]</td>" in page
    photos = sorted((world / "queries").iterdir())
    explanation = opened.photo_map.encoder.explain(photos[0], photos[1])
    assert opened.by_patches and explanation.query.similarity.shape == (5, 6)


def test_a_space_with_a_graph_says_why_it_explains_nothing(world, graph_folder, hub, tmp_path):
    push_model(graph_folder, "user/graph")
    push_index(index_photos(world / "database", tmp_path / "index", PlaceEncoder("user/graph"))[0], "user/map")
    sources = check_sources(None, "user/map")
    assert {"export.json", "model.onnx", "references.npz"} <= set(sources.model.files)
    files = space_files("user/space", read_package(), model=sources.model, index="user/map")
    assert b"onnxruntime==" in files["requirements.txt"]
    opened = open_space(Settings(sources.variables["D2VPR_MODEL"], sources.variables["D2VPR_INDEX"], tmp_path / "cache", None))
    assert "they come from a graph" in opened.reason_against and "DINOv2" in about_page(opened)
