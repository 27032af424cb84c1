"""Uploads to a Hub on localhost, by the real client."""

import pytest

from d2vpr_hf.hub.uploads import check_repository_name, upload_files
from tests.hub_server import running_hub, use_hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with running_hub() as server:
        use_hub(server, tmp_path / "cache", monkeypatch)
        yield server


def test_files_arrive_in_one_commit_that_removes_stale_files(hub, tmp_path):
    hub.put("user/model", {"old.safetensors": b"1", "kept.txt": b"2", "new.safetensors": b"3"})
    (tmp_path / "weights").write_bytes(b"4")
    files = {"new.safetensors": tmp_path / "weights", "card/README.md": b"5"}
    url = upload_files("user/model", files, kind="model", stale=["*.safetensors"], commit_message="Second")
    commits = hub.repositories["models", "user/model"].commits
    assert len(commits) == 2 and commits[-1][1] == "Second" and url.endswith(commits[-1][0])
    assert hub.files("user/model") == {"new.safetensors": b"4", "kept.txt": b"2", "card/README.md": b"5"}


@pytest.mark.parametrize(("private", "is_private"), [(True, True), (False, False), (None, False)])
def test_visibility_of_a_new_repository(hub, private, is_private):
    upload_files("user/map", {"a": b"1"}, kind="dataset", private=private, commit_message="First")
    assert hub.repositories["datasets", "user/map"].private is is_private


@pytest.mark.parametrize(("private", "word"), [(True, "public"), (False, "private")])
def test_an_existing_repository_of_another_visibility_is_an_error(hub, private, word):
    """The Hub ignores the wish, and photos or weights would be public."""
    hub.put("user/model", {"a": b"1"}, private=not private)
    with pytest.raises(ValueError, match=f"user/model is {word} on the Hub already, which `private={private}`"):
        upload_files("user/model", {"a": b"2"}, kind="model", private=private, commit_message="Second")
    upload_files("user/model", {"a": b"2"}, kind="model", commit_message="Second")
    assert hub.files("user/model") == {"a": b"2"}


def test_a_missing_or_foreign_login_is_an_error_with_the_remedy(hub, tmp_path, monkeypatch):
    with pytest.raises(PermissionError, match=r"(?s)may not create stranger/model.*hf auth login"):
        upload_files("stranger/model", {"a": b"1"}, kind="model", commit_message="First")
    use_hub(hub, tmp_path, monkeypatch, token=None)
    with pytest.raises(PermissionError, match="hf auth login"):
        upload_files("user/model", {"a": b"1"}, kind="model", commit_message="First")
    assert not hub.repositories


def test_a_hub_that_cannot_be_reached_is_one_error(hub, monkeypatch):
    with running_hub() as gone:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", gone.endpoint)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", gone.endpoint)
    with pytest.raises(ConnectionError, match="user/model was not uploaded: the Hub cannot be reached"):
        upload_files("user/model", {"a": b"1"}, kind="model", commit_message="First")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        upload_files("user/model", {"a": b"1"}, kind="model", commit_message="First")


def test_a_hub_that_fails_half_way_is_an_error_that_names_the_repository(hub, monkeypatch):
    monkeypatch.setattr("tests.hub_server._Requests._commit", lambda requests, *args: requests._refuse(503, None, "Busy"))
    with pytest.raises(ConnectionError, match=r"(?s)user/model was not uploaded: the Hub failed .*Busy"):
        upload_files("user/model", {"a": b"1"}, kind="model", commit_message="First")


@pytest.mark.parametrize("name", ["model", "a/b/c", "user/..", "user/my model", ""])
def test_names_that_the_hub_refuses(name):
    with pytest.raises(ValueError, match="name"):
        check_repository_name(name)
