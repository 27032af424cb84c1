"""The middleware keeps visitors from each other's uploads: requests with the paths of Gradio's routes, without Gradio."""

import asyncio
import json
from pathlib import Path

import pytest

from d2vpr_hf.space.private_files import PrivateFiles, visitor_of
from d2vpr_hf.space.visitors import COOKIE, Visitors


class Server:
    """Answers like Gradio: uploads with the names of their files, other requests with their body."""

    def __init__(self, folder, public=()):
        self.visitors = Visitors(folder)
        self.app = PrivateFiles(self.answer, self.visitors, frozenset(public))
        self.upload = []

    async def answer(self, scope, receive, send):
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body", False):
            message = await receive()
            body += message.get("body", b"")
        answer = json.dumps(self.upload).encode() if scope["path"].endswith("/upload") else b"got " + body
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (answer[:5], answer[5:]):  # answers may come in parts
            await send({"type": "http.response.body", "body": part, "more_body": part == answer[:5]})

    def request(self, method, path, body=b"", visitor=None, headers=()):
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        cookies = [(b"cookie", f"theme=dark; {COOKIE}={visitor}".encode())] if visitor else []
        scope = {"type": "http", "method": method, "path": path, "scheme": "http", "headers": [*cookies, *headers]}
        asyncio.run(self.app(scope, receive, send))
        answer = b"".join(message.get("body", b"") for message in sent)
        return sent[0]["status"], dict(sent[0]["headers"]), answer


@pytest.fixture
def server(tmp_path):
    (tmp_path / "up" / "ab12").mkdir(parents=True)
    (tmp_path / "example.jpg").write_text("public")
    server = Server(tmp_path / "up", [tmp_path / "example.jpg"])
    server.photo = tmp_path / "up" / "ab12" / "photo.jpg"
    server.photo.write_text("private")
    server.upload = [str(server.photo)]
    return server


def work(server, file, visitor=None):
    body = json.dumps({"data": [{"path": str(file), "meta": {"_type": "gradio.FileData"}}, [1, {"a": None}]]}).encode()
    return server.request("POST", "/gradio_api/queue/join", body, visitor)


def test_only_the_owner_can_download_a_file(server):
    assert server.request("POST", "/gradio_api/upload", b"...", "alice")[2] == json.dumps(server.upload).encode()
    path = f"/gradio_api/file={server.photo}"
    assert server.request("GET", path, visitor="alice")[0] == 200
    for visitor in ("bob", None, ""):
        status, _, answer = server.request("GET", path, visitor=visitor)
        assert (status, answer) == (403, b"This file belongs to another visitor, or was deleted.")
    for spelling in (
        f"/file={server.photo.parent}/../ab12/photo.jpg",
        f"/gradio_api/file/{server.photo}",
        f"/file=/{server.photo}",
    ):
        assert server.request("GET", spelling, visitor="bob")[0] == 403
        assert server.request("HEAD", spelling, visitor="bob")[0] == 403


def test_a_link_does_not_open_another_visitors_file(server, tmp_path):
    server.visitors.add_file("alice", server.photo)
    (tmp_path / "link").symlink_to(server.photo)
    assert server.request("GET", f"/file={tmp_path / 'link'}", visitor="bob")[0] == 403


def test_files_of_the_upload_folder_without_an_owner_are_refused(server):
    assert server.request("GET", f"/file={server.photo}", visitor="alice")[0] == 403
    assert server.request("GET", "/gradio_api/file=/etc/hostname")[0] == 200  # Gradio's rules decide on other folders


def test_requests_may_name_only_files_of_the_visitor(server, tmp_path):
    server.request("POST", "/gradio_api/upload", b"...", "alice")
    status, _, answer = work(server, server.photo, "alice")
    assert status == 200 and str(server.photo).encode() in answer  # the body arrives whole
    for visitor in ("bob", None):
        assert work(server, server.photo, visitor)[0] == 403
    for outside in (
        "/etc/passwd",
        tmp_path / "secret.jpg",
        "example.jpg",
        str(server.photo.parent / ".." / ".." / "secret.jpg"),
    ):
        assert work(server, outside, "alice")[0] == 403
    assert work(server, tmp_path / "example.jpg", "bob")[0] == 200
    assert work(server, "https://example.org/photo.jpg", "bob")[0] == 200


@pytest.mark.parametrize(
    "route", ["queue/join", "call/localize", "run/predict", "api/predict", "call/v2/localize", "mcp/", "mcp"]
)
def test_every_route_that_takes_files_is_checked(server, route):
    body = json.dumps({"data": {"deep": [{"path": "/etc/passwd"}]}}).encode()
    assert server.request("POST", f"/gradio_api/{route}", body)[0] == 403
    assert server.request("POST", f"/gradio_api/{route}", b'{"data": []}')[0] == 200
    assert server.request("POST", f"/gradio_api/{route}", b" " * 40_000_001)[0] == 413


def test_visitors_without_cookies_can_use_uploads_but_not_download_them(server):
    server.request("POST", "/gradio_api/upload", b"...")
    assert work(server, server.photo)[0] == 200
    assert server.request("GET", f"/file={server.photo}")[0] == 403


def test_cookies_of_agents_are_dropped(server):
    """Gradio passes an agent's headers on to its client for agents: the agent's cookie would replace the client's cookie."""
    server.request("POST", "/gradio_api/upload", b"...", "alice")
    body = json.dumps({"photo": {"path": str(server.photo)}}).encode()
    assert server.request("POST", "/gradio_api/mcp/", body, "alice")[0] == 403
    assert server.request("POST", "/gradio_api/mcp/", b"{}", "alice")[0] == 200


def test_files_are_deleted_when_their_last_owner_leaves(server):
    """A photo may have two owners, and a visitor may have two pages open: none may lose a file that is still in use."""
    for visitor, session in (("alice", "1"), ("alice", "2"), ("bob", "3")):
        server.visitors.arrive(visitor, session)
        server.visitors.add_file(visitor, server.photo)
    server.visitors.leave("alice", "1")
    assert server.visitors.may_fetch("alice", server.photo)
    server.visitors.leave("alice", "2")
    assert not server.visitors.may_fetch("alice", server.photo) and server.visitors.may_fetch("bob", server.photo)
    server.visitors.leave("bob", "3")
    assert not server.photo.exists() and not server.photo.parent.exists() and server.visitors.folder.exists()


def test_only_new_visitors_get_a_cookie(server):
    status, headers, _ = server.request("GET", "/")
    name, _, rest = headers[b"set-cookie"].decode().partition("=")
    assert status == 200 and name == COOKIE and len(rest.split(";")[0]) == 32
    assert "HttpOnly" in rest and "SameSite=Lax" in rest
    assert b"set-cookie" not in server.request("GET", "/", visitor="alice")[1]
    framed = server.request("GET", "/", headers=[(b"x-forwarded-proto", b"https")])[1][b"set-cookie"].decode()
    assert "SameSite=None; Secure; Partitioned" in framed
    assert server.request("GET", "/")[1][b"set-cookie"] != headers[b"set-cookie"]


@pytest.mark.parametrize("header", [b"", b"\xff\xfe=;;", b"other=1", f"{COOKIE}=".encode()])
def test_malformed_cookies_identify_no_visitor(header):
    assert visitor_of({"headers": [(b"cookie", header)]}) is None


def test_many_uploads_do_not_fill_the_memory(tmp_path):
    visitors = Visitors(tmp_path)
    for number in range(1000):
        visitors.add_file("alice", tmp_path / str(number))  # deleted meanwhile
    assert len(visitors._owners) <= 200
    for number in range(50):
        visitors.arrive(str(number), "s")
        visitors.leave(str(number), "s")
    assert not visitors._sessions


def test_other_protocols_pass(tmp_path):
    async def app(scope, receive, send):
        scope["seen"] = True

    scope = {"type": "lifespan"}
    asyncio.run(PrivateFiles(app, Visitors(Path(tmp_path)))(scope, None, None))
    assert scope["seen"]
