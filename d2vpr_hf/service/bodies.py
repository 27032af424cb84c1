"""The bodies of requests: multipart forms with photos, or JSON with photos in base64 or with descriptors."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from d2vpr_hf.service.limits import RefusedError, ServiceLimits
from d2vpr_hf.service.photo_service import Reservation
from d2vpr_hf.utils.atomic_files import create_file, write_file
from d2vpr_hf.utils.printable import printable_line
from d2vpr_hf.utils.unit_length import are_wrong

FORM = "multipart/form-data"
JSON = "application/json"
PHOTO_FIELD = "photos"
_CHUNK = 1 << 20
_LONGEST_NAME = 200  # characters
_LONGEST_FIELD = 1000  # bytes
_FEW_COMMAS = 100  # of the options of a JSON body
_MEGA = 1_000_000

Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True)
class Received(Generic[Options]):
    """A request that was received.

    Attributes:
        options: Its options.
        photos: The files of its photos, with the client's names for them.
        descriptors: Descriptors (M, D), or `None`.
    """

    options: Options
    photos: list[tuple[str, Path]]
    descriptors: NDArray[np.float32] | None = None


class BodyReader:
    """Reads the bodies of requests within limits.

    Args:
        limits: The limits.
        descriptor_dim: Width of the descriptors of the index.
        is_projected: Whether these may be shorter than 1.
    """

    def __init__(self, limits: ServiceLimits, descriptor_dim: int, is_projected: bool) -> None:
        self._limits = limits
        self._descriptor_dim, self._is_projected = descriptor_dim, is_projected

    async def read(
        self, request: Request, form: type[Options], body: type[Options], folder: Path, reservation: Reservation
    ) -> Received[Options]:
        """Receive a request, and write its photos into a folder.

        Args:
            request: The request.
            form: Options of a form.
            body: Options and contents of a JSON body.
            folder: Folder for the photos.
            reservation: Room of the request, which grows with its photos.

        Raises:
            RefusedError: If the body is malformed or breaks a limit.
        """
        header, parameters = parse_options_header(request.headers.get("content-type"))
        kind, charset = header.decode("latin-1"), parameters.get(b"charset", b"utf-8").decode("latin-1")
        if charset.lower() not in ("utf-8", "utf8"):  # others may take long, or give texts that no answer can contain
            raise RefusedError(415, f"Expected a body in UTF-8, got the charset {printable_line(charset)!r}.")
        try:
            if kind == FORM:
                return await self._read_form(request, form, folder, reservation)
            if kind == JSON:
                return await self._read_json(request, body, folder, reservation)
        except ClientDisconnect:
            raise RefusedError(400, "The client closed the connection before the end of the body.") from None
        raise RefusedError(415, f"Expected a body of the type {FORM} or {JSON}, got {kind or 'none'!r}.")

    async def _read_form(
        self, request: Request, form: type[Options], folder: Path, reservation: Reservation
    ) -> Received[Options]:
        max_files = self._limits.photos + 1  # one more, so that the error below names the limit
        async with request.form(max_files=max_files, max_fields=20, max_part_size=_LONGEST_FIELD) as fields:
            uploads = [value for name, value in fields.multi_items() if isinstance(value, UploadFile) and name == PHOTO_FIELD]
            texts = {name: value for name, value in fields.multi_items() if not isinstance(value, UploadFile)}
            wrong = {name for name, value in fields.multi_items() if isinstance(value, UploadFile)} - {PHOTO_FIELD}
            if wrong or PHOTO_FIELD in texts:
                raise RefusedError(
                    422, f"Expected photos as files of the field `{PHOTO_FIELD}`, as curl's -F photos=@FILE sends."
                )
            counts = Counter(name for name, _ in fields.multi_items())
            for name in sorted(counts.keys() - {PHOTO_FIELD}):
                if counts[name] > 1:
                    raise RefusedError(422, f"{printable_line(name)} is given {counts[name]} times. Give it once.")
            self._check_count(len(uploads), "photos")
            options = parse_options(form, texts)
            reservation.add(photos=len(uploads) - 1)
            photos = []
            for number, upload in enumerate(uploads):
                file = folder / str(number)
                await run_in_threadpool(self._copy, upload, file)
                photos.append((_name(upload.filename, number), file))
        return Received(options, photos)

    async def _read_json(
        self, request: Request, body: type[Options], folder: Path, reservation: Reservation
    ) -> Received[Options]:
        content = await request.body()
        self._check_size(content)
        values: Any = await run_in_threadpool(parse_options, body, content)
        if (values.photos is None) == (getattr(values, "descriptors", None) is None):
            raise RefusedError(422, "Give either `photos` or `descriptors`.")
        if values.photos is None:
            self._check_count(len(values.descriptors), "descriptors")
            reservation.add(photos=len(values.descriptors) - 1)
            return Received(values, [], self._read_descriptors(values.descriptors))
        self._check_count(len(values.photos), "photos")
        reservation.add(photos=len(values.photos) - 1)
        photos = []
        for number, photo in enumerate(values.photos):
            file = folder / str(number)
            await run_in_threadpool(self._decode, photo.content, file, number)
            photos.append((_name(photo.name, number), file))
        return Received(values, photos)

    def _check_size(self, content: bytes) -> None:
        """Refuse a JSON text that has more values than its limits allow: parsed, each takes up to a hundred times its bytes."""
        count = content.count(b",")
        if count > _FEW_COMMAS + self._limits.photos * (self._descriptor_dim + _LONGEST_NAME):
            raise RefusedError(
                413,
                f"Expected 1 to {self._limits.photos} photos, or descriptors of {self._descriptor_dim} numbers, in a request, "
                f"got {count:,} values.",
            )

    def _check_count(self, count: int, what: str) -> None:
        if not 1 <= count <= self._limits.photos:
            raise RefusedError(413 if count else 422, f"Expected 1 to {self._limits.photos} {what} in a request, got {count}.")

    def _copy(self, upload: UploadFile, file: Path) -> None:
        """Write the content of an upload, up to the size at which the look at the photo refuses it."""
        left = self._limits.photo_bytes + 1
        with create_file(file) as out:
            while left > 0 and (chunk := upload.file.read(min(_CHUNK, left))):
                out.write(chunk)
                left -= len(chunk)

    def _decode(self, content: str, file: Path, number: int) -> None:
        try:
            write_file(file, base64.b64decode(content, validate=True))
        except (binascii.Error, ValueError):
            raise RefusedError(422, f"The content of photo {number + 1} is not base64.") from None

    def _read_descriptors(self, rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
        width = self._descriptor_dim
        for number, row in enumerate(rows, 1):
            if len(row) != width:
                raise RefusedError(422, f"Descriptor {number} has {len(row)} numbers, and those of the index have {width}.")
        descriptors = np.array(rows, np.float32)
        lengths = np.linalg.norm(descriptors, axis=1)
        wrong = ~np.isfinite(lengths) | (lengths == 0)
        wrong |= are_wrong(lengths, is_projected=self._is_projected)
        if wrong.any():
            number = int(np.flatnonzero(wrong)[0])
            raise RefusedError(
                422, f"Descriptor {number + 1} has the length {lengths[number]:.4g}; expected 1. Divide it by its norm."
            )
        return descriptors


def parse_options(model: type[Options], values: bytes | dict[str, Any]) -> Options:
    """Check the values of a JSON text or of a form.

    Raises:
        RefusedError: If they do not fit; the message names the first value that does not.
    """
    try:
        return model.model_validate_json(values) if isinstance(values, bytes) else model.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(map(str, problem["loc"])) or "the body"
        raise RefusedError(422, f"{printable_line(name)}: {problem['msg']}.") from None


def _name(name: str | None, number: int) -> str:
    """Return the client's name for a photo, without folders; `photo-1` for a photo without a name."""
    last = (name or "").replace("\\", "/").rpartition("/")[2][-_LONGEST_NAME:].replace("\0", "")
    return last if last not in ("", ".", "..") else f"photo-{number + 1}"
