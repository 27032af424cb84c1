"""Every route that the installed Gradio registers is on the list of the Space's routes, or on the list of refused routes."""

import gradio as gr
import pytest
from gradio.routes import App

from d2vpr_hf.space.routes import find_route

SERVED = {  # with a path as the page asks for it
    "/": "/",
    "/config": "/config",
    "/theme.css": "/theme.css",
    "/favicon.ico": "/favicon.ico",
    "/manifest.json": "/manifest.json",
    "/robots.txt": "/robots.txt",
    "/assets/{path:path}": "/assets/index-DphvyggB.js",
    "/static/{path:path}": "/static/js/iframeResizer.contentWindow.min.js",
    "/gradio_api/info": "/gradio_api/info",
    "/gradio_api/startup-events": "/gradio_api/startup-events",
    "/gradio_api/file={path_or_url:path}": "/gradio_api/file=/tmp/a.jpg",
    "/gradio_api/upload": "/gradio_api/upload",
    "/gradio_api/upload_progress": "/gradio_api/upload_progress",
    "/gradio_api/queue/join": "/gradio_api/queue/join",
    "/gradio_api/queue/data": "/gradio_api/queue/data",
    "/gradio_api/call/{api_name}": "/gradio_api/call/localize",
    "/gradio_api/call/{api_name}/{event_id}": f"/gradio_api/call/localize/{'a' * 32}",
    "/gradio_api/heartbeat/{session_hash}": "/gradio_api/heartbeat/abc",
    "/gradio_api/mcp": "/gradio_api/mcp/",
}
REFUSED = {  # with a path that Gradio would serve
    "/gradio_api/app_id": "/gradio_api/app_id",
    "/gradio_api/api/{api_name}": "/gradio_api/api/predict",
    "/gradio_api/call/v2/{api_name}": "/gradio_api/call/v2/localize",
    "/gradio_api/call/v2/{api_name}/{event_id}": f"/gradio_api/call/v2/localize/{'a' * 32}",
    "/gradio_api/cancel": "/gradio_api/cancel",
    "/gradio_api/component_server": "/gradio_api/component_server",
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}": "/gradio_api/custom_component/a/client/b/c.js",
    "/gradio_api/deep_link": "/gradio_api/deep_link",
    "/gradio_api/dev/reload": "/gradio_api/dev/reload",
    "/gradio_api/file/{path:path}": "/gradio_api/file/tmp/a.jpg",
    "/gradio_api/login_check": "/gradio_api/login_check",
    "/gradio_api/openapi.json": "/gradio_api/openapi.json",
    "/gradio_api/process_recording": "/gradio_api/process_recording",
    "/gradio_api/proxy={url_path:path}": "/gradio_api/proxy=https://a.hf.space/x",
    "/gradio_api/queue/status": "/gradio_api/queue/status",
    "/gradio_api/reset": "/gradio_api/reset",
    "/gradio_api/run/{api_name}": "/gradio_api/run/predict",
    "/gradio_api/run-history/buckets": "/gradio_api/run-history/buckets",
    "/gradio_api/run-history/connect": "/gradio_api/run-history/connect",
    "/gradio_api/run-history/records": "/gradio_api/run-history/records",
    "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}": "/gradio_api/run-history/records/a/b/assets/c",
    "/gradio_api/runs": "/gradio_api/runs",
    "/gradio_api/stream/{event_id}": "/gradio_api/stream/abc",
    "/gradio_api/stream/{event_id}/close": "/gradio_api/stream/abc/close",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8": "/gradio_api/stream/a/1/2/playlist.m3u8",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file": "/gradio_api/stream/a/1/2/playlist-file",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}": "/gradio_api/stream/a/1/2/3.ts",
    "/gradio_api/theme.css": "/gradio_api/theme.css",
    "/gradio_api/token": "/gradio_api/token",
    "/gradio_api/undo-vibe-edit": "/gradio_api/undo-vibe-edit",
    "/gradio_api/user": "/gradio_api/user",
    "/gradio_api/vibe-code": "/gradio_api/vibe-code",
    "/gradio_api/vibe-edit": "/gradio_api/vibe-edit",
    "/gradio_api/vibe-starter-queries": "/gradio_api/vibe-starter-queries",
    "/login": "/login",
    "/logout": "/logout",
    "/monitoring": "/monitoring",
    "/monitoring/summary": "/monitoring/summary",
    "/monitoring/{key}": "/monitoring/abc",
    "/openapi.json": "/openapi.json",
    "/pwa_icon": "/pwa_icon",
    "/pwa_icon/{size}": "/pwa_icon/64",
    "/svelte/{path:path}": "/svelte/svelte.js",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.fixture(scope="module")
def registered():
    """Return the methods of Gradio's routes by their paths; a slash at the end makes no other route."""
    with gr.Blocks() as page:
        gr.HTML("")
    app = App.create_app(page, mcp_server=True)  # with the run history on, Gradio's default
    routes = {}
    for route in _flatten(app.routes):
        path = route.path.rstrip("/") or "/"
        routes.setdefault(path, set()).update(getattr(route, "methods", None) or METHODS)
    return routes


def _flatten(routes):
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None)
        yield from [route] if inner is None else _flatten(inner)


def test_no_route_is_forgotten(registered):
    """A new version of Gradio may have new routes: each must be put on one of the lists, after a look at its source."""
    unlisted = set(registered) - set(SERVED) - set(REFUSED)
    assert not unlisted, f"Put these routes of Gradio on a list: {sorted(unlisted)}"
    assert len(registered) > 40  # all routes were seen


def test_only_listed_routes_are_served(registered):
    for path, methods in registered.items():
        example = {**SERVED, **REFUSED}[path]
        served = {method for method in METHODS if find_route(method, example)}
        if path in REFUSED:
            assert served == set(), path
        else:
            assert served and served <= methods | {"HEAD"}, path


def test_other_parts_of_the_agents_server_are_refused():
    for path in (
        "/gradio_api/mcp/sse",
        "/gradio_api/mcp/messages/",
        "/gradio_api/mcp/http",
        "/gradio_api/mcp/x",
        "/gradio_api/mcpx",
    ):
        assert not [method for method in METHODS if find_route(method, path)]
    assert find_route("GET", "/gradio_api/mcp/schema")


@pytest.mark.parametrize(
    "path",
    ["/assets/../config", "/assets/.env", "/assets//x", "/assets/x\n", "/static/a/../../x", "/assets/%2e%2e/x", "/assets/ä.js"],
)
def test_paths_of_assets_are_plain(path):
    assert find_route("GET", path) is None
