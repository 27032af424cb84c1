"""`--model auto`: the best known model in the cache or on the Hub, its line, and the index that records it."""

import importlib.util
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos
from d2vpr_hf.encoders.automatic_model import CANDIDATES, choose_model, is_candidate
from d2vpr_hf.encoders.hub_cache import cached_commit
from d2vpr_hf.model_info.known_models import find_known
from d2vpr_hf.model_info.model_options import ModelOptions
from tests.command_line import run
from tests.hub.spaces import folder_files
from tests.onnx_files import write_graph
from tests.photos import save_row

SMALL, BASE = "facebook/dinov2-small", "facebook/dinov2-base"
REGISTERS = "facebook/dinov2-with-registers-small"
FIND_SPEC = importlib.util.find_spec
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
STEPS = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
}


def model_files(folder, seed, registers=False):
    """Return the files of a tiny DINOv2 with random weights, as its repository on the Hub has them."""
    torch.manual_seed(seed)
    kinds = (Dinov2WithRegistersConfig, Dinov2WithRegistersModel) if registers else (Dinov2Config, Dinov2Model)
    kinds[1](kinds[0](**SHAPE)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STEPS))
    return folder_files(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        SMALL: model_files(folder / "small", 0),
        BASE: model_files(folder / "base", 1),
        REGISTERS: model_files(folder / "registers", 2, registers=True),
    }


@pytest.fixture
def hub(hub, monkeypatch):
    """A Hub without MegaLoc, for a machine without ONNX Runtime."""
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else FIND_SPEC(name, *rest)
    )
    return hub


def go_offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_every_candidate_may_be_used_and_opens_without_foreign_code():
    for model in map(find_known, CANDIDATES):
        assert model.license in ("Apache-2.0", "MIT") and model.kind in ("onnx", "transformers")
        assert is_candidate(model.hub_id) and not is_candidate(model.name)
    assert not is_candidate("facebook/dinov2-giant") and not is_candidate("embedded") and not is_candidate(None)


def test_the_best_model_of_the_hub_is_taken_with_its_options(hub, files, caplog):
    hub.put(SMALL, files[SMALL])
    commit = hub.put(REGISTERS, files[REGISTERS])
    encoder = PlaceEncoder("auto")
    assert (encoder.model_name, encoder.model_revision) == (REGISTERS, commit)
    assert encoder.model_options == {"pool": "gem", "image_size": [322, 322]} and encoder.input_size == (322, 322)
    assert (encoder.facts.license, encoder.facts.arxiv) == ("Apache-2.0", "2309.16588")
    (line,) = (record.getMessage() for record in caplog.records if record.name.endswith("automatic_model"))
    assert "\n" not in line and REGISTERS in line and commit[:7] in line and "Apache-2.0" in line and "LVD-142M" in line
    assert "downloaded, 0 MiB" in line and "MegaLoc (needs ONNX Runtime" in line
    assert "DINOv2 ViT-B/14 with registers, DINOv2 ViT-B/14 (404 Client Error)" in line
    cached = PlaceEncoder("auto")
    assert cached.fingerprint == encoder.fingerprint and "in the Hub's cache" in caplog.messages[-1]
    assert PlaceEncoder("auto", pool="cls").model_options == {"pool": "cls", "image_size": [322, 322]}


def test_a_better_model_that_appears_on_the_hub_is_preferred_to_one_in_the_cache(hub, files):
    hub.put(SMALL, files[SMALL])
    assert PlaceEncoder("auto").model_name == SMALL
    hub.put(BASE, files[BASE])
    assert PlaceEncoder("auto").model_name == BASE


def test_offline_the_best_complete_model_of_the_cache_is_taken(hub, files, monkeypatch, caplog):
    hub.put(SMALL, files[SMALL])
    hub.put(BASE, files[BASE])
    for name in files[SMALL]:
        huggingface_hub.hf_hub_download(SMALL, name)
    huggingface_hub.hf_hub_download(BASE, "config.json")  # a download that was interrupted
    go_offline(monkeypatch)
    assert PlaceEncoder("auto").model_name == SMALL
    assert "DINOv2 ViT-S/14 with registers (not in the Hub's cache)" in caplog.text


def test_without_any_model_the_error_names_the_download_and_the_embedded_one(hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none can be downloaded\. Run `hf download facebook/dinov2-"):
        choose_model(ModelOptions())
    go_offline(monkeypatch)
    with pytest.raises(
        FileNotFoundError, match=r"the Hub cannot be reached .* config\.json preprocessor_config\.json model\.saf"
    ):
        PlaceEncoder("auto")
    with pytest.raises(ValueError, match="has no `revision`"):
        PlaceEncoder("auto", revision="main")


def test_megaloc_comes_first_where_onnx_runtime_is_installed(hub, monkeypatch):
    hub.put("gberton/MegaLoc", {"megaloc.onnx": b"graph"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    chosen = choose_model(ModelOptions())
    assert chosen.name == "gberton/MegaLoc" and chosen.options == ModelOptions()
    with pytest.raises(FileNotFoundError):  # it takes no options, and there is no other model
        choose_model(ModelOptions(pool="cls"))


def test_an_index_of_auto_records_the_model_and_keeps_it(hub, files, tmp_path, monkeypatch):
    """A better model that appears later must not break the index; and a search needs no option."""
    commit = hub.put(SMALL, files[SMALL])
    photos = save_row(tmp_path / "photos")
    out = tmp_path / "index"
    status, _, err = run("index", photos, "--model", "auto", "--out", out)
    assert status == 0, err
    settings = PlaceIndex.open(out).settings
    assert (settings.model_name, settings.model_revision) == (SMALL, commit)
    assert settings.model_options == {"pool": "gem", "image_size": [322, 322]}
    hub.put(BASE, files[BASE])
    hub.put(SMALL, {})  # the main branch moves on
    status, text, err = run("index", photos, "--model", "auto", "--out", out, "--json")
    assert status == 0 and json.loads(text)["kept"] == json.loads(text)["photos"], err
    query = sorted(photos.glob("*.jpg"))[0]
    status, text, err = run("search", out, query, "--json")
    assert status == 0 and json.loads(text)[0]["matches"][0]["path"] == str(query), err
    encoder = PlaceEncoder.for_index(PlaceIndex.open(out), "auto")
    assert (encoder.model_name, encoder.fingerprint) == (SMALL, settings.fingerprint)


def test_auto_does_not_keep_the_embedded_model_of_an_index(hub, files, tmp_path):
    hub.put(SMALL, files[SMALL])
    photos = save_row(tmp_path / "photos")
    index, _ = index_photos(photos, tmp_path / "index", PlaceEncoder("embedded"))
    assert PlaceEncoder.for_index(index, "auto").model_name == SMALL
    status, _, err = run("index", photos, "--model", "auto", "--out", tmp_path / "index")
    assert status == 1 and "--overwrite" in err
    assert np.isfinite(PlaceEncoder("auto").encode(sorted(photos.glob("*.jpg"))[0]).descriptors).all()


@pytest.mark.parametrize("name", ["auto", SMALL])
def test_without_a_connection_a_model_of_the_cache_opens_after_one_try(hub, files, name, monkeypatch, caplog):
    """The client would try each file that the model lacks for half a minute."""
    hub.put(SMALL, files[SMALL])
    for file in files[SMALL]:
        huggingface_hub.hf_hub_download(SMALL, file)
    tries = cut_connection(monkeypatch)
    assert PlaceEncoder(name).model_name == SMALL
    assert len(tries) == (2 if name == "auto" else 1)  # `auto` asks for a better model first
    assert "The Hub cannot be reached" in caplog.text and not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("revision", [None, "v1"])
def test_without_a_connection_a_model_that_is_not_in_the_cache_is_an_error_after_one_try(hub, revision, monkeypatch):
    """It took a minute and a half, and ended in a traceback of the Hub's client."""
    tries = cut_connection(monkeypatch)
    with pytest.raises(FileNotFoundError, match=r"the Hub cannot be reached .* `hf download user/none`"):
        PlaceEncoder("user/none", revision=revision)
    assert len(tries) == 1 and not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(("name", "words"), [("megaloc", "`d2vpr models megaloc`"), ("", "name is empty")])
def test_a_name_that_is_no_model_is_an_error_with_the_next_step(name, words):
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        PlaceEncoder(name)


def cut_connection(monkeypatch):
    """Let the Hub be unreachable; return the list of addresses that are tried, which grows."""
    tries = []

    def fail(url, **options):
        tries.append(url)
        raise OSError("no route to host")

    def refuse(*arguments, **options):
        raise AssertionError(f"asked for {arguments}")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", fail)
    monkeypatch.setattr(huggingface_hub.file_download, "_get_metadata_or_catch_error", with_offline_only(refuse))
    return tries


def with_offline_only(refuse):
    """Return a function that lets the client look into its cache, and refuses that it asks the Hub."""
    original = huggingface_hub.file_download._get_metadata_or_catch_error

    def get(*arguments, **options):
        return original(*arguments, **options) if huggingface_hub.constants.HF_HUB_OFFLINE else refuse(*arguments, **options)

    return get


def test_an_index_of_megaloc_by_auto_is_searched_offline(hub, tmp_path, monkeypatch, caplog):
    """The published graph has no card in its repository; `auto` opens it by its name."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(importlib.util, "find_spec", FIND_SPEC)
    graph = write_graph(tmp_path / "megaloc.onnx", width=8448, external="megaloc.onnx.data")
    files = {path.name: path.read_bytes() for path in (graph, tmp_path / "megaloc.onnx.data")}
    commit = hub.put("gberton/MegaLoc", files)
    photos = save_row(tmp_path / "photos")
    status, _, err = run("index", photos, "--model", "auto", "--out", tmp_path / "index")
    assert status == 0, err
    settings = PlaceIndex.open(tmp_path / "index").settings
    assert (settings.model_name, settings.model_revision, settings.descriptor_dim) == ("gberton/MegaLoc", commit, 8448)
    assert "Licence of the weights: MIT" in caplog.text and "clarify it before a commercial use" in caplog.text
    go_offline(monkeypatch)
    query = sorted(photos.glob("*.jpg"))[0]
    status, text, err = run("search", tmp_path / "index", query, "--model", "auto", "--json")
    assert status == 0 and json.loads(text)[0]["matches"][0]["path"] == str(query), err
    blob = huggingface_hub.try_to_load_from_cache("gberton/MegaLoc", "megaloc.onnx.data", revision=commit)
    Path(blob).unlink()
    assert cached_commit(find_known("megaloc")) is None
