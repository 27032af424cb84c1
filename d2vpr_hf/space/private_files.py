"""ASGI middleware between visitors and Gradio: it gives each visitor a cookie, notes his uploads, and lets nobody else at them.

- What is fetched from the upload folder must be the visitor's own.
- What a request names as a file must be an upload that is the visitor's own, or one of the files that are public.
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
_MAX_BODY = 40_000_000  # bytes of a request for work: agents may send a photo in it, as text
_YEAR = 31_536_000  # seconds


class PrivateFiles:
    """See the module.

    Args:
        app: What comes behind it.
        visitors: Who uploaded what.
        public: Files that everybody may name, such as examples.
    """

    def __init__(self, app: App, visitors: Visitors, public: frozenset[Path] = frozenset()) -> None:
        self.app, self.visitors, self.public = app, visitors, public

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _AGENT.search(scope["path"]):
            scope = _without_cookies(scope)
        visitor = visitor_of(scope)
        fetched = _FILE.search(scope["path"])
        if fetched and not self._may_fetch(visitor, fetched["file"]):
            await _refuse(send, 403, "This file belongs to another visitor, or is gone.")
            return
        if scope["method"] == "POST" and _WORK.search(scope["path"]):
            body = await _read_body(receive)
            if body is None:
                await _refuse(send, 413, "The request is too long.")
                return
            if not all(self._may_use(visitor, file) for file in _named_files(body)):
                await _refuse(send, 403, "The request names a file that you did not upload here.")
                return
            receive = _replay(body, receive)
        if scope["method"] == "POST" and scope["path"].endswith("/upload"):
            send = self._noting(visitor, send)
        await self.app(scope, receive, send if visitor else _with_cookie(scope, send))

    def _may_fetch(self, visitor: str | None, file: str) -> bool:
        return not self.visitors.holds(file) or self.visitors.may_fetch(visitor, file)

    def _may_use(self, visitor: str | None, file: str) -> bool:
        if file.startswith(("http://", "https://")) and not self.visitors.holds(file):
            return True  # Gradio fetches those, from public addresses only
        return self.visitors.may_use(visitor, file) or Path(file).resolve() in self.public

    def _noting(self, visitor: str | None, send: Send) -> Send:
        """Note the files that an upload is answered with, before the visitor learns their names."""
        parts: list[bytes] = []

        async def note(message: Message) -> None:
            if message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    for file in _uploaded_files(b"".join(parts)):
                        self.visitors.add_file(visitor, file)
            await send(message)

        return note


def visitor_of(scope: MutableMapping[str, Any]) -> str | None:
    """Read the visitor's name from the cookie of a request; `None` if there is none."""
    header = next((value for name, value in scope["headers"] if name == b"cookie"), b"")
    try:
        found = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except Exception:  # a cookie that cannot be read is none
        return None
    return found.value if found is not None and found.value else None


def _without_cookies(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Forget who an agent is: Gradio works for all agents as one client, with a cookie of its own that theirs would replace."""
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"cookie"]}


def _with_cookie(scope: MutableMapping[str, Any], send: Send) -> Send:
    """Give a visitor a name with the answer to his first request.

    Spaces are shown in a frame of another site: there a cookie is kept only if it is secure and partitioned.
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
    """Read a request's body, `None` if it is too long."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > _MAX_BODY:
            return None
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give a body once more, then whatever comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _named_files(body: bytes) -> Iterator[str]:
    """Find the files that a request names, however deep."""
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
    """Read the answer to an upload: a list of files; anything else is an error's text."""
    try:
        found = json.loads(body)
    except ValueError:
        return []
    return [file for file in found if isinstance(file, str)] if isinstance(found, list) else []


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
