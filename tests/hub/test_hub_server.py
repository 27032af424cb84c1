"""The stand-in for the Hub answers the real clients as the Hub does."""

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoImageProcessor, AutoModel

from tests.hub_server import TOKEN, use_hub


def test_an_uploaded_folder_is_downloaded_unchanged(hub, tmp_path):
    """Each commit can be read for ever; patterns delete files of the one before."""
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "two.bin").write_bytes(bytes(range(256)) * 5000)
    (tmp_path / "a" / "one.txt").write_text("one")
    api = HfApi()
    assert api.create_repo("user/map", repo_type="dataset", private=False, exist_ok=True).repo_id == "user/map"
    first = api.upload_folder(repo_id="user/map", repo_type="dataset", folder_path=tmp_path / "a", commit_message="first")
    (tmp_path / "a" / "one.txt").unlink()
    api.upload_folder(repo_id="user/map", repo_type="dataset", folder_path=tmp_path / "a", delete_patterns=["one.*"])
    assert sorted(api.list_repo_files("user/map", repo_type="dataset")) == [".gitattributes", "deep/two.bin"]
    folder = snapshot_download("user/map", repo_type="dataset", revision=first.oid)
    assert (tmp_path / "a" / "deep" / "two.bin").read_bytes() == hub.files("user/map", "datasets")["deep/two.bin"]
    assert folder.endswith(first.oid)
    assert Path(hf_hub_download("user/map", "one.txt", repo_type="dataset", revision=first.oid[:10])).read_text() == "one"
    assert api.create_repo("user/map", repo_type="dataset", exist_ok=True).repo_id == "user/map" and not hub.unknown_requests


def test_missing_and_private_repositories(hub, tmp_path, monkeypatch):
    hub.put("user/secret", {"config.json": b"{}"}, private=True)
    assert HfApi().model_info("user/secret").private
    for arguments, error in (
        (("user/nothing", "config.json"), RepositoryNotFoundError),
        (("user/secret", "nothing.json"), EntryNotFoundError),
    ):
        with pytest.raises(error):
            hf_hub_download(*arguments)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("user/secret", "config.json", revision="v2")
    use_hub(hub, tmp_path, monkeypatch, token=None)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("user/secret", "config.json")


def test_transformers_pushes_and_loads(hub, tiny_folder):
    AutoModel.from_pretrained(tiny_folder).push_to_hub("user/tiny")
    AutoImageProcessor.from_pretrained(tiny_folder).push_to_hub("user/tiny")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= set(hub.files("user/tiny"))
    assert AutoModel.from_pretrained("user/tiny").config.model_type == "d2vpr"


def test_another_process_uses_it(hub, tmp_path):
    hub.put("user/secret", {"a.txt": b"a"}, kind="datasets", private=True)
    code = "import huggingface_hub as hub; print(open(hub.hf_hub_download('user/secret', 'a.txt', repo_type='dataset')).read())"
    environment = {"PATH": "/usr/bin:/bin"} | hub.environment(tmp_path, TOKEN)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "a\n", done.stderr
