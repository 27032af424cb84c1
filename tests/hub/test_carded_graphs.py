"""ONNX graphs on the Hub: found by their card or their repository, pinned to a commit, and downloaded without other files."""

import pytest
from typer.testing import CliRunner

from d2vpr_hf import PlaceEncoder, PlaceIndex
from d2vpr_hf.cli import app
from d2vpr_hf.model_info.encoder_card import EncoderCard, write_card
from d2vpr_hf.model_info.preprocessing import Preprocessing
from tests.hub.spaces import folder_files
from tests.onnx_files import plain_descriptors, rename_external, write_graph
from tests.photos import save_row

pytest.importorskip("onnxruntime")

CONFIG = b'{"auto_map": {"AutoModel": "megaloc.MegaLoc"}, "model_type": "megaloc"}'
CODE = b"raise SystemExit('this code must not run')"


def carded_files(folder, **options):
    folder.mkdir()
    write_graph(folder / "model.onnx", external="model.onnx_data", **options)
    write_card(folder, EncoderCard("Mine", 24, Preprocessing(size=(32, 32)), license="mit", graph="model.onnx"))
    return folder_files(folder) | {"model.safetensors": b"large", "README.md": b"# Mine"}


def downloads(hub):
    return {request.rsplit("/", 1)[1] for request in hub.requests if request.startswith("GET") and "/resolve/" in request}


def test_a_repository_with_a_card_is_pinned_and_only_its_files_are_downloaded(hub, tmp_path):
    first = hub.put("user/mine", carded_files(tmp_path / "first"))
    photos = save_row(tmp_path / "photos")
    done = CliRunner().invoke(app, ["index", str(photos), "--model", "user/mine", "--out", str(tmp_path / "index")])
    assert done.exit_code == 0, done.output
    assert downloads(hub) == {"encoder.json", "model.onnx", "model.onnx_data"}
    hub.put("user/mine", carded_files(tmp_path / "second", seed=1))  # the main branch moves on
    index = PlaceIndex.open(tmp_path / "index")
    assert index.settings.model_revision == first
    encoder = PlaceEncoder.for_index(index)
    assert (encoder.model_name, encoder.model_revision) == ("user/mine", first)
    assert encoder.fingerprint == index.settings.fingerprint != PlaceEncoder("user/mine").fingerprint


@pytest.mark.parametrize("others", [{}, {"config.json": CONFIG, "megaloc.py": CODE, "model.safetensors": b"large"}])
def test_megaloc_opens_by_its_name(hub, tmp_path, others, monkeypatch):
    """Its repository has no card of this package; code in it never runs."""
    graph = write_graph(tmp_path / "megaloc.onnx", width=8448, external="megaloc.onnx.data")
    files = {path.name: path.read_bytes() for path in (graph, tmp_path / "megaloc.onnx.data")}
    commit = hub.put("gberton/MegaLoc", files | others)
    encoder = PlaceEncoder("gberton/MegaLoc")
    assert downloads(hub) <= {"config.json", "megaloc.onnx", "megaloc.onnx.data"}
    assert (encoder.facts.title, encoder.facts.license, encoder.model_revision) == ("MegaLoc", "MIT", commit)
    photos = sorted(save_row(tmp_path / "photos").iterdir())
    descriptors = encoder.encode(photos).descriptors
    assert abs(descriptors - plain_descriptors(graph, photos, 322)).max() < 1e-5
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert PlaceEncoder("gberton/MegaLoc").fingerprint == encoder.fingerprint
    assert PlaceEncoder("gberton/MegaLoc", revision=commit).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("kind", ["carded", "own"])
def test_a_commit_is_asked_for_once(hub, tmp_path, tiny_folder, kind):
    """The cache records the files that a commit does not have, which tell kinds of models apart."""
    hub.put("user/model", carded_files(tmp_path / "mine") if kind == "carded" else folder_files(tiny_folder))
    commit = PlaceEncoder("user/model").model_revision
    first_requests = {request.rsplit("/", 1)[1] for request in hub.requests if "/resolve/" in request}
    hub.requests.clear()
    PlaceEncoder("user/model", revision=commit)
    later_requests = {request.rsplit("/", 1)[1] for request in hub.requests if "/resolve/" in request}
    assert not later_requests & {"export.json", "encoder.json", "model.onnx", "model.onnx_data"}
    assert {"export.json", "encoder.json"} <= first_requests


def test_hostile_repositories_are_refused(hub, tmp_path):
    folder = tmp_path / "hostile"
    files = carded_files(folder)
    for name in ("../../../../secret", "/etc/hostname"):
        rename_external(folder / "model.onnx", name)
        hub.put("user/hostile", files | {"model.onnx": (folder / "model.onnx").read_bytes()})
        with pytest.raises(ValueError, match="Only names of files in the same folder"):
            PlaceEncoder("user/hostile")
    hub.put("user/missing", {name: content for name, content in files.items() if name != "model.onnx_data"})
    with pytest.raises(FileNotFoundError, match="onnx_data is missing"):
        PlaceEncoder("user/missing")
    hub.put("user/damaged", files | {"encoder.json": b"{"})
    with pytest.raises(ValueError, match="not a card of an encoder"):
        PlaceEncoder("user/damaged")


def test_a_repository_without_a_card_names_the_command_that_writes_one(hub, tmp_path):
    graph = write_graph(tmp_path / "mine.onnx")
    hub.put("user/bare", {"mine.onnx": graph.read_bytes()})
    with pytest.raises(ValueError, match=r"hf download user/bare --local-dir DOWNLOAD`, `d2vpr card-onnx DOWNLOAD/mine.onnx"):
        PlaceEncoder("user/bare")
    hub.put("user/empty", {"README.md": b"# Empty"})
    with pytest.raises(ValueError, match="user/empty"):
        PlaceEncoder("user/empty")


def test_a_later_graph_in_megalocs_repository_may_have_another_width_and_size(hub, tmp_path):
    graph = write_graph(tmp_path / "megaloc.onnx", width=64, size=224)
    hub.put("gberton/MegaLoc", {"megaloc.onnx": graph.read_bytes()})
    encoder = PlaceEncoder("gberton/MegaLoc")
    assert (encoder.descriptor_dim, encoder.input_size, encoder.facts.title) == (64, (224, 224), "MegaLoc")
