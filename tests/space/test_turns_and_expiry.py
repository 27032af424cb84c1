"""Turns in the queue, deletion of old files, the operator's token, and photos from addresses."""

import asyncio
import time
from pathlib import Path

import huggingface_hub
import pytest

from d2vpr_hf.maps import TileSource
from d2vpr_hf.space import fetched_photos
from d2vpr_hf.space.credentials import forget_token
from d2vpr_hf.space.expiry import delete_old_files, start_deleting
from d2vpr_hf.space.fair_queue import FairQueue
from d2vpr_hf.space.fetched_photos import fetch_photo
from d2vpr_hf.space.uploads import UploadError
from d2vpr_hf.web.hosts import allowed_hosts, content_policy


def test_visitors_take_turns():
    """One visitor's hundred requests would make all others wait."""
    queue = FairQueue(lambda item: item[0])
    for item in ("a1", "a2", "a3", "b1", "a4", "b2", "c1"):
        queue.append(item)
    assert queue == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"] and queue.count_of("a") == 4
    queue.remove("a1")
    queue.append("d1")
    assert queue == ["b1", "c1", "a2", "d1", "b2", "a3", "a4"]


def test_old_files_are_deleted_whoever_wrote_them(tmp_path):
    for name in ("tmp123", "own/x/photos/a.jpg", "deep_links/abc/state.json", "empty/empty2/"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert delete_old_files(tmp_path, 3600) == 0
    delete_old_files(tmp_path, 3600, now=time.time() + 3601)
    delete_old_files(tmp_path, 3600, now=time.time() + 7300)
    assert list(tmp_path.iterdir()) == [] and Path("/etc/passwd").exists()


def test_a_timer_deletes(tmp_path):
    (tmp_path / "a.jpg").write_text("x")
    ended = start_deleting(tmp_path, max_age=-1, every=0.01)
    until = time.monotonic() + 60
    while (tmp_path / "a.jpg").exists() and time.monotonic() < until:
        time.sleep(0.01)
    ended.set()
    assert not (tmp_path / "a.jpg").exists()


def test_the_token_is_forgotten(tmp_path, monkeypatch):
    """Gradio's run history used the operator's token for strangers."""
    (tmp_path / "token").write_text("hf_SAVED")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.setenv(name, "hf_SECRET")
    assert huggingface_hub.get_token() == "hf_SECRET"
    forget_token()
    assert huggingface_hub.get_token() is None


def test_names_of_the_machine():
    names = allowed_hosts({"SPACE_HOST": "user-where.hf.space", "D2VPR_HOSTS": "maps.example.org, Photos.example.org ,"})
    assert names == {"localhost", "user-where.hf.space", "maps.example.org", "photos.example.org"}


def test_the_page_may_load_tiles_and_nothing_else_from_other_hosts():
    tiles = TileSource("https://tiles.example.org/{z}/{x}/{y}.png", "someone")
    assert "img-src 'self' data: blob: https://tiles.example.org;" in content_policy(tiles, on_hub=False)
    plain = content_policy(None, on_hub=False)
    assert "https:" not in plain and plain.endswith("frame-ancestors 'self'")
    assert "https://huggingface.co" in content_policy(None, on_hub=True)


class Answer:
    """Stands for the answer of a host."""

    def __init__(self, content=b"", location=None):
        self.content, self.headers = content, {"location": location}
        self.has_redirect_location = location is not None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    def raise_for_status(self):
        pass

    async def aiter_raw(self):
        for start in range(0, len(self.content), 10):
            yield self.content[start : start + 10]


class Hosts:
    """Stands for the network: hosts, their public addresses and their answers."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def install(self, monkeypatch):
        import httpx
        import safehttpx

        async def validate(host):
            if host != "photos.example.org":
                raise ValueError("not public")
            return "203.0.113.7"

        hosts = self

        class Client:
            def __init__(self, **_):
                pass

            async def __aenter__(self):
                return self

            async def __aexit__(self, *_):
                pass

            def stream(self, method, url, headers):
                hosts.asked.append(url)
                return hosts.answers[url]

        monkeypatch.setattr(safehttpx, "async_validate_url", validate)
        monkeypatch.setattr(safehttpx, "AsyncSecureTransport", lambda address: None)
        monkeypatch.setattr(httpx, "AsyncClient", Client)


def test_photos_are_fetched_within_limits(tmp_path, monkeypatch):
    base = "https://photos.example.org"
    hosts = Hosts(
        {
            f"{base}/a.jpg": Answer(b"photo"),
            f"{base}/endless": Answer(bytes(1000)),
            f"{base}/inside": Answer(location="http://127.0.0.1/admin"),
            f"{base}/file": Answer(location="file:///etc/passwd"),
            f"{base}/round": Answer(location=f"{base}/round"),
        }
    )
    hosts.install(monkeypatch)
    photo = asyncio.run(fetch_photo(f"{base}/a.jpg", tmp_path))
    assert photo.read_bytes() == b"photo" and photo.name == "a.jpg" and photo.parent.parent == tmp_path
    for address in (
        f"{base}/endless",
        f"{base}/inside",
        f"{base}/file",
        f"{base}/round",
        "http://10.0.0.1/",
        "http://localhost/x",
    ):
        with pytest.raises(UploadError):
            asyncio.run(fetch_photo(address, tmp_path, max_bytes=100))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [photo] and len(hosts.asked) == 8
    assert fetched_photos._SECONDS <= 30
