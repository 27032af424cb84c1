"""Damage of an exported graph is noticed when it is opened: single bits once changed descriptors under the same fingerprint."""

import json
import random

import pytest

from d2vpr_hf.backends.exported_model import INFO_FILE, ExportedModel, info_text, with_checksums, with_contents


@pytest.fixture
def exported(tmp_path):
    """Return a folder like that of an export; its files are checked before a runtime opens them."""
    (tmp_path / "model.onnx").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "model.onnx.data").write_bytes(b"\x01" * 500)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "weights.bin").write_bytes(b"nested")
    (tmp_path / "README.md").write_text("A card.")
    info = {"format_version": 1, "format": "onnx", "precision": "fp32", "encoder": {"mean": 0.5}}
    (tmp_path / INFO_FILE).write_text(info_text(with_checksums(info, tmp_path)))
    return tmp_path


def test_an_undamaged_export_is_opened(exported):
    (exported / "README.md").write_text("An edited card.")
    (exported / ".gitattributes").write_bytes(b"* -text\r\n")
    opened = ExportedModel.open(exported)
    opened.check_files()
    assert set(opened.info["sha256"]) == {"model.onnx", "model.onnx.data", "config.json", "nested/weights.bin"}


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "config.json", "nested/weights.bin"])
def test_each_flipped_bit_is_an_error(exported, name):
    chance, content = random.Random(1), (exported / name).read_bytes()
    for _ in range(20):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        (exported / name).write_bytes(changed)
        with pytest.raises(ValueError, match="has changed since it was exported"):
            ExportedModel.open(exported).check_files()
    (exported / name).unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        ExportedModel.open(exported).check_files()


def test_a_changed_value_of_the_information_is_an_error(exported):
    """The mean of the preprocessing changes all descriptors, too."""
    info = json.loads((exported / INFO_FILE).read_text())
    info["encoder"]["mean"] = 0.25
    (exported / INFO_FILE).write_text(json.dumps(info))
    with pytest.raises(ValueError, match="its checksum is wrong"):
        ExportedModel.open(exported)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../b", "C:\\secret", "a\0b", ".", ""])
def test_no_file_outside_is_read(exported, name):
    info = json.loads((exported / INFO_FILE).read_text())
    (exported / INFO_FILE).write_text(info_text(info | {"sha256": {name: "0" * 64}}))
    with pytest.raises(ValueError, match="names files outside of its folder"):
        ExportedModel.open(exported).check_files()


def test_an_older_export_stays_readable_and_is_named(exported, caplog):
    info = json.loads((exported / INFO_FILE).read_text())
    (exported / INFO_FILE).write_text(json.dumps({key: info[key] for key in info if key not in ("sha256", "checksum")}))
    ExportedModel.open(exported).check_files()
    assert "without checksums" in caplog.text


def test_an_upload_has_the_checksums_of_its_own_files(exported):
    info = ExportedModel.open(exported).info
    changed = with_contents(info, {"model.onnx": exported / "model.onnx", "config.json": b"{ }"})
    assert set(changed["sha256"]) == {"model.onnx", "config.json"}
    assert changed["sha256"]["model.onnx"] == info["sha256"]["model.onnx"]
    assert changed["sha256"]["config.json"] != info["sha256"]["config.json"]
