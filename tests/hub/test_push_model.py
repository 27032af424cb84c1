"""A model is uploaded to a Hub on localhost, and used from there by a process that does not have this package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import Image
from typer.testing import CliRunner

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.exported_model import info_text
from d2vpr_hf.cli import app
from d2vpr_hf.convert import convert_weights
from d2vpr_hf.hub.push_model import push_model
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from tests.conftest import TINY
from tests.hub.card_rules import card_problems
from tests.hub_server import TOKEN

ROOT = Path(__file__).parents[2]


def run_without_package(hub, home, code, token=None):
    """Run a program in an environment that has transformers, but not this package."""
    blocker = "import sys; sys.modules['d2vpr_hf'] = None\n"  # makes `import d2vpr_hf` fail
    environment = {"PATH": "/usr/bin:/bin", "HF_MODULES_CACHE": str(home / "modules")} | hub.environment(home, token)
    done = subprocess.run([sys.executable, "-c", blocker + code], env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


USE = """
import numpy, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

name = "user/model"
photo = Image.fromarray(numpy.arange(90 * 120 * 3, dtype=numpy.uint8).reshape(90, 120, 3))
processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
assert AutoConfig.from_pretrained(name, trust_remote_code=True).descriptor_dim == 2688
with torch.inference_mode():
    descriptor = model(**processor(photo, return_tensors="pt")).pooler_output
extract = pipeline("image-feature-extraction", model=name, trust_remote_code=True)
same = torch.tensor(extract(photo, pool=True))
assert torch.allclose(same, descriptor, atol=1e-6)
numpy.save("descriptor.npy", descriptor.numpy())
"""


@pytest.mark.parametrize("private", [pytest.param(False, marks=pytest.mark.slow), True])
def test_another_user_without_the_package_gets_the_same_descriptors(hub, tmp_path, private):
    """The embedded model is saved without code: the code must come with the upload."""
    url = push_model("embedded", "user/model", private=private)
    assert url.startswith(hub.endpoint) and hub.repositories["models", "user/model"].private is private
    assert not hub.unknown_requests
    (tmp_path / "second").mkdir()
    run_without_package(hub, tmp_path / "second", USE, TOKEN if private else None)
    photo = Image.fromarray(np.arange(90 * 120 * 3, dtype=np.uint8).reshape(90, 120, 3))
    expected = PlaceEncoder("embedded").encode([photo]).descriptors
    assert np.allclose(np.load(tmp_path / "second" / "descriptor.npy"), expected, atol=1e-4)
    if not private:
        encoder = PlaceEncoder("user/model")
        assert encoder.fingerprint == PlaceEncoder("embedded").fingerprint and encoder.model_name == "user/model"


def test_the_upload_of_the_embedded_model_is_complete(hub):
    push_model("embedded", "user/model")
    files = hub.files("user/model")
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "validation.json", "README.md", "LICENSE"}
    assert expected | {"modeling_d2vpr.py", "configuration_d2vpr.py", "image_processing_d2vpr.py"} <= files.keys()
    assert files["model.safetensors"] == (EMBEDDED_MODEL / "model.safetensors").read_bytes()
    assert json.loads(files["preprocessor_config.json"])["auto_map"] == {
        "AutoImageProcessor": "image_processing_d2vpr.D2VPRImageProcessor"
    }
    card = files["README.md"].decode()
    assert not card_problems(card)
    assert 'name = "user/model"' in card or 'folder = "user/model"' in card
    assert "--model user/model --out" in card and "path/or/hub-id" not in card
    assert "| recall, % | 59.8" in card and "model-index" not in card  # `queries` is not a data set on the Hub
    assert (EMBEDDED_MODEL / "README.md").read_text() != card


@pytest.fixture
def folder(tmp_path):
    """A model folder without a card."""
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL, folder)
    for name in ("README.md", "validation.json"):
        (folder / name).unlink()
    return folder


def test_weights_keep_their_type_and_shards_and_a_second_upload_removes_old_ones(hub, folder, tmp_path):
    model = load_model(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="500KB")
    (folder / "model.safetensors").unlink()
    push_model(folder, "user/model")
    shards = [name for name in hub.files("user/model") if name.startswith("model-")]
    assert len(shards) > 2 and "model.safetensors" not in hub.files("user/model")
    assert transformers.AutoModel.from_pretrained("user/model").dtype == torch.bfloat16
    push_model("embedded", "user/model", commit_message="Whole")
    files = hub.files("user/model")
    assert "model.safetensors" in files and not [name for name in files if name.startswith("model-")]
    assert hub.repositories["models", "user/model"].commits[-1][1] == "Whole"


def test_files_that_do_not_belong_to_the_model_stay_here_and_are_named(hub, folder, caplog):
    (folder / "notes.txt").write_text("mine")
    (folder / "optimizer.pt").write_bytes(b"")
    (folder / "modeling_d2vpr.py").write_text("raise RuntimeError('code of another version')")
    push_model(folder, "user/model")
    files = hub.files("user/model")
    assert not {"notes.txt", "optimizer.pt"} & files.keys() and b"another version" not in files["modeling_d2vpr.py"]
    assert "2 files" in caplog.text and "notes.txt, optimizer.pt" in caplog.text


def test_files_of_sentence_transformers_are_uploaded(hub, folder):
    parts = [
        {"type": "place_module.Places", "path": ""},
        {"type": "sentence_transformers.models.Normalize", "path": "1_Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "place_module.py").write_text("class Places: ...")
    (folder / "1_Normalize").mkdir()
    (folder / "1_Normalize" / "config.json").write_text("{}")
    push_model(folder, "user/model")
    assert {"modules.json", "place_module.py", "1_Normalize/config.json"} <= hub.files("user/model").keys()


def test_a_folder_without_a_card_gets_one_and_a_missing_licence_is_said(hub, folder, caplog):
    push_model(folder, "user/model")
    card = hub.files("user/model")["README.md"].decode()
    assert not card_problems(card) and "1.0 M" in card and 'name = "user/model"' in card
    assert "states no licence" in caplog.text and "LICENSE" not in hub.files("user/model")
    assert not (folder / "README.md").exists()
    caplog.clear()
    push_model(folder, "user/model", license="mit")
    card = hub.files("user/model")["README.md"].decode()
    assert "license: mit" in card and "`mit`, as the person" in card and "Not chosen" not in card and not caplog.text
    assert card.count("## ") == 4 and "## Citation" in card


def test_a_card_of_a_person_stays_as_it_is_with_its_pictures(hub, folder, caplog):
    text = "---\nlicense: mit\n---\n\n# Mine\n\n![curve](plots/curve.png) and [path/or/hub-id](other.png)\n"
    (folder / "README.md").write_text(text)
    (folder / "plots").mkdir()
    (folder / "plots" / "curve.png").write_bytes(b"png")
    push_model(folder, "user/model")
    files = hub.files("user/model")
    with pytest.raises(ValueError, match="written by a person and has the licence mit"):
        push_model(folder, "user/model", license="apache-2.0")
    assert files["README.md"].decode() == text and files["plots/curve.png"] == b"png" and not caplog.text


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("base_model: /data/my model", "`base_model` in README.md must be Hub ids .*got '/data/my model'"),
        ("datasets: [./photos]", "`datasets` in README.md must be Hub ids .*got './photos'"),
        ("license: [", "cannot be read"),
    ],
)
def test_a_head_that_the_hub_would_misread_is_an_error(hub, folder, head, message):
    (folder / "README.md").write_text(f"---\n{head}\n---\nMine\n")
    with pytest.raises(ValueError, match=message):
        push_model(folder, "user/model")
    assert not hub.repositories


def test_errors_of_the_hub_about_the_card_arrive(hub, folder):
    hub.card_errors.append("license must be one of the list")
    with pytest.raises(ValueError, match="license must be one of the list"):
        push_model(folder, "user/model")


def test_incomplete_folders_are_errors_with_the_remedy(hub, folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config.json[^$]*D2VPRImageProcessor\(size="):
        push_model(folder, "user/model")
    load_image_processor("embedded").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        push_model(folder, "user/model")
    assert not hub.repositories


def test_a_model_on_the_hub_without_image_processor_is_an_error_with_the_remedy(hub):
    hub.put("user/bare", {name: (EMBEDDED_MODEL / name).read_bytes() for name in ("config.json", "model.safetensors")})
    with pytest.raises(FileNotFoundError, match=r'user/bare has no preprocessor_config.json.*push_to_hub\("user/bare"\)'):
        PlaceEncoder("user/bare")


def test_parts_that_were_never_trained_are_said(hub, tmp_path, caplog):
    from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel

    D2VPRModel(D2VPRConfig(**TINY)).save_pretrained(tmp_path / "fresh")
    D2VPRImageProcessor(size={"height": 70, "width": 70}).save_pretrained(tmp_path / "fresh")
    push_model(tmp_path / "fresh", "user/model")
    assert "never trained" in caplog.text and "**Not trained yet**" in hub.files("user/model")["README.md"].decode()


@pytest.mark.parametrize(
    ("license_id", "message"),
    [("other", "licence `other` needs a name and a link"), ("My licence: X", "identifier of a licence, such as `mit`")],
)
def test_licences_that_the_hub_does_not_have(hub, license_id, message):
    with pytest.raises(ValueError, match=message):
        push_model("embedded", "user/model", license=license_id)
    assert not hub.repositories


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (b"---\nbase_model: 12\ndatasets: {a: b}\n---\n", "`datasets` in README.md must be Hub ids"),
        ("# Café".encode("latin-1"), r"README.md cannot be read: expected UTF-8, got byte 0xe9"),
    ],
)
def test_cards_that_cannot_be_read(hub, folder, card, message):
    (folder / "README.md").write_bytes(card)
    with pytest.raises(ValueError, match=message):
        push_model(folder, "user/model")
    assert not hub.repositories


def test_an_old_head_is_brought_up_to_date(hub, folder):
    """Earlier versions wrote a folder as the data set of results, and names of licences that no one can look up."""
    text = (EMBEDDED_MODEL / "README.md").read_text()
    result = "model-index:\n- name: x\n  results:\n  - task: {type: image-feature-extraction}\n    dataset: {name: queries, "
    result += "type: queries}\n    metrics: [{type: recall@1, value: 70.0}]\n"
    text = text.replace("license: apache-2.0", "license: other\nlicense_name: not-stated\n" + result.rstrip())
    (folder / "README.md").write_text(text.replace('name = "path', 'folder = "path'))
    push_model(folder, "user/model")
    card = hub.files("user/model")["README.md"].decode()
    assert not card_problems(card) and "license: unknown" in card and "model-index" not in card
    assert 'folder = "user/model"' in card


def test_results_on_a_data_set_of_the_hub_are_in_the_head_and_on_its_leaderboard(hub, folder):
    """`recall@1` is a task of the benchmark, `default` is not a recall; other N have no task."""
    report = json.loads((EMBEDDED_MODEL / "validation.json").read_text())
    tasks = [{"id": "default", "config": "default", "split": "test"}, {"id": "recall_at_5"}, {"id": "recall@1"}]
    revision = hub.put("user/streets", {"eval.yaml": yaml.safe_dump({"name": "Streets", "tasks": tasks}).encode()}, "datasets")
    for side in ("database", "query_set"):
        report[side] |= {"dataset": "user/streets", "revision": revision}
    (folder / "validation.json").write_text(json.dumps(report))
    push_model(folder, "user/model")
    files = hub.files("user/model")
    card = files["README.md"].decode()
    assert not card_problems(card)
    (index,) = yaml.safe_load(card.split("---")[1])["model-index"]
    assert index["results"][0]["dataset"] == {"name": "user/streets", "type": "user/streets", "revision": revision}
    first, second = yaml.safe_load(files[".eval_results/user--streets.yaml"])
    assert (first["dataset"]["task_id"], second["dataset"]["task_id"]) == ("recall_at_5", "recall@1")
    assert second["value"] == 59.75 and second["dataset"] == {"id": "user/streets", "task_id": "recall@1", "revision": revision}
    assert second["notes"] == "correct: within 25 m"


def test_the_command_uploads_a_model_and_prints_its_address(hub, folder):
    done = CliRunner().invoke(app, ["push", str(folder), "user/model", "--private", "--message", "First", "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["kind"] == "model" and answer["name"] == "user/model" and answer["url"].startswith(hub.endpoint)
    assert hub.repositories["models", "user/model"].private
    assert hub.repositories["models", "user/model"].commits[-1][1] == "First"


def test_an_index_is_no_model(hub, tmp_path):
    (tmp_path / "manifest.json").write_text('{"fingerprint": "f"}')
    with pytest.raises(ValueError, match="is an index, not a model"):
        push_model(tmp_path, "user/model")


def test_published_weights_carry_their_base_model(hub, tmp_path):
    from tests.conftest import drawn_weights

    torch.save(drawn_weights("d2vpr"), tmp_path / "published.pth")
    convert_weights(tmp_path / "published.pth", tmp_path / "out")
    push_model(tmp_path / "out", "user/model")
    card = hub.files("user/model")["README.md"].decode()
    assert not card_problems(card) and "base_model: facebook/dinov2-small\n" in card and "base_model_relation: finetune" in card


PUSH = """
import os
from transformers import AutoModel

model = AutoModel.from_pretrained("user/model", trust_remote_code=True)
model.push_to_hub("user/copy")
"""


def test_another_user_pushes_the_model_on_with_its_image_processor(hub, tmp_path):
    """`push_to_hub` of transformers, in a process without this package; the copy loads by its own code."""
    push_model("embedded", "user/model")
    (tmp_path / "second").mkdir()
    run_without_package(hub, tmp_path / "second", PUSH + USE.replace("user/model", "user/copy"), TOKEN)
    files = hub.files("user/copy")
    assert json.loads(files["preprocessor_config.json"])["size"] == {"height": 140, "width": 140}


def test_push_to_hub_of_a_model_adds_the_image_processor_of_its_folder(hub, folder, tmp_path):
    load_model(folder).push_to_hub("user/model")
    assert json.loads(hub.files("user/model")["preprocessor_config.json"])["size"]["height"] == 140
    assert len(hub.repositories["models", "user/model"].commits) == 2  # the first one is the Hub's
    load_model(folder).save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="user/saved")
    assert "preprocessor_config.json" in hub.files("user/saved")
    assert PlaceEncoder("user/model").fingerprint == PlaceEncoder("embedded").fingerprint


def test_push_to_hub_does_not_replace_an_image_processor(hub, folder, caplog, monkeypatch):
    monkeypatch.setattr(transformers.logging.get_logger("transformers"), "propagate", True)
    processor = load_image_processor(folder)
    processor.size = {"height": 168, "width": 168}
    processor.push_to_hub("user/model")
    load_model(folder).push_to_hub("user/model")
    assert json.loads(hub.files("user/model")["preprocessor_config.json"])["size"]["height"] == 168
    assert "user/model differs from that in" in caplog.text


def test_push_to_hub_by_a_name_without_user(hub, folder, tmp_path, monkeypatch):
    """The Hub completes the name with the user's; a folder here of that name is not the repository."""
    shutil.copytree(folder, tmp_path / "work" / "model")
    monkeypatch.chdir(tmp_path / "work")
    load_model(folder).push_to_hub("model")
    assert json.loads(hub.files("user/model")["preprocessor_config.json"])["size"]["height"] == 140
    processor = load_image_processor(folder)
    processor.size = {"height": 168, "width": 168}
    processor.push_to_hub("other")
    load_model(folder).push_to_hub("other")
    load_model(folder).save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="other")
    assert json.loads(hub.files("user/other")["preprocessor_config.json"])["size"]["height"] == 168


def test_push_to_hub_of_a_new_model_warns_that_the_image_processor_is_missing(hub, tmp_path, caplog, monkeypatch):
    from d2vpr_hf.modeling import D2VPRConfig, D2VPRModel

    monkeypatch.setattr(transformers.logging.get_logger("transformers"), "propagate", True)
    D2VPRModel(D2VPRConfig(**TINY)).push_to_hub("user/model")
    assert "preprocessor_config.json" not in hub.files("user/model")
    assert "user/model gets no image processor" in caplog.text and 'push_to_hub("user/model")' in caplog.text


def test_saving_a_model_does_not_save_an_image_processor(folder, tmp_path):
    load_model(folder).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists()
    with pytest.raises(FileNotFoundError, match=r"`save_pretrained` of a model does not write it. Add it"):
        PlaceEncoder(tmp_path / "saved")


def test_the_model_of_a_graph_is_named_without_folders(hub, folder, embedded_graph, tmp_path):
    """Others have no folder of this machine; the Hub id in the card of the folder is public."""
    record = shutil.copytree(embedded_graph, tmp_path / "graph") / "export.json"
    record.write_text(info_text(json.loads(record.read_text()) | {"model": str(folder)}))
    push_model(tmp_path / "graph", "user/graph")
    assert json.loads(hub.files("user/graph")["export.json"])["model"] is None
    (folder / "README.md").write_text("---\nbase_model: user/model\n---\n")
    push_model(tmp_path / "graph", "user/graph")
    assert json.loads(hub.files("user/graph")["export.json"])["model"] == "user/model"
    shutil.rmtree(folder)
    push_model(tmp_path / "graph", "user/graph")
    assert not [path for path, content in hub.files("user/graph").items() if str(tmp_path).encode() in content]


def test_an_exported_graph_is_uploaded_and_used_by_its_hub_id(hub, embedded_graph):
    push_model(embedded_graph, "user/graph")
    card = hub.files("user/graph")["README.md"].decode()
    assert not card_problems(card) and 'name = "user/graph"' in card and "license: apache-2.0" in card
    photo = Image.fromarray(np.arange(90 * 120 * 3, dtype=np.uint8).reshape(90, 120, 3))
    encoder = PlaceEncoder("user/graph")
    expected = PlaceEncoder("embedded")
    assert np.allclose(encoder.encode([photo]).descriptors, expected.encode([photo]).descriptors, atol=1e-3)
    assert encoder.fingerprint == expected.fingerprint and encoder.backend.name == "onnxruntime"
    push_model("embedded", "user/graph")  # the graph's files would be loaded instead of the weights
    assert not {"export.json", "model.onnx", "references.npz"} & hub.files("user/graph").keys()
