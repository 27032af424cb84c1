"""The routes of the Space: requests for any other route are refused before Gradio sees them.

A path is compared as the server decoded it, whole and character by character. Spellings with an encoded, doubled or dotted
part, another case or a line feed are therefore other paths, and refused. The tests compare this list with the routes that the
installed Gradio registers: a new route must be put on this list or on that of refused routes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# Kind of a route, which decides how a request is checked:
#   page     read-only files and descriptions of the page, the same for each visitor
#   file     download of a file
#   upload   upload of files
#   progress progress of an upload
#   work     call of a function, as JSON
#   answers  stream of the answers and messages of one session
#   agent    messages of the MCP server
Kind = Literal["page", "file", "upload", "progress", "work", "answers", "agent"]

ENDPOINTS = ("localize", "search", "explain")  # the functions that programs call
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # a part of a path that cannot be `.` or `..`
_SESSION = r"[A-Za-z0-9_-]{1,64}"
_SESSION_PATTERN = re.compile(_SESSION)
_JSON_BYTES = 1_000_000  # bytes of a request that names 300 uploads are fewer than 200,000
_AGENT_BYTES = 40_000_000  # agents may send a photo in a request, as text


@dataclass(frozen=True)
class Route:
    """A route of the Space.

    Attributes:
        kind: How its requests are checked.
        methods: HTTP methods.
        pattern: Regular expression of its whole path.
        max_body: Most bytes of the JSON of a request.
    """

    kind: Kind
    methods: tuple[str, ...]
    pattern: str
    max_body: int = 0


ROUTES = (
    Route("page", ("GET", "HEAD"), r"/"),
    Route("page", ("GET",), r"/(?:config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"),
    Route("page", ("GET",), rf"/(?:assets|static)(?:/{_NAME})+"),
    Route("page", ("GET",), r"/gradio_api/(?:info|startup-events)"),
    Route("file", ("GET", "HEAD"), r"/gradio_api/file=(?P<file>(?:/|[A-Za-z]:[/\\])[^\x00-\x1f\x7f]+)"),
    Route("upload", ("POST",), r"/gradio_api/upload"),
    Route("progress", ("GET",), r"/gradio_api/upload_progress"),
    Route("work", ("POST",), r"/gradio_api/queue/join", _JSON_BYTES),
    Route("work", ("POST",), rf"/gradio_api/call/(?:{'|'.join(ENDPOINTS)})", _JSON_BYTES),
    Route("answers", ("GET",), r"/gradio_api/queue/data"),
    Route("answers", ("GET",), rf"/gradio_api/heartbeat/(?P<session>{_SESSION})"),
    Route("answers", ("GET",), rf"/gradio_api/call/(?:{'|'.join(ENDPOINTS)})/(?P<event>[0-9a-f]{{32}})"),
    Route("agent", ("GET", "POST", "DELETE"), r"/gradio_api/mcp/?", _AGENT_BYTES),
    Route("page", ("GET",), r"/gradio_api/mcp/schema"),
)


def find_route(method: str, path: str) -> tuple[Route, Mapping[str, str | None]] | None:
    """Return the route of a request and the named parts of its path; `None` if the request must be refused."""
    for route in ROUTES:
        if method in route.methods and (match := re.fullmatch(route.pattern, path, re.ASCII)):
            return route, match.groupdict()
    return None


def is_session(name: object) -> bool:
    """Return whether a value has the form of a session's name."""
    return isinstance(name, str) and _SESSION_PATTERN.fullmatch(name) is not None
