"""Limits of the service, and the count of the photos and bytes that it holds at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass

_MEGA = 1_000_000


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of requests.

    Attributes:
        photos: Number of photos, or of descriptors, in a request.
        photo_bytes: Size of a photo's file.
        pixels: Number of pixels that a photo must stay below.
        request_bytes: Size of the body of a request.
        seconds: Time for a request, from its head to its answer.
        pending_photos: Number of photos of all requests that are being received or wait for their answers.
        pending_bytes: Size of the bodies of all these requests.
        top_k: Number of matches of a query.
    """

    photos: int = 16
    photo_bytes: int = 25 * _MEGA
    pixels: int = 50 * _MEGA
    request_bytes: int = 64 * _MEGA
    seconds: float = 60.0
    pending_photos: int = 256
    pending_bytes: int = 1024 * _MEGA
    top_k: int = 100


class RefusedError(Exception):
    """A refused request.

    Args:
        status: Its HTTP status.
        reason: A sentence for the client.
        retry_after: Seconds after which the client may try again; `None` for requests that are wrong in themselves.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.retry_after = status, retry_after


class Admissions:
    """Counts the photos and bytes of the requests that the service holds. Safe to use from threads.

    Attributes:
        photos: Number of photos at present.
        num_bytes: Number of bytes at present.
    """

    def __init__(self, max_photos: int, max_bytes: int) -> None:
        self.photos = self.num_bytes = 0
        self._max_photos, self._max_bytes = max_photos, max_bytes
        self._lock = threading.Lock()

    def add(self, photos: int = 0, num_bytes: int = 0) -> bool:
        """Return whether there is room for photos and bytes; if there is, count them."""
        with self._lock:
            if self.photos + photos > self._max_photos or self.num_bytes + num_bytes > self._max_bytes:
                return False
            self.photos += photos
            self.num_bytes += num_bytes
            return True

    def remove(self, photos: int, num_bytes: int) -> None:
        """Remove photos and bytes of a request that has its answer."""
        with self._lock:
            self.photos -= photos
            self.num_bytes -= num_bytes
