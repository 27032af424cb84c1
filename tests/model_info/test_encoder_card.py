"""Cards of encoders: written and read unchanged, and damaged or hostile ones are refused with the reason."""

import hashlib
import json
import subprocess
import sys

import pytest

from d2vpr_hf.model_info.encoder_card import CARD_FILE, EncoderCard, hash_files, locate_file, read_card, write_card
from d2vpr_hf.model_info.preprocessing import Preprocessing

CARD = EncoderCard(
    title="MegaLoc",
    descriptor_dim=8448,
    preprocessing=Preprocessing(size=(322, 322), resample="bicubic"),
    license="mit",
    graph="model.onnx",
    output_name="descriptor",
    normalize=True,
    sha256={"model.onnx": "0" * 64},
    source={"repository": "gmberton/MegaLoc"},
)


def test_a_card_is_read_as_it_was_written(tmp_path):
    write_card(tmp_path, CARD)
    assert read_card(tmp_path) == CARD
    assert read_card(str(tmp_path)).facts.license == "mit"


def test_a_short_card_that_a_person_wrote(tmp_path):
    values = {"format_version": 1, "title": "Mine", "descriptor_dim": 64, "preprocessing": {"size": [224, 224]}}
    (tmp_path / CARD_FILE).write_text(json.dumps(values))
    card = read_card(tmp_path)
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert (card.graph, card.normalize, card.depends_on_batch, card.checked) == (None, False, False, {})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format_version": 2}, "format_version"),
        ({"format_version": None}, "format_version"),
        ({"colour": "red"}, "unknown values: colour"),
        ({"title": ""}, "`title` must be a text"),
        ({"descriptor_dim": "64"}, "`descriptor_dim` must be a positive whole number"),
        ({"descriptor_dim": True}, "positive whole number"),
        ({"preprocessing": [1]}, "`preprocessing` must be a table"),
        ({"preprocessing": {"gamma": 2}}, "gamma"),
        ({"normalize": 1}, "`normalize` must be true or false"),
        ({"graph": "../model.onnx"}, "in the same folder"),
        ({"graph": "/etc/passwd.onnx"}, "in the same folder"),
        ({"graph": "model.pt"}, r"\.onnx file"),
        ({"projection": "..\\pca.safetensors"}, "in the same folder"),
        ({"projection": "pca.pkl"}, r"\.safetensors file"),
        ({"sha256": {"model.onnx": "abc"}}, "64 lower-case hexadecimal digits"),
        ({"sha256": {"../x": "0" * 64}}, "in the same folder"),
        ({"model_options": {"pool": "sum"}}, "`pool` must be"),
        ({"model_options": {"image_size": 5}}, "encoder.json"),
        ({"model_options": {"image_size": [10**9, 10**9]}}, "`image_size` must be .* to 8192"),
        ({"model_options": {"layer": 1.5}}, "`layer` must be a whole number"),
        ({"model_options": {"center_crop": "yes"}}, "`center_crop` must be"),
        ({"descriptor_dim": 10**9}, "`descriptor_dim` must be a positive whole number up to 1048576"),
        ({"preprocessing": {"size": [10**9, 10**9]}}, "`size` must be .* to 8192"),
        ({"preprocessing": {"pad_size": [10**9, 1]}}, "`pad_size` must be"),
        ({"preprocessing": {"shortest_edge": 10**9}}, "`shortest_edge` must be"),
        ({"preprocessing": {"max_patches": 10**6, "multiple_of": 16}}, "`max_patches` must be"),
        ({"preprocessing": {"mean": [10**400, 0, 0]}}, "`mean` must be"),
        ({"preprocessing": {"mean": ["0", "0", "0"]}}, "`mean` must be"),
        ({"preprocessing": {"rescale_factor": 10**400}}, "`std` and `rescale_factor` must be"),
        ({"checked": "yes"}, "`checked` must be a table"),
    ],
)
def test_a_wrong_card_is_refused_with_the_reason(tmp_path, change, reason):
    (tmp_path / CARD_FILE).write_text(json.dumps(CARD.to_dict() | change))
    with pytest.raises(ValueError, match=reason) as error:
        read_card(tmp_path)
    assert CARD_FILE in str(error.value) and "docs/encoders.md" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_damaged_card_is_refused(tmp_path, content):
    (tmp_path / CARD_FILE).write_bytes(content)
    with pytest.raises(ValueError, match="not a card of an encoder"):
        read_card(tmp_path)


def test_a_missing_value_is_named(tmp_path):
    values = CARD.to_dict()
    del values["descriptor_dim"]
    (tmp_path / CARD_FILE).write_text(json.dumps(values))
    with pytest.raises(ValueError, match="it has no `descriptor_dim`"):
        read_card(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "", ".", "..", "a/b", "a\\b", "C:x", "a\0"])
def test_a_name_cannot_leave_the_folder(tmp_path, name):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ValueError, match="Only names of files in the same folder"):
        locate_file(tmp_path / "encoder", name)


def test_links_out_of_the_folder_are_refused_but_those_of_the_hubs_cache(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (tmp_path / "secret").write_text("secret")
    (blobs / "1").write_text("graph")
    (snapshot / "model.onnx").symlink_to("../../blobs/1")
    (snapshot / "data").symlink_to(tmp_path / "secret")
    assert locate_file(snapshot, "model.onnx").read_text() == "graph"
    with pytest.raises(ValueError, match="link to a file in another folder"):
        locate_file(snapshot, "data")
    with pytest.raises(FileNotFoundError, match="missing"):
        locate_file(snapshot, "more")


def test_a_replaced_file_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    digest = hashlib.sha256(b"graph").hexdigest()
    assert hash_files(tmp_path, ["model.onnx"], EncoderCard("A", 1, Preprocessing())) == {"model.onnx": digest}
    with pytest.raises(ValueError, match=f"SHA-256 is {digest}, expected 0000"):
        hash_files(tmp_path, ["model.onnx"], CARD)


def test_reading_a_card_loads_no_network_library():
    code = "import sys, d2vpr_hf.model_info.encoder_card; print(*{'torch', 'transformers', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
