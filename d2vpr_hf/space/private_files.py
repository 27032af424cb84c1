"""ASGI middleware in front of Gradio: it serves the routes of the Space, refuses all others, and keeps visitors apart.

- Only routes of `routes.py` are served, to browsers that address the Space by its own name, from its own pages.
- Each visitor gets a cookie. A session belongs to the first visitor who used its name, a file to its uploader.
- A file that a request names must be an upload of the visitor, or one of the public files. Gradio gets the JSON that was
  checked, written again, and not the bytes that the visitor sent.
- Downloads and uploads are served here and never reach Gradio, which would also fetch pages of other hosts.
"""

import asyncio
import contextlib
import json
import mimetypes
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from d2vpr_hf.space.routes import Route, find_route, is_session
from d2vpr_hf.space.upload_requests import Receiver, RefusedError
from d2vpr_hf.space.visitors import COOKIE, Visitors
from d2vpr_hf.web.hosts import is_allowed_host, is_own_origin

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Response = Callable[[Scope, Receive, Send], Awaitable[None]]

_ALLOW_NAMES = "The Space's operator can allow names in D2VPR_HOSTS."
_MEGA = 1_000_000
_BODY_SECONDS = 60  # in which the JSON of a request must arrive
_DROPPED_BYTES = 1_000_000_000  # of a refused request
_AGENTS = 4  # requests of agents that are read at the same time, as each may take 40 MB
_MAX_OF_AGENT = 4  # requests of agents at one network address that are answered at the same time
_MAX_OF_AGENTS = 24  # requests of all agents; below `_MAX_WAITING`, because Gradio asks for all of them as one visitor
_MAX_WAITING = 40  # requests of a visitor in the queue
_YEAR = 31_536_000  # seconds
_SHOWN_TYPES = ("image/jpeg", "image/png", "image/webp")  # files that browsers show; others are saved
_FORWARDING = (b"x-gradio-server", b"x-forwarded-server", b"forwarded")  # Gradio makes addresses of such headers
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class PrivateFiles:
    """The middleware.

    Args:
        app: The application behind it.
        visitors: The owners of uploads.
        public: Files that all visitors may use, such as examples.
        hosts: Names by which browsers may address the Space.
        functions: Numbers of Gradio's functions that the page calls; `None` for all.
        waiting: Returns the number of a visitor's requests in the queue.
        policy: Value of the header Content-Security-Policy.
        behind_proxy: Whether all requests come through a proxy that states the visitor's address, as on the Hub.
    """

    def __init__(
        self,
        app: App,
        visitors: Visitors,
        public: frozenset[Path] = frozenset(),
        hosts: frozenset[str] = frozenset({"localhost"}),
        functions: frozenset[int] | None = None,
        waiting: Callable[[str], int] = lambda visitor: 0,
        policy: str = "default-src 'self'",
        *,
        behind_proxy: bool = False,
    ) -> None:
        self.app = app
        self.visitors = visitors
        self.public = public
        self.hosts = hosts
        self.functions = functions
        self.waiting = waiting
        self.receiver = Receiver(visitors.folder)
        self.behind_proxy = behind_proxy
        self._headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
        self._headers.append((b"content-security-policy", policy.encode()))
        self._agents = asyncio.Semaphore(_AGENTS)
        self._agent_requests: Counter[str] = Counter()  # that are being answered, by network address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # Gradio's page uses no WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send, self._headers)
        body = _Body(receive)
        try:
            await self._serve(scope, body.receive, send)
        except RefusedError as refusal:
            await body.drop()
            await _refuse(send, refusal.status, str(refusal))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_origin(scope)
        match = find_route(scope["method"], _path_of(scope))
        if match is None:
            raise RefusedError(404, "There is no such page.")
        route, parts = match
        scope = {**scope, "headers": [pair for pair in scope["headers"] if self._may_forward(*pair)]}
        if route.kind == "agent":
            # Gradio serves all agents through one client with a cookie of its own, which an agent's cookie would replace
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
        visitor = visitor_of(scope)
        if visitor is None:
            send = _with_cookie(scope, send)
        if route.kind == "file":
            await self._file(visitor, Path(str(parts["file"])))(scope, receive, send)
        elif route.kind == "upload":
            await (await self._upload(scope, receive, visitor))(scope, receive, send)
        elif route.kind == "progress":
            await self._progress(scope, visitor)(scope, receive, send)
        elif route.kind == "answers":
            self._check_session(visitor, parts.get("session") or parts.get("event") or _query(scope).get("session_hash"))
            await self.app(scope, receive, send)
        elif route.max_body and scope["method"] == "POST":
            await self._work(scope, receive, send, route, visitor)
        else:
            await self.app(scope, receive, send)

    def _check_origin(self, scope: Scope) -> None:
        """Refuse requests that address the Space by a name that is not its own, or that a page of another host sends."""
        host = _header(scope, b"host")
        if not is_allowed_host(host, self.hosts):
            raise RefusedError(421, f"The Space does not answer under this name. {_ALLOW_NAMES}")
        origin = _header(scope, b"origin")
        if origin and not is_own_origin(origin, host, self.hosts):
            raise RefusedError(403, f"A page of another host sent this request. {_ALLOW_NAMES}")

    def _may_forward(self, name: bytes, value: bytes) -> bool:
        """Return whether Gradio may see a header: of those with names of hosts, it may see an allowed name only."""
        if name == b"x-forwarded-host":
            return is_allowed_host(value.partition(b",")[0].strip().decode("latin-1"), self.hosts)
        return name not in _FORWARDING

    def _check_session(self, visitor: str | None, session: object) -> None:
        """Refuse a session of another visitor."""
        if not is_session(session):
            raise RefusedError(400, "The name of the session is not valid.")
        if not self.visitors.claim_session(visitor, str(session)):
            raise RefusedError(403, "This session belongs to another visitor.")

    def _file(self, visitor: str | None, file: Path) -> Response:
        from starlette.responses import FileResponse  # comes with Gradio

        path = file.resolve()
        if not self.visitors.may_fetch(visitor, path) and path not in self.public:
            raise RefusedError(403, "This file belongs to another visitor, or was deleted.")
        if not path.is_file():
            raise RefusedError(404, "This file was deleted.")
        kind = mimetypes.guess_type(path.name)[0]
        shown = kind in _SHOWN_TYPES
        return FileResponse(
            path,
            media_type=kind if shown else "application/octet-stream",
            filename=path.name,
            content_disposition_type="inline" if shown else "attachment",
            headers={"cache-control": "private, max-age=3600"},
        )

    async def _upload(self, scope: Scope, receive: Receive, visitor: str | None) -> Response:
        from starlette.responses import JSONResponse

        content_type = _header(scope, b"content-type")
        name = _query(scope).get("upload_id")
        address = self._address(scope)
        files = await self.receiver.receive(content_type, _chunks(receive), visitor or address, address, name)
        for file in files:
            self.visitors.add_file(visitor, file)
        return JSONResponse([str(file) for file in files])

    def _progress(self, scope: Scope, visitor: str | None) -> Response:
        from starlette.responses import StreamingResponse

        messages = self.receiver.progress(visitor or self._address(scope), _query(scope).get("upload_id", ""))
        lines = (f"data: {json.dumps(message)}\n\n" async for message in messages)
        return StreamingResponse(lines, media_type="text/event-stream")

    async def _work(self, scope: Scope, receive: Receive, send: Send, route: Route, visitor: str | None) -> None:
        """Check the JSON of a request and pass it on."""
        if route.kind == "agent":
            with self._agent_request(self._address(scope)):
                async with self._agents:
                    values = await _read_json(receive, route.max_body)
                await self._pass_on(scope, receive, send, values, visitor)
        else:
            values = await _read_json(receive, route.max_body)
            self._check_call(scope, values, visitor)
            await self._pass_on(scope, receive, send, values, visitor)

    @contextlib.contextmanager
    def _agent_request(self, address: str) -> Iterator[None]:
        """Count a request of an agent while it is answered, and refuse one too many of its address or of all agents."""
        if self._agent_requests[address] >= _MAX_OF_AGENT:
            raise RefusedError(
                429, f"{_MAX_OF_AGENT} requests of your address are being answered. Wait for their answers first."
            )
        if self._agent_requests.total() >= _MAX_OF_AGENTS:
            raise RefusedError(429, f"{_MAX_OF_AGENTS} requests of agents are being answered. Try again later.")
        self._agent_requests[address] += 1
        try:
            yield
        finally:
            self._agent_requests[address] -= 1
            self._agent_requests += Counter()  # addresses without requests are forgotten

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, values: Any, visitor: str | None) -> None:
        """Pass a request on, if the visitor may use all files that it names."""
        if not all(self._may_use(visitor, file) for file in _named_files(values)):
            raise RefusedError(403, "The request names a file that you did not upload here.")
        body = _write_json(values)
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"content-type")]
        headers += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        await self.app({**scope, "headers": headers}, _replay(body, receive), send)

    def _check_call(self, scope: Scope, values: Any, visitor: str | None) -> None:
        """Refuse the call of a function that the page does not have, in a session of another visitor, or one call too many."""
        if not isinstance(values, dict):
            raise RefusedError(400, "The request is not a JSON object.")
        session, function = values.get("session_hash"), values.get("fn_index")
        if session is not None or function is not None:
            self._check_session(visitor, session)
        if self.functions is not None and function is not None and function not in [*self.functions]:
            raise RefusedError(404, "There is no such function.")
        if values.get("batched") or values.get("oauth_token") is not None or values.get("simple_format"):
            raise RefusedError(400, "The request has a field that the page does not use.")
        if self.waiting(visitor or self._address(scope)) >= _MAX_WAITING:
            raise RefusedError(429, f"{_MAX_WAITING} of your requests are waiting. Wait for their answers first.")

    def _may_use(self, visitor: str | None, file: str) -> bool:
        if "\0" in file:
            return False
        if file.startswith(("http://", "https://")) and not self.visitors.holds(file):
            return True  # it is downloaded within limits, from public addresses only
        return self.visitors.may_use(visitor, file) or Path(file).resolve() in self.public

    def _address(self, scope: Scope) -> str:
        return address_of(scope, behind_proxy=self.behind_proxy)


class _Body:
    """The body of a request, of which the rest can be dropped: browsers show an answer only after they sent all of it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_more = True

    async def receive(self) -> Message:
        """Return the next message of the request."""
        message = await self._receive()
        self._has_more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drop(self) -> None:
        """Read the rest and forget it, within limits."""
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BODY_SECONDS):
                while self._has_more and size < _DROPPED_BYTES:
                    size += len((await self.receive()).get("body", b""))


def visitor_of(scope: Mapping[str, Any]) -> str | None:
    """Return the visitor's name from the cookie of a request; `None` without a valid cookie."""
    try:
        cookie = SimpleCookie(_header(scope, b"cookie")).get(COOKIE)
    except Exception:  # a malformed cookie counts as no cookie
        return None
    return cookie.value if cookie is not None and cookie.value else None


def address_of(scope: Mapping[str, Any], *, behind_proxy: bool) -> str:
    """Return the network address of a request; behind a proxy, the one that the proxy states."""
    forwarded = _header(scope, b"x-forwarded-for")
    if behind_proxy and forwarded:
        return forwarded.rpartition(",")[2].strip()
    return str((scope.get("client") or ("",))[0])


def _path_of(scope: Scope) -> str:
    """Return the path below the root of the application, as its router takes it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    """Return the value of a header; an empty text if it is missing or stated twice."""
    values = [value for header, value in scope["headers"] if header == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _query(scope: Scope) -> dict[str, str]:
    """Return the parameters of the query; one that is stated twice is refused."""
    pairs = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    values = dict(pairs)
    if len(values) < len(pairs):
        raise RefusedError(400, "A parameter is stated twice.")
    return values


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    """Return a `send` that adds headers to a response which lacks them, and removes those that open it to other hosts."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            pairs = [pair for pair in message.get("headers", ()) if not pair[0].lower().startswith(b"access-control-")]
            names = {name.lower() for name, _ in pairs}
            message["headers"] = pairs + [pair for pair in headers if pair[0] not in names]
        await send(message)

    return add


def _with_cookie(scope: Scope, send: Send) -> Send:
    """Return a `send` that sets a new visitor's cookie in the response.

    The Hub shows Spaces in a frame of another site, where browsers keep only secure and partitioned cookies.
    """
    proto = _header(scope, b"x-forwarded-proto") or scope["scheme"]
    site = "SameSite=None; Secure; Partitioned" if proto.startswith("https") else "SameSite=Lax"
    cookie = f"{COOKIE}={Visitors.new_name()}; Path=/; Max-Age={_YEAR}; HttpOnly; {site}"

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie.encode())]
        await send(message)

    return add


async def _read_json(receive: Receive, max_bytes: int) -> Any:
    """Read the JSON of a request."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in _chunks(receive):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise RefusedError(413, f"The request is larger than {max_bytes // _MEGA} MB.")
    except TimeoutError:
        raise RefusedError(408, "The request took too long to arrive.") from None
    try:
        return json.loads(b"".join(parts), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The request is not JSON.") from None


def _write_json(values: Any) -> bytes:
    try:
        return json.dumps(values, separators=(",", ":")).encode()
    except RecursionError:
        raise RefusedError(400, "The request is nested too deeply.") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body of a request; it is refused if the visitor breaks it off."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedError(400, "The request was broken off.")
        more = message.get("more_body", False)
        yield message.get("body", b"")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns a body, then the messages after it."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


def _named_files(values: Any) -> Iterator[str]:
    """Yield the files that a request names, at any depth of its JSON."""
    pending = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get("path"), str):
                yield value["path"]
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
