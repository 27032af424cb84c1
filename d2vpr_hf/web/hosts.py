"""The names by which browsers may address the Space or the service, and the hosts that the Space's page may address.

A page of a stranger can make its own name point to this machine (DNS rebinding): the browser then takes both for a part of
that page, and sends the stranger's name as the host. Such requests are refused. An address in numbers cannot be rebound.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from d2vpr_hf.maps import TileSource


def allowed_hosts(environment: Mapping[str, str]) -> frozenset[str]:
    """Return the names of this machine: `localhost`, its names on the Hub and for Gradio, and those of `D2VPR_HOSTS`."""
    names = [environment.get(name, "") for name in ("SPACE_HOST", "GRADIO_SERVER_NAME")]
    names += environment.get("D2VPR_HOSTS", "").split(",")
    return frozenset({"localhost"} | {name.strip().lower() for name in names if name.strip()})


def is_allowed_host(header: str, names: frozenset[str]) -> bool:
    """Return whether a `Host` header has one of the names, or an address in numbers."""
    host = _host_of(f"//{header}")
    if host is None:
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host in names
    return True


def is_own_origin(origin: str, header: str, names: frozenset[str]) -> bool:
    """Return whether an `Origin` header states an own page: with the host and port of the `Host` header, or with one of
    the names, as a proxy may replace the `Host` header. Other ports of this machine may have other pages.
    """
    host = _host_of(origin)
    return host is not None and (origin.partition("://")[2].lower() == header.lower() or host in names - {"localhost"})


def content_policy(tiles: TileSource | None, *, on_hub: bool) -> str:
    """Return the value of the header Content-Security-Policy: the page loads nothing from other hosts, except tiles.

    Gradio's page has scripts in its HTML and makes functions of texts, so that both must be allowed.

    Args:
        tiles: Source of the tiles below maps.
        on_hub: Whether the Hub shows the page in a frame.
    """
    tile_host = "" if tiles is None else f" {urlsplit(tiles.template).scheme}://{urlsplit(tiles.template).netloc}"
    frames = "'self' https://huggingface.co https://*.hf.space" if on_hub else "'self'"
    return (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data: blob:{tile_host}; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
        f"connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {frames}"
    )


def _host_of(address: str) -> str | None:
    """Return the name of the host in an address; `None` if it has none or a user's name."""
    try:
        parts = urlsplit(address)
        if "@" in parts.netloc or parts.path not in ("", "/"):
            return None
        return parts.hostname
    except ValueError:
        return None
