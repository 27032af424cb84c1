"""`d2vpr models`: the table, the details of a model, JSON, and the mark of models in the Hub's cache."""

import json

import huggingface_hub
import pytest

from d2vpr_hf.encoders.hub_cache import cached_commit
from d2vpr_hf.model_info.known_models import KNOWN_MODELS, find_known
from tests.command_line import run
from tests.conftest import hub_cache
from tests.index.test_light_reading import COMMAND, loaded
from tests.onnx_files import write_graph

FILES = {"config.json": "{}", "preprocessor_config.json": "{}", "model.safetensors": ""}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache, name, files):
    folder = cache.parent / name.replace("/", "--")
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_text(text)
    hub_cache(cache, name, folder)


def test_the_table_fits_the_terminal_and_has_every_model_with_its_command(cache):
    status, out, err = run("models")
    assert (status, err) == (0, "") and max(map(len, out.splitlines())) <= 80
    lines = out.splitlines()
    rows = [line[2:].split()[0] for line in lines if line[:2] in ("* ", "  ") and line[2:3].strip()]
    assert sorted(rows) == sorted(model.name for model in KNOWN_MODELS)
    for model in KNOWN_MODELS:
        assert any(line.strip() == model.get for line in lines), model.get
    assert "91.7/90.7  none stated" in out and "94.1/93.5  MIT" in out and "CC BY-NC-ND 4.0" in out


def test_kinds_and_names_choose_models(cache):
    out = run("models", "--kind", "onnx", "--json")[1]
    assert [row["name"] for row in json.loads(out)] == ["megaloc", "mixvpr"]
    by_torch_hub = [row["name"] for row in json.loads(run("models", "--kind", "torch-hub", "--json")[1])]
    assert {"megaloc", "cricavpr", "salad"} < set(by_torch_hub) and "mixvpr" not in by_torch_hub
    status, out, _ = run("models", "facebook/dinov2-small", "salad")
    assert status == 0 and "Apache-2.0" in out and "LVD-142M" in out and "GPL-3.0" in out
    assert "d2vpr import-hub serizba/salad@07d713f542641faeecae14e305f19a79466f4211:dinov2_salad" in out
    status, _, err = run("models", "user/other")
    assert status == 1 and "user/other is not in the table of known models" in err


def test_json_has_all_values(cache):
    rows = json.loads(run("models", "--json")[1])
    assert [row["name"] for row in rows] == [model.name for model in KNOWN_MODELS]
    assert set(rows[0]) == {*KNOWN_MODELS[0].__dataclass_fields__, "kinds", "usable_offline"}
    assert rows[0]["usable_offline"] and not any(row["usable_offline"] for row in rows[1:])
    small = next(row for row in rows if row["name"] == "dinov2-small")
    assert small["options"] == {"pool": "gem", "image_size": [322, 322]} and small["input_size"] == [322, 322]


def test_models_in_the_cache_are_marked(cache, tmp_path):
    put(cache, "facebook/dinov2-small", FILES)
    put(cache, "gberton/MegaLoc", {})
    write_graph(tmp_path / "gberton--MegaLoc" / "megaloc.onnx")
    put(cache, "facebook/dinov2-base", {name: text for name, text in FILES.items() if name != "model.safetensors"})
    marked = [line.split()[1] for line in run("models")[1].splitlines() if line.startswith("* ")]
    assert marked == ["embedded", "megaloc", "dinov2-small"]
    assert cached_commit(find_known("megaloc")) == "0" * 40


def test_all_shards_of_weights_must_be_in_the_cache(cache):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    files = {"config.json": "{}", "preprocessor_config.json": "{}", "model.safetensors.index.json": index}
    put(cache, "facebook/dinov2-giant", files | dict.fromkeys(shards, ""))
    put(cache, "facebook/dinov2-large", files | {shards[0]: ""})
    put(cache, "facebook/dinov2-base", files | {"model.safetensors.index.json": "[]"})
    usable = [name for name in ("giant", "large", "base") if cached_commit(find_known(f"facebook/dinov2-{name}"))]
    assert usable == ["giant"]


def test_the_command_loads_no_heavy_library():
    assert loaded(COMMAND, "models") == "[]"
