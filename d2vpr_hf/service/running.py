"""Run the service by uvicorn: until a signal comes, and then until every accepted request has its answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from d2vpr_hf.service.photo_service import PhotoService

_BACKLOG = 2048
_GRACE = 1.0  # seconds in which a connection that was accepted may still send its request
_EXTRA = 5  # seconds for answers beyond the time of a request


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; with the port 0, on a free one.

    Raises:
        OSError: If the address is not one of this machine, or another program uses the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # socket adds the address
        raise OSError(
            f"The service cannot listen at {host}, port {port}: {reason}. Give another `port=...`, or a `host=...` that is an "
            "address of this machine."
        ) from error


def run(app: Any, service: PhotoService, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; then answer all accepted requests. A second SIGINT ends at once.

    Args:
        app: The application.
        service: Its service, which is closed at the end.
        listener: The socket.
        announce: Called when the service is ready.
    """
    server = Server(app, service, announce)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when all is done
            asyncio.run(server.serve([listener]))
    finally:
        service.close()


class Server(uvicorn.Server):
    """A server that loses no accepted request when it ends.

    uvicorn closes idle connections at once, and a request may be on its way there. Here they stay open for a moment, and each
    answer in this time closes its connection.

    Args:
        app: The application.
        service: Its service.
        announce: Called when the service is ready.
    """

    def __init__(self, app: Any, service: PhotoService, announce: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=int(service.limits.seconds) + _EXTRA,
        )
        super().__init__(config)
        self._service, self._announce = service, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, wait for requests on their way, and answer all of them."""
        self._service.draining = True
        for listener in sockets or ():
            await self._accept_waiting(listener)
        for server in self.servers:
            server.close()
        until = time.monotonic() + _GRACE
        while time.monotonic() < until and any(_is_idle(connection) for connection in self.server_state.connections):
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    async def _accept_waiting(self, listener: socket.socket) -> None:
        """Accept the connections that the system has accepted already; closing the socket would break them off."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]


def _is_idle(connection: Any) -> bool:
    """Return whether a connection may send a request: its first one, or the next one after an answer."""
    cycle = getattr(connection, "cycle", None)
    return cycle is None or cycle.response_complete
