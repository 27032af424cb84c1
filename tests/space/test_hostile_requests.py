"""Hostile requests to the running Space: what was refused in front of Gradio must be refused by the whole server too."""

import http.client
import json
import urllib.parse
import zipfile

import pytest

from d2vpr_hf.space.visitors import COOKIE
from tests.photos import draw, gps_exif, jpeg
from tests.space.test_app import upload
from tests.space.test_events import OPTIONS, Page


def send(space, method, path, body=None, cookie="eve", **headers):
    """Send a request with exactly this path; return the status, the headers and the body of the answer."""
    address = urllib.parse.urlsplit(space.url)
    line = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    line.putrequest(method, path, skip_host="Host" in headers)
    content = b"" if body is None else json.dumps(body).encode()
    for name, value in ({"Cookie": f"{COOKIE}={cookie}", "Content-Type": "application/json"} | headers).items():
        line.putheader(name, value)
    line.putheader("Content-Length", str(len(content)))
    line.endheaders(content)
    answer = line.getresponse()
    return answer.status, answer.headers, answer.read()


def named(file):
    return {"path": str(file), "meta": {"_type": "gradio.FileData"}}


def test_another_visitors_upload_is_not_used_by_any_spelling(space):
    """POST /gradio_api/run/%0Ax was not looked at, and Gradio took the function from the body."""
    file = upload(space, space.queries[0].read_bytes(), "victim")
    for path in (
        "/gradio_api/run/x", "/gradio_api/run/%0Ax", "/gradio_api/run/%0D%0Ax", "/gradio_api/api/%0Ax",
        "/gradio_api/call/%0Alocate", "/gradio_api/queue/join%0A", "/gradio_api/queue%2Fjoin", "/gradio_api//queue/join",
        "/gradio_api/x/../queue/join",
        "/gradio_api/%71ueue/join", "/GRADIO_API/queue/join", "/gradio_api/call/v2/search", "/gradio_api/call/search",
        "/gradio_api/queue/join", "/gradio_api/component_server", "/gradio_api/stream/abc",
    ):  # fmt: skip
        body = {"fn_index": 0, "data": [named(file), *OPTIONS], "session_hash": "attack"}
        status, _, answer = send(space, "POST", path, body, **{"X-Forwarded-Host": "x"})
        assert status in (403, 404), path
        assert b"46." not in answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/run-history/buckets"),
        ("POST", "/gradio_api/run-history/connect"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/gradio_api/deep_link?session_hash=a"),
        ("GET", "/gradio_api/file=http://example.org/x.png"),
        ("GET", "/gradio_api/proxy=https://a.hf.space/x"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/pwa_icon"),
        ("GET", "/openapi.json"),
        ("GET", "/gradio_api/mcp/sse"),
        ("POST", "/login"),
        ("POST", "/gradio_api/cancel"),
    ],
)
def test_features_that_the_page_does_not_use_are_off(space, method, path):
    assert send(space, method, path, {} if method == "POST" else None)[0] == 404


def test_the_page_states_that_features_are_off(space):
    config = json.loads(send(space, "GET", "/config")[2])
    assert config["run_history"] is False and config["pwa"] is False and config["mcp_server"] is True
    assert config["footer_links"] == ["api"]
    assert all(dependency["queue"] is not False for dependency in config["dependencies"] if dependency["backend_fn"])


def test_other_hosts_and_pages_are_refused(space):
    assert send(space, "GET", "/config", Host="evil.org")[0] == 421
    for method in ("GET", "OPTIONS"):
        preflight = {"Origin": "http://evil.org", "Access-Control-Request-Method": "POST"}
        status, headers, _ = send(space, method, "/config", **preflight)
        assert status == 403 and not [name for name in headers if name.lower().startswith("access-control")]
    _, headers, _ = send(space, "GET", "/")
    assert "frame-ancestors 'self'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"


def test_a_session_is_not_used_by_others(space, tmp_path):
    """A stranger who knows the name of a session could see its photo, and search or delete its own map."""
    page = Page(space)
    draw(50).save(tmp_path / "a.jpg", exif=gps_exif(46.1, 11.0))
    file = upload(space, (tmp_path / "a.jpg").read_bytes(), "carol")
    assert "1 photo is in your map" in page.send("build", [named(file)])[0]
    for event, data in (("search_own", [named(file)]), ("explain_rank", [None, 1]), ("leave", [])):
        body = {"fn_index": page.events[event], "data": data, "session_hash": page.session}
        assert send(space, "POST", "/gradio_api/queue/join", body)[0] == 403
    assert send(space, "GET", f"/gradio_api/heartbeat/{page.session}")[0] == 403
    assert "46.10000, 11.00000" in page.send("search_own", named(file))[0]
    page.send("leave")


def test_names_in_errors_are_escaped_and_without_folders(space, tmp_path):
    page = Page(space)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("<img src=x onerror=alert(1)>/../../evil.jpg", jpeg())
    body = (tmp_path / "a.zip").read_bytes()
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n' + body + b"\r\n--x--\r\n"
    address = urllib.parse.urlsplit(space.url)
    line = http.client.HTTPConnection(address.hostname, address.port, timeout=120)
    line.request(
        "POST", "/gradio_api/upload", form, {"Content-Type": "multipart/form-data; boundary=x", "Cookie": f"{COOKIE}=carol"}
    )
    (file,) = json.loads(line.getresponse().read())
    error = page.send("build", [named(file)])
    assert "has a path out of its folder" in error and "&lt;img" in error and "<img" not in error
    assert str(space.folder) not in error


def test_requests_leave_no_files(space):
    """Each request of a program left an empty file, which stayed until the Space was stopped."""
    file = upload(space, space.queries[0].read_bytes(), "eve")
    before = set(space.visitors_files())
    status, _, answer = send(space, "POST", "/gradio_api/call/search", {"data": [named(file), 3]})
    event = json.loads(answer)["event_id"]
    assert status == 200 and b"event: complete" in send(space, "GET", f"/gradio_api/call/search/{event}")[2]
    assert set(space.visitors_files()) <= before  # clients of other tests may have left meanwhile
    assert "Traceback" not in space.log
