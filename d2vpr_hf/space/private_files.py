"""ASGI middleware in front of Gradio: it gives each visitor a cookie, records uploads, and keeps other visitors from them.

- Only the owner of a file can download it from the upload folder.
- A file that a request names must be an upload of the visitor, or one of the public files.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

from d2vpr_hf.space.visitors import COOKIE, Visitors

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_FILE = re.compile(r"/file[=/](?P<file>.+)$")
_WORK = re.compile(r"/(queue/join|call/.+|run/.+|api/.+|predict/?|mcp/?.*)$")
_AGENT = re.compile(r"/mcp/?.*$")
_MAX_BODY = 40_000_000  # bytes of a request: agents may send a photo in it, as text
_YEAR = 31_536_000  # seconds


class PrivateFiles:
    """The middleware.

    Args:
        app: The application behind it.
        visitors: The owners of uploads.
        public: Files that all visitors may use, such as examples.
    """

    def __init__(self, app: App, visitors: Visitors, public: frozenset[Path] = frozenset()) -> None:
        self.app = app
        self.visitors = visitors
        self.public = public

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _AGENT.search(scope["path"]):
            # Gradio serves all agents through one client with a cookie of its own, which an agent's cookie would replace
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"cookie"]}
        visitor = visitor_of(scope)
        download = _FILE.search(scope["path"])
        if download and self.visitors.holds(download["file"]) and not self.visitors.may_fetch(visitor, download["file"]):
            await _refuse(send, 403, "This file belongs to another visitor, or was deleted.")
            return
        if scope["method"] == "POST" and _WORK.search(scope["path"]):
            body = await _read_body(receive)
            if body is None:
                await _refuse(send, 413, f"The request is larger than {_MAX_BODY // 1_000_000} MB.")
                return
            if not all(self._may_use(visitor, file) for file in _named_files(body)):
                await _refuse(send, 403, "The request names a file that you did not upload here.")
                return
            receive = _replay(body, receive)
        if scope["method"] == "POST" and scope["path"].endswith("/upload"):
            send = self._record_uploads(visitor, send)
        await self.app(scope, receive, send if visitor else _with_cookie(scope, send))

    def _may_use(self, visitor: str | None, file: str) -> bool:
        if file.startswith(("http://", "https://")) and not self.visitors.holds(file):
            return True  # Gradio downloads it, from public addresses only
        return self.visitors.may_use(visitor, file) or Path(file).resolve() in self.public

    def _record_uploads(self, visitor: str | None, send: Send) -> Send:
        """Return a `send` that records the files in the response to an upload, before the visitor gets their names."""
        parts: list[bytes] = []

        async def record(message: Message) -> None:
            if message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    for file in _uploaded_files(b"".join(parts)):
                        self.visitors.add_file(visitor, file)
            await send(message)

        return record


def visitor_of(scope: MutableMapping[str, Any]) -> str | None:
    """Return the visitor's name from the cookie of a request; `None` without a valid cookie."""
    header = next((value for name, value in scope["headers"] if name == b"cookie"), b"")
    try:
        cookie = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except Exception:  # a malformed cookie counts as no cookie
        return None
    return cookie.value if cookie is not None and cookie.value else None


def _with_cookie(scope: MutableMapping[str, Any], send: Send) -> Send:
    """Return a `send` that sets a new visitor's cookie in the response.

    The Hub shows Spaces in a frame of another site, where browsers keep only secure and partitioned cookies.
    """
    proto = next((value for name, value in scope["headers"] if name == b"x-forwarded-proto"), scope["scheme"].encode())
    site = "SameSite=None; Secure; Partitioned" if proto.startswith(b"https") else "SameSite=Lax"
    cookie = f"{COOKIE}={Visitors.new_name()}; Path=/; Max-Age={_YEAR}; HttpOnly; {site}"

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie.encode())]
        await send(message)

    return add


async def _read_body(receive: Receive) -> bytes | None:
    """Read a request's body; return `None` if it is too long."""
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > _MAX_BODY:
            return None
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns a body that was read already, then the messages after it."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


def _named_files(body: bytes) -> Iterator[str]:
    """Yield the files that a request names, at any depth of its JSON."""
    try:
        values = [json.loads(body)]
    except ValueError:
        return  # Gradio refuses it
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if isinstance(value.get("path"), str):
                yield value["path"]
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)


def _uploaded_files(body: bytes) -> list[str]:
    """Return the files in the response to an upload; a response that is not a list is an error."""
    try:
        files = json.loads(body)
    except ValueError:
        return []
    return [file for file in files if isinstance(file, str)] if isinstance(files, list) else []


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
