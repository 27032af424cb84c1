"""The middleware keeps visitors from each other's uploads and sessions: requests with the paths of Gradio, without Gradio."""

import asyncio
import json
from pathlib import Path

import pytest

from d2vpr_hf.space import visitors as visitors_module
from d2vpr_hf.space.private_files import PrivateFiles, visitor_of
from d2vpr_hf.space.visitors import COOKIE, Visitors


class Server:
    """Stands for Gradio: it answers requests with their body."""

    def __init__(self, folder, public=()):
        self.visitors = Visitors(folder)
        self.app = PrivateFiles(self.answer, self.visitors, frozenset(public))
        self.seen = []

    async def answer(self, scope, receive, send):
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body", False):
            message = await receive()
            body += message.get("body", b"")
        self.seen.append(scope)
        answer = b"got " + body
        await send({"type": "http.response.start", "status": 200, "headers": [(b"access-control-allow-origin", b"*")]})
        for part in (answer[:5], answer[5:]):  # answers may come in parts
            await send({"type": "http.response.body", "body": part, "more_body": part == answer[:5]})

    def request(self, method, path, body=b"", visitor=None, headers=(), query=b"", host=b"127.0.0.1:7860"):
        sent, messages = [], [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if not messages:
                await asyncio.sleep(3600)  # the visitor waits for the answer
            return messages.pop()

        async def send(message):
            sent.append(message)

        cookies = [(b"cookie", f"theme=dark; {COOKIE}={visitor}".encode())] if visitor else []
        scope = {"type": "http", "method": method, "path": path, "scheme": "http", "query_string": query}
        scope["headers"] = [(b"host", host), *cookies, *headers]
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
    return server


def upload(server, visitor=None, name="photo.jpg", content=b"private"):
    """Upload a file, and make it the server's photo."""
    form = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    headers = [(b"content-type", b"multipart/form-data; boundary=edge")]
    answer = server.request("POST", "/gradio_api/upload", form + content + b"\r\n--edge--\r\n", visitor, headers)
    server.photo = Path(json.loads(answer[2])[0])
    return answer


def work(server, file, visitor=None, **fields):
    data = [{"path": str(file), "meta": {"_type": "gradio.FileData"}}, [1, {"a": None}]]
    body = json.dumps({"data": data, "session_hash": f"page{visitor}", "fn_index": 0, **fields}).encode()
    return server.request("POST", "/gradio_api/queue/join", body, visitor)


def test_only_the_owner_can_download_a_file(server):
    assert upload(server, "alice")[0] == 200
    path = f"/gradio_api/file={server.photo}"
    status, headers, answer = server.request("GET", path, visitor="alice")
    assert (status, answer) == (200, b"private") and headers[b"content-type"] == b"image/jpeg"
    for visitor in ("bob", None, ""):
        status, _, answer = server.request("GET", path, visitor=visitor)
        assert (status, answer) == (403, b"This file belongs to another visitor, or was deleted.")
    for spelling in (
        f"/gradio_api/file={server.photo.parent}/../{server.photo.parent.name}/photo.jpg",
        f"/gradio_api/file=/{server.photo}",
        f"/gradio_api/file=//{server.photo}",
    ):
        assert server.request("GET", spelling, visitor="bob")[0] == 403
        assert server.request("HEAD", spelling, visitor="bob")[0] == 403
    for route in (f"/file={server.photo}", f"/gradio_api/file/{server.photo}", f"/gradio_api/proxy={server.photo}"):
        assert server.request("GET", route, visitor="alice")[0] == 404
    assert server.seen == []  # Gradio serves no files at all


def test_pages_of_other_hosts_are_not_fetched(server):
    """Gradio would give out the page of a stranger, scripts included, as a page of the Space."""
    for address in ("http://example.org/x.png", "https://example.org/x.png", "http:/example.org/x.png", "//example.org/x.png"):
        assert server.request("GET", f"/gradio_api/file={address}", visitor="alice")[0] in (403, 404)
    assert server.seen == []


def test_only_photos_are_shown_and_other_files_saved(server):
    """HTML or SVG that a visitor uploaded would run as a page of the Space."""
    for name, shown in (("a.html", False), ("a.svg", False), ("a.jpg", True), ("a.xml", False), ("a", False)):
        upload(server, "alice", name, b"<script>alert(1)</script>")
        headers = server.request("GET", f"/gradio_api/file={server.photo}", visitor="alice")[1]
        assert headers[b"content-disposition"].startswith(b"inline" if shown else b"attachment")
        assert headers[b"content-type"] == (b"image/jpeg" if shown else b"application/octet-stream")
        assert headers[b"x-content-type-options"] == b"nosniff"


def test_a_link_does_not_open_another_visitors_file(server, tmp_path):
    server.visitors.add_file("alice", server.photo)
    (tmp_path / "link").symlink_to(server.photo)
    assert server.request("GET", f"/gradio_api/file={tmp_path / 'link'}", visitor="bob")[0] == 403


def test_files_of_the_upload_folder_without_an_owner_are_refused(server):
    assert server.request("GET", f"/gradio_api/file={server.photo}", visitor="alice")[0] == 403
    assert server.request("GET", "/gradio_api/file=/etc/hostname", visitor="alice")[0] == 403
    assert server.request("GET", f"/gradio_api/file={server.photo.parents[2] / 'example.jpg'}")[0] == 200


def test_requests_may_name_only_files_of_the_visitor(server, tmp_path):
    upload(server, "alice")
    status, _, answer = work(server, server.photo, "alice")
    assert status == 200 and str(server.photo).encode() in answer  # the body arrives whole
    for visitor in ("bob", None):
        assert work(server, server.photo, visitor)[0] == 403
    for outside in (
        "/etc/passwd",
        tmp_path / "secret.jpg",
        "example.jpg",
        str(server.photo.parent / ".." / ".." / "secret.jpg"),
        f"{server.photo}\0",
        "",
    ):
        assert work(server, outside, "alice")[0] == 403
    assert work(server, tmp_path / "example.jpg", "bob")[0] == 200
    assert work(server, "https://example.org/photo.jpg", "bob")[0] == 200


@pytest.mark.parametrize("route", ["queue/join", "call/localize", "call/search", "call/explain", "mcp/", "mcp"])
def test_every_route_that_takes_files_is_checked(server, route):
    body = json.dumps({"data": {"deep": [{"path": "/etc/passwd"}]}}).encode()
    assert server.request("POST", f"/gradio_api/{route}", body)[0] == 403
    assert server.request("POST", f"/gradio_api/{route}", b'{"data": []}')[0] == 200
    assert server.request("POST", f"/gradio_api/{route}", b" " * 40_000_001)[0] == 413
    for body in (b"not JSON", b'{"data": [NaN]}', b'{"a":' * 100_000, b"[" * 999_999):
        assert server.request("POST", f"/gradio_api/{route}", body)[0] == 400
    assert len(server.seen) == 1


def test_gradio_gets_what_was_checked(server):
    """Another parser might take the first of two equal keys, or another encoding, for the meant one."""
    body = json.dumps({"data": [{"path": "/etc/passwd"}]})[:-1] + ', "data": [1]}'
    status, _, answer = server.request("POST", "/gradio_api/call/search", body.encode("utf-16"))
    assert (status, answer) == (200, b'got {"data":[1]}')
    headers = dict(server.seen[0]["headers"])
    assert headers[b"content-length"] == b"12" and headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/x", "/gradio_api/run/\nx", "/gradio_api/queue/join\n", "/gradio_api/queue/join/",
        "/gradio_api//queue/join", "//gradio_api/queue/join", "/gradio_api/./queue/join", "/gradio_api/x/../queue/join",
        "/GRADIO_API/queue/join", "/gradio_api/Queue/join", "/gradio_api/queue%2Fjoin", "/gradio_api/queue/join%00",
        "/gradio_api/queue/join\0", "/gradio_api/queue/join;x", "/gradio_api/queue\\join", "/gradio_api/call/locate",
        "/gradio_api/call/localize/", "/gradio_api/call/\nlocalize", "/gradio_api/call/localize\n", "/gradio_api/queue/join ",
        "/gradio_api/call/v2/localize",
        "/gradio_api/api/predict", "/gradio_api/cancel", "/gradio_api/component_server", "/queue/join", "/run/predict", "",
    ],
)  # fmt: skip
def test_other_spellings_and_routes_are_refused(server, path):
    """A path that the next layer reads otherwise passed the guard unseen."""
    upload(server, "alice")
    body = json.dumps({"fn_index": 0, "session_hash": "s", "data": [{"path": str(server.photo)}]}).encode()
    for visitor in ("alice", "bob"):
        assert server.request("POST", path, body, visitor)[0] == 404
    assert server.seen == []


def test_a_session_belongs_to_its_first_visitor(server):
    """The state of a page has the last photo: a stranger who knows the session's name would see it, or end the session."""
    join = json.dumps({"fn_index": 0, "session_hash": "abc", "data": []}).encode()
    assert server.request("POST", "/gradio_api/queue/join", join, "alice")[0] == 200
    for visitor, status in (("bob", 403), (None, 403), ("alice", 200)):
        assert server.request("POST", "/gradio_api/queue/join", join, visitor)[0] == status
        assert server.request("POST", "/gradio_api/call/search", b'{"data":[],"session_hash":"abc"}', visitor)[0] == status
        assert server.request("GET", "/gradio_api/heartbeat/abc", visitor=visitor)[0] == status
        assert server.request("GET", "/gradio_api/queue/data", visitor=visitor, query=b"session_hash=abc")[0] == status
    twice = b"session_hash=mine&session_hash=abc"
    assert server.request("GET", "/gradio_api/queue/data", visitor="bob", query=twice)[0] == 400
    for session in ("", "a b", "../x", "x" * 65, None, 7, ["abc"]):
        body = json.dumps({"fn_index": 0, "session_hash": session, "data": []}).encode()
        assert server.request("POST", "/gradio_api/queue/join", body, "alice")[0] == 400


def test_calls_name_functions_of_the_page(tmp_path):
    server = Server(tmp_path)
    server.app.functions = frozenset({3})
    assert work(server, "https://example.org/a.jpg", "alice", fn_index=3)[0] == 200
    for wrong in (4, -1, "3", [3]):
        assert work(server, "https://example.org/a.jpg", "alice", fn_index=wrong)[0] == 404
    for field in ({"batched": True}, {"oauth_token": "x"}, {"simple_format": True}):
        assert work(server, "https://example.org/a.jpg", "alice", fn_index=3, **field)[0] == 400


def test_a_visitor_with_many_waiting_requests_gets_no_more(tmp_path):
    server = Server(tmp_path)
    server.app.waiting = lambda visitor: 40 if visitor == "eve" else 0
    status, _, answer = work(server, "https://example.org/a.jpg", "eve")
    assert status == 429 and b"Wait for their answers" in answer
    assert work(server, "https://example.org/a.jpg", "alice")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.org", "evil.org:7860", "localhost.evil.org", "localhost@evil.org", "", "127.0.0.1.evil.org"]
)
def test_other_names_of_the_machine_are_refused(server, host):
    """A page of a stranger can make its name point to this machine; the browser then shows it every answer."""
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", "/gradio_api/queue/join")):
        status, _, answer = server.request(method, path, host=host.encode())
        assert status == 421 and b"D2VPR_HOSTS" in answer
    assert server.seen == []


@pytest.mark.parametrize("host", ["localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST", "192.168.1.5:80"])
def test_own_names_are_served(server, host):
    assert server.request("GET", "/", host=host.encode())[0] == 200


def test_two_hosts_are_refused(server):
    assert server.request("GET", "/", headers=[(b"host", b"evil.org")])[0] == 421


def test_pages_of_other_hosts_cannot_read_or_send(server):
    for origin, status in (
        (b"http://evil.org", 403),
        (b"null", 403),
        (b"http://127.0.0.1:9999", 403),
        (b"http://127.0.0.1:7860", 200),
        (b"https://127.0.0.1:7860", 200),
    ):
        answer = server.request("GET", "/config", headers=[(b"origin", origin)])
        assert answer[0] == status and b"access-control-allow-origin" not in answer[1]
        assert (b"D2VPR_HOSTS" in answer[2]) == (status == 403)
    assert server.request("OPTIONS", "/config", headers=[(b"origin", b"http://evil.org")])[0] == 403
    assert server.request("OPTIONS", "/config")[0] == 404


def test_every_answer_has_security_headers(server):
    for method, path in (("GET", "/"), ("GET", "/nothing"), ("GET", "/gradio_api/file=/etc/passwd")):
        headers = server.request(method, path)[1]
        assert headers[b"x-content-type-options"] == b"nosniff" and headers[b"referrer-policy"] == b"no-referrer"
        assert b"default-src 'self'" in headers[b"content-security-policy"]


def test_headers_of_proxies_do_not_change_addresses(server):
    """Gradio makes the addresses of its page of these headers."""
    server.request("GET", "/", headers=[(b"x-forwarded-host", b"evil.org"), (b"x-gradio-server", b"http://evil.org")])
    assert b"evil.org" not in str(server.seen[0]["headers"]).encode()
    server.app.hosts = frozenset({"localhost", "maps.example.org"})
    proxied = [(b"x-forwarded-host", b"maps.example.org"), (b"origin", b"https://maps.example.org")]
    assert server.request("GET", "/", headers=proxied)[0] == 200 and proxied[0] in server.seen[1]["headers"]


def test_errors_do_not_name_folders(server, tmp_path):
    for request in (
        ("GET", f"/gradio_api/file={tmp_path / 'secret.jpg'}"),
        ("GET", f"/gradio_api/file={server.photo}"),
        ("GET", f"/{tmp_path}"),
    ):
        assert str(tmp_path).encode() not in server.request(*request)[2]


def test_visitors_without_cookies_can_use_uploads_but_not_download_them(server):
    upload(server)
    assert work(server, server.photo)[0] == 200
    assert server.request("GET", f"/gradio_api/file={server.photo}")[0] == 403


def test_cookies_of_agents_are_dropped(server):
    """Gradio passes an agent's headers on to its client for agents: the agent's cookie would replace the client's cookie."""
    upload(server, "alice")
    body = json.dumps({"photo": {"path": str(server.photo)}}).encode()
    assert server.request("POST", "/gradio_api/mcp/", body, "alice")[0] == 403
    assert server.request("POST", "/gradio_api/mcp/", b"{}", "alice")[0] == 200


def test_agents_of_one_address_cannot_take_the_place_of_others(tmp_path):
    """Gradio asks for all agents as one visitor, so that the requests of each are counted here, by network address."""
    answered, statuses = asyncio.Event(), []

    async def app(scope, receive, send):
        await answered.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware = PrivateFiles(app, Visitors(tmp_path))

    async def ask(address):
        async def receive():
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append((address, message["status"]))

        scope = {"type": "http", "method": "POST", "path": "/gradio_api/mcp/", "scheme": "http", "client": (address, 1)}
        await middleware(scope | {"headers": [(b"host", b"localhost")], "query_string": b""}, receive, send)

    async def run():
        tasks = [asyncio.create_task(ask(f"10.0.0.{number}")) for number in [1] * 6 + [2] * 2 + [*range(3, 30)]]
        for _ in range(50):
            await asyncio.sleep(0)
        refused = list(statuses)
        answered.set()
        await asyncio.gather(*tasks)
        await ask("10.0.0.1")  # its earlier requests are answered
        return refused

    refused = asyncio.run(run())
    assert refused[:2] == [("10.0.0.1", 429)] * 2  # 4 of 6
    assert len(refused) == 2 + 27 - 18 and all(status == 429 for _, status in refused)  # 24 of all: 4 + 2 + 18
    assert statuses[-1] == ("10.0.0.1", 200) and not middleware._agent_requests


def test_files_are_deleted_when_their_last_owner_leaves(server):
    """A photo may have two owners, and a visitor may have two pages open: none may lose a file that is still in use."""
    upload(server)
    server.visitors = Visitors(server.visitors.folder)
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


def test_other_protocols(tmp_path):
    async def app(scope, receive, send):
        scope["seen"] = True

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "lifespan"}
    asyncio.run(PrivateFiles(app, Visitors(Path(tmp_path)))(scope, None, None))
    assert scope["seen"]
    asyncio.run(PrivateFiles(app, Visitors(Path(tmp_path)))({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_sessions_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(visitors_module, "_MAX_SESSIONS", 5)
    visitors = Visitors(tmp_path)
    assert all(visitors.claim_session("eve", str(number)) for number in range(50))
    assert len(visitors._session_owners) == 5
