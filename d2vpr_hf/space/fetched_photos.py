"""Photos that agents and programs name by an address: fetched from public hosts only, within limits of time and size."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath

from d2vpr_hf.space.uploads import LIMITS, UploadError, new_place
from d2vpr_hf.utils.atomic_files import create_file

_SECONDS = 20  # for the whole photo
_MAX_REDIRECTS = 3


async def fetch_photo(url: str, folder: Path, max_bytes: int = LIMITS.photo_bytes) -> Path:
    """Fetch a photo into a folder of its own with a secret name, and return it.

    Args:
        url: Its address.
        folder: Parent of the folder.
        max_bytes: Largest size.

    Raises:
        UploadError: If the photo cannot be fetched, is too large, or its host is not a public one.
    """
    import httpx  # comes with Gradio

    photo = new_place(folder, PurePosixPath(httpx.URL(url).path).name)
    try:
        async with asyncio.timeout(_SECONDS):
            await _fetch(url, photo, max_bytes)
    except Exception as error:
        photo.unlink(missing_ok=True)
        photo.parent.rmdir()
        if isinstance(error, UploadError):
            raise
        raise UploadError(
            "The photo could not be fetched from its address."
        ) from None  # the error may name hosts in this network
    return photo


async def _fetch(url: str, photo: Path, max_bytes: int) -> None:
    import httpx
    import safehttpx

    for _ in range(1 + _MAX_REDIRECTS):
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https"):
            raise UploadError("The photo's address does not begin with http:// or https://.")
        address = await safehttpx.async_validate_url(parsed.host)  # raises unless the host is a public one
        transport = safehttpx.AsyncSecureTransport(address)
        async with (
            httpx.AsyncClient(transport=transport, timeout=_SECONDS) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.has_redirect_location:
                url = str(parsed.join(response.headers["location"]))
                continue
            response.raise_for_status()
            size = 0
            with create_file(photo) as file:
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > max_bytes:
                        raise UploadError(f"The photo is larger than {max_bytes // 1_000_000} MB.")
                    file.write(chunk)
            return
    raise UploadError("The photo's address leads from one address to another too often.")
