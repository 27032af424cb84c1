"""The command that serves an index over HTTP."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from d2vpr_hf.cli.options import EncoderOptions, IndexArgument, ModelOption, is_on_hub, open_index, parse_path
from d2vpr_hf.cli.terminal import notice

if TYPE_CHECKING:
    from d2vpr_hf.service.api_keys import ApiKeys
    from d2vpr_hf.service.limits import ServiceLimits

_MEGA = 1_000_000


@dataclass
class LimitOptions:
    """Limits of requests."""

    max_photos: Annotated[int, typer.Option(min=1, help="Photos or descriptors in a request.")] = 16
    max_photo_mb: Annotated[float, typer.Option(min=0.001, metavar="MB", help="Size of a photo's file.")] = 25.0
    max_request_mb: Annotated[float, typer.Option(min=0.001, metavar="MB", help="Size of a request.")] = 64.0
    max_megapixels: Annotated[float, typer.Option(min=0.001, metavar="N", help="Size of a photo in megapixels.")] = 50.0
    max_seconds: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time for a request.")] = 60.0
    queue: Annotated[int, typer.Option(min=1, metavar="PHOTOS", help="Photos that wait; more get status 503.")] = 256
    queue_mb: Annotated[float, typer.Option(min=0.001, metavar="MB", help="Size of all requests that wait.")] = 1024.0

    def limits(self) -> ServiceLimits:
        """Return the limits.

        Raises:
            ValueError: If a request within its own limits would never find room.
        """
        from d2vpr_hf.service.limits import ServiceLimits

        if self.queue < self.max_photos:
            raise ValueError(
                f"A request of `max_photos={self.max_photos}` would never find room in `queue={self.queue}`. Give a larger "
                "queue, or fewer photos."
            )
        if self.queue_mb < self.max_request_mb:
            raise ValueError(
                f"A request of `max_request_mb={self.max_request_mb:g}` would never find room in `queue_mb={self.queue_mb:g}`. "
                "Give a larger queue, or smaller requests."
            )
        return ServiceLimits(
            photos=self.max_photos,
            photo_bytes=int(self.max_photo_mb * _MEGA),
            pixels=int(self.max_megapixels * _MEGA),
            request_bytes=int(self.max_request_mb * _MEGA),
            seconds=self.max_seconds,
            pending_photos=self.queue,
            pending_bytes=int(self.queue_mb * _MEGA),
        )


@dataclass
class AddressOptions:
    """Address of the service, and its clients."""

    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen at; 0.0.0.0 for all of this machine.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8000
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FILE",
            help="Keys of clients, one a line. Default: the file in $D2VPR_API_KEY_FILE, or the key in $D2VPR_API_KEY.",
        ),
    ] = None
    no_api_key: Annotated[bool, typer.Option("--no-api-key", help="Serve everyone who can reach the address.")] = False
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Without keys: further name of this machine in addresses; may be repeated."),
    ] = None

    def keys(self) -> ApiKeys:
        """Read the keys of clients.

        Raises:
            ValueError: If there is none, and other machines can reach the address.
        """
        from d2vpr_hf.service.api_keys import KEY_VARIABLE, ApiKeys, read_api_keys

        if self.no_api_key and self.api_key_file is not None:
            raise ValueError("`--no-api-key` and `--api-key-file` contradict each other. Give one of them.")
        keys = ApiKeys() if self.no_api_key else read_api_keys(self.api_key_file, os.environ)
        if not (keys or self.no_api_key or _is_loopback(self.host)):
            raise ValueError(
                f"Other machines can reach {self.host}, and the service has no key. Give `--api-key-file FILE`, set the "
                f"variable {KEY_VARIABLE}, or give `--no-api-key` to serve everyone."
            )
        return keys

    def names(self) -> frozenset[str]:
        """Return the names of this machine that requests may address."""
        from d2vpr_hf.web.hosts import allowed_hosts

        return allowed_hosts(os.environ) | {name.lower() for name in self.allow_host or ()}


def serve(
    index: IndexArgument,
    *,
    address: AddressOptions,
    limits: LimitOptions,
    reload_seconds: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time between two looks for changes of the index; 0 for none.")
    ] = 2.0,
    model: ModelOption = None,
    encoding: EncoderOptions,
) -> None:
    """Serve an index over HTTP: localize, search and encode.

    Photos of several clients share a batch. An index that changes is loaded while requests run. SIGTERM or Ctrl-C ends the
    service when all accepted requests are answered. docs/service.md has more.
    """
    from d2vpr_hf.utils.optional_imports import import_extra

    for library in ("fastapi", "uvicorn", "python_multipart"):
        import_extra(library, "serve")
    from d2vpr_hf.service.app import make_app
    from d2vpr_hf.service.generations import ServedIndex
    from d2vpr_hf.service.photo_service import PhotoService
    from d2vpr_hf.service.running import bind, run

    keys = address.keys()
    request_limits = limits.limits()
    listener = bind(address.host, address.port)
    served = ServedIndex(
        None if is_on_hub(index) else Path(index),
        lambda: open_index(index),
        lambda opened: None if opened.settings.descriptor_name is not None and model is None else encoding.load(model, opened),
    )
    service = PhotoService(served, request_limits, reload_seconds=reload_seconds)
    if served.current.encoder is not None:
        service.start_checks()
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    count = len(served.current.index)
    run(
        make_app(service, keys, address.names()),
        service,
        listener,
        lambda: notice(f"Serving {count} photos of {index} at {url}; {url}/docs describes the requests."),
    )
    notice(f"Ended after {service.answered} requests.")


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
