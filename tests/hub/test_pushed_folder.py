"""The command `push` recognises a folder by its files."""

import json

import pytest

from d2vpr_hf.hub.pushed_folder import FolderKind, recognize_folder


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["config.json", "model.safetensors"], FolderKind.MODEL),
        (["config.json", "export.json", "model.onnx"], FolderKind.GRAPH),
        (["manifest.json"], FolderKind.INDEX),
    ],
)
def test_kinds_are_recognised_by_their_files(tmp_path, names, kind):
    for name in names:
        (tmp_path / name).write_text(json.dumps({"fingerprint": "f"}))
    assert recognize_folder(tmp_path) is recognize_folder(str(tmp_path)) is kind


def test_the_embedded_model_is_a_model():
    assert recognize_folder("embedded") is FolderKind.MODEL


def test_a_damaged_manifest_is_left_to_the_index_to_explain(tmp_path):
    (tmp_path / "manifest.json").write_text('{"fingerprint": ')
    assert recognize_folder(tmp_path) is FolderKind.INDEX


def test_other_folders_and_files_are_errors_with_advice(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder user/name"):
        recognize_folder("user/name")
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(ValueError, match=r"neither a model .*nor an index .*d2vpr index"):
        recognize_folder(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"no configuration; `d2vpr convert`"):
        recognize_folder(tmp_path)
    with pytest.raises(ValueError, match=r"is a file.*`d2vpr convert`"):
        recognize_folder(tmp_path / "model.safetensors")
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"training run: push .*last\."):
        recognize_folder(tmp_path)
