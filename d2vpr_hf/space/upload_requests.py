"""Reception of uploads: files of a form are written as they arrive, within limits; what is not a file is not kept.

A request that fails or is broken off leaves no files. The files of a visitor are counted by the hour, so that many small
uploads do not fill the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from d2vpr_hf.space.uploads import LIMITS, NO_ROOM, new_place
from d2vpr_hf.utils.atomic_files import create_file

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_HOUR = 3600  # seconds
_MEGA = 1_000_000
_MAX_DISPOSITION = 4096  # bytes of a header that names a file
_MAX_RECORDS = 10_000  # visitors whose uploads are counted


class RefusedError(Exception):
    """A refused request: its HTTP status, and a sentence for the visitor."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class UploadLimits:
    """Limits of uploads.

    Attributes:
        files: Number of files in one request.
        request_bytes: Size of one request.
        hourly_files: Number of files of a visitor within an hour.
        hourly_bytes: Size of a visitor's files within an hour.
        address_share: Number of visitors whose limits one network address may use up.
        free_bytes: Space on the disk that uploads leave free.
    """

    files: int = LIMITS.photos
    request_bytes: int = LIMITS.unpacked_bytes + 10 * _MEGA
    hourly_files: int = 1000
    hourly_bytes: int = 2000 * _MEGA
    address_share: int = 8
    free_bytes: int = 500 * _MEGA


class UploadCounts:
    """Numbers and sizes of the files that visitors uploaded within the last hour. Safe to use from threads."""

    def __init__(self, limits: UploadLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, visitor: str, address: str, files: int, size: int) -> None:
        """Count files and bytes of a visitor and of the address from which they come.

        Raises:
            RefusedError: If these are too many for an hour.
        """
        with self._lock:
            self._add(f"visitor {visitor}", files, size, 1)
            self._add(f"address {address}", files, size, self._limits.address_share)

    def _add(self, name: str, files: int, size: int, share: int) -> None:
        count = self._counts.pop(name, None)
        if count is None or self._clock() - count.begin > _HOUR:
            count = _Count(self._clock())
        count.files += files
        count.size += size
        self._counts[name] = count  # at the end: the first one was not changed for the longest time
        if len(self._counts) > _MAX_RECORDS:
            self._counts.popitem(last=False)
        if count.files > share * self._limits.hourly_files or count.size > share * self._limits.hourly_bytes:
            raise RefusedError(
                429,
                f"At most {self._limits.hourly_files} files and {self._limits.hourly_bytes // _MEGA} MB can be uploaded within "
                "an hour. Try again later.",
            )


@dataclass
class _Count:
    """Files and bytes of an hour, with the time of its begin."""

    begin: float
    files: int = 0
    size: int = 0


@dataclass
class Reception:
    """An upload that is being received.

    Attributes:
        files: The files so far.
        name: Name of the file that arrives, as the visitor calls it.
        new_bytes: Bytes that arrived since the progress was last looked at.
    """

    files: list[Path] = field(default_factory=list)
    name: str = ""
    new_bytes: int = 0


class Receiver:
    """Receives uploads into a folder; each file gets a folder with a secret name.

    Args:
        folder: The upload folder.
        limits: Limits of uploads.
    """

    def __init__(self, folder: Path, limits: UploadLimits = UploadLimits()) -> None:
        self.folder = folder
        self.limits = limits
        self.counts = UploadCounts(limits)
        self.pending: dict[tuple[str, str | None], Reception] = {}  # by visitor and name of the upload

    async def receive(
        self, content_type: str, chunks: AsyncIterator[bytes], visitor: str, address: str, upload_name: str | None = None
    ) -> list[Path]:
        """Write the files of a form and return them.

        Args:
            content_type: The header of this name, with the form's boundary.
            chunks: The body of the request.
            visitor: Name of the visitor whose files are counted.
            address: Network address of the visitor.
            upload_name: Name that the page gave to the upload, for its progress.

        Raises:
            RefusedError: If the form is malformed or too large, or there is no space for it.
        """
        reception = Reception()
        self.pending[visitor, upload_name] = reception
        with contextlib.ExitStack() as undo:
            undo.callback(self._delete, reception)
            try:
                await self._write(
                    content_type, chunks, reception, lambda files, size: self._count(visitor, address, files, size)
                )
            finally:
                if self.pending.get((visitor, upload_name)) is reception:
                    del self.pending[visitor, upload_name]
            undo.pop_all()
        return reception.files

    async def progress(self, visitor: str, upload_name: str) -> AsyncIterator[dict[str, object]]:
        """Yield messages about a visitor's upload in the form that Gradio's page reads, until it ends."""
        for _ in range(20):  # the page may ask before its upload arrives
            if (visitor, upload_name) in self.pending:
                break
            await asyncio.sleep(0.1)
        while (reception := self.pending.get((visitor, upload_name))) is not None:
            size, reception.new_bytes = reception.new_bytes, 0
            yield {"msg": "update", "orig_name": reception.name, "chunk_size": size}
            await asyncio.sleep(0.25)
        yield {"msg": "done"}

    async def _write(
        self, content_type: str, chunks: AsyncIterator[bytes], reception: Reception, count: Callable[[int, int], None]
    ) -> None:
        from python_multipart.exceptions import FormParserError  # comes with Gradio

        size = 0
        try:
            with _FormFiles(content_type, self.folder, reception, self.limits, count) as form:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.limits.request_bytes:
                        raise RefusedError(413, f"An upload may have at most {self.limits.request_bytes // _MEGA} MB.")
                    count(0, len(chunk))
                    await asyncio.to_thread(form.write, chunk)
        except FormParserError:
            raise RefusedError(400, "The upload is not a form with files.") from None
        except OSError as error:
            if error.errno in NO_ROOM:
                raise _no_space() from None
            raise

    def _count(self, visitor: str, address: str, files: int, size: int) -> None:
        self.counts.add(visitor, address, files, size)
        if files:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < self.limits.free_bytes:
                raise _no_space()

    def _delete(self, reception: Reception) -> None:
        for file in reception.files:
            shutil.rmtree(file.parent, ignore_errors=True)


class _FormFiles:
    """Writes the files of a form while its parts arrive; other parts are dropped."""

    def __init__(
        self, content_type: str, folder: Path, reception: Reception, limits: UploadLimits, count: Callable[[int, int], None]
    ) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise RefusedError(400, "The upload is not a form with files.")
        self._parse_header = parse_options_header
        self._folder, self._reception = folder, reception
        self._limits, self._count = limits, count
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._file: IO[bytes] | None = None
        self._ended = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._extend(self._header_name, data[start:end]),
            "on_header_value": lambda data, start, end: self._extend(self._header_value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write_part,
            "on_part_end": self._close,
            "on_end": self._end,
        }
        self._parser = MultipartParser(options[b"boundary"], callbacks)

    def __enter__(self) -> _FormFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close()
        if kind is None and not self._ended:
            raise RefusedError(400, "The upload ended in the middle of a file.")

    def write(self, chunk: bytes) -> None:
        """Read a part of the request's body."""
        self._parser.write(chunk)

    def _begin_part(self) -> None:
        self._disposition = b""

    def _extend(self, buffer: bytearray, data: bytes) -> None:
        buffer += data
        if len(buffer) > _MAX_DISPOSITION:
            raise RefusedError(400, "The name of an uploaded file is too long.")

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _open(self) -> None:
        _, options = self._parse_header(self._disposition)
        if options.get(b"name") != b"files" or b"filename" not in options:
            return
        if len(self._reception.files) >= self._limits.files:
            raise RefusedError(413, f"At most {self._limits.files} files can be uploaded at a time.")
        self._count(1, 0)
        self._reception.name = options[b"filename"].decode("utf-8", "replace")
        file = new_place(self._folder, self._reception.name)
        self._reception.files.append(file)
        self._file = create_file(file)

    def _write_part(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            self._reception.new_bytes += end - start

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _end(self) -> None:
        self._ended = True


def _no_space() -> RefusedError:
    return RefusedError(507, "The Space has no room for uploads at the moment. Try again later.")
