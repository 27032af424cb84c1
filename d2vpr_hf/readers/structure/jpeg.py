"""Segments and scans of JPEG files (ITU-T T.81)."""

import re
import struct
from typing import BinaryIO, NamedTuple

from d2vpr_hf.readers.structure.directories import check_directories, check_exif
from d2vpr_hf.readers.structure.limits import LARGEST_METADATA, MOST_PARTS, UnsafePhotoError, read_at

_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_MARKER_BEHIND_PIXELS = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # restart markers are among the pixels
_WITHOUT_LENGTH = frozenset((0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_FRAMES = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_END, _SCAN = 0xD9, 0xDA
_EXIF_APP, _MULTI_PICTURE_APP = 0xE1, 0xE2

_MOST_SEGMENTS = 1024  # in front of the pixels, unless most are as large as those of a panorama; of EXIF always
_LARGE_SEGMENT = 2**14  # bytes; a segment has 2**16 at most
_MOST_STRAY_BYTES = 2**20  # between segments
_MOST_SCANS = 1000
MOST_SAMPLES = 4_000_000_000  # of all scans; libjpeg takes about a second for a thousand million, however small the file is
_PIECES = (2**8, 2**20)  # bytes that are searched at once: first, and then


class _Frame(NamedTuple):
    """The picture that a frame header describes.

    Attributes:
        is_progressive: Whether scans refine each other.
        num_components: Number of components.
        samples: Number of samples of a component, by its id; the largest of several with one id.
    """

    is_progressive: bool
    num_components: int
    samples: dict[int, int]


def check_jpeg(file: BinaryIO, will_decode: bool, start: int = 0) -> None:
    """Check the segments of a JPEG file in front of its pixels, and its scans if they will be decoded.

    Raises:
        UnsafePhotoError: If it has very many segments or scans, or EXIF that takes excessive memory.
    """
    frame, scan = _check_segments(file, start)
    if will_decode and frame is not None and scan is not None:
        samples = count_samples(file, frame, scan)
        if samples > MOST_SAMPLES:
            raise UnsafePhotoError(f"its scans have more than {MOST_SAMPLES:,} samples")


def count_strip_samples(file: BinaryIO, start: int) -> int:
    """Return the number of samples in the scans of a JPEG stream inside of another file. Raises as [`check_jpeg`] does."""
    frame, scan = _check_segments(file, start)
    return 0 if frame is None or scan is None else count_samples(file, frame, scan)


def count_samples(file: BinaryIO, frame: _Frame, scan: int) -> int:
    """Return the number of samples that are decoded in the scans from a position on; it may stop counting over the limit."""
    samples = 0
    count, segments = 0, 0
    position: int | None = scan
    while position is not None and samples <= MOST_SAMPLES:
        header = _segment(file, position)
        ids = header[1 : 1 + 2 * header[0] : 2] if header else b""
        samples += sum(frame.samples.get(number, 0) for number in ids)
        count += 1
        if not frame.is_progressive and count == 1 and len(ids) >= frame.num_components:
            return samples  # nothing behind the only scan is decoded
        if count > _MOST_SCANS:
            raise UnsafePhotoError(f"it has more than {_MOST_SCANS:,} scans")
        marker, position = _next_marker(file, position + len(header) + 2, _MARKER_BEHIND_PIXELS)
        while marker not in (None, _SCAN, _END):
            assert position is not None
            segments += 1
            if segments > MOST_PARTS:
                raise UnsafePhotoError(f"it has more than {MOST_PARTS:,} segments between its scans")
            skipped = 0 if marker in _WITHOUT_LENGTH else len(_segment(file, position)) + 2
            marker, position = _next_marker(file, position + skipped, _MARKER_BEHIND_PIXELS)
        if marker == _END:
            return samples
    return samples


def _check_segments(file: BinaryIO, start: int) -> tuple[_Frame | None, int | None]:
    """Check the segments up to the first scan; return the frame and the position of the scan's header, `None` if missing."""
    frame: _Frame | None = None
    exif: list[bytes] = []
    stray_bytes, segments = 0, 0
    segment_bytes, position = 0, start
    while True:
        marker, behind = _next_marker(file, position, _MARKER)
        if marker is None or behind is None:
            return frame, None
        stray_bytes += behind - 2 - position
        segments += 1
        if stray_bytes > _MOST_STRAY_BYTES:
            raise UnsafePhotoError(f"it has more than {_MOST_STRAY_BYTES:,} bytes between its segments")
        if segments > _MOST_SEGMENTS and segment_bytes < segments * _LARGE_SEGMENT:
            raise UnsafePhotoError(f"it has more than {_MOST_SEGMENTS:,} small segments in front of its pixels")
        position = behind
        if marker in _WITHOUT_LENGTH:
            continue
        content = _segment(file, position)
        if marker == _SCAN:
            _check_joined_exif(exif)
            return frame, position
        if marker in _FRAMES:
            frame = _read_frame(marker, content)
        elif marker == _EXIF_APP and content.startswith(b"Exif\0\0"):
            exif.append(content[6:] if exif else content)
        elif marker == _MULTI_PICTURE_APP and content.startswith(b"MPF\0"):
            check_directories(content[4:])
        position += len(content) + 2
        segment_bytes += len(content)


def _check_joined_exif(parts: list[bytes]) -> None:
    size = sum(map(len, parts))
    if size > LARGEST_METADATA:
        raise UnsafePhotoError(f"its EXIF has {size:,} bytes; at most {LARGEST_METADATA:,} are read")
    if len(parts) > _MOST_SEGMENTS:  # Pillow copies all for each
        raise UnsafePhotoError(f"it has more than {_MOST_SEGMENTS:,} segments of EXIF")
    check_exif(b"".join(parts))


def _segment(file: BinaryIO, position: int) -> bytes:
    """Return the content of the segment whose length is at a position."""
    length = read_at(file, position, 2)
    return file.read(max(0, int.from_bytes(length, "big") - 2))


def _next_marker(file: BinaryIO, position: int, pattern: re.Pattern[bytes]) -> tuple[int | None, int | None]:
    """Return the next marker from a position on, and the position behind it; `None` at the end of the file."""
    piece_size, largest = _PIECES
    while True:
        piece = read_at(file, position, piece_size)
        if match := pattern.search(piece):
            return piece[match.end() - 1], position + match.end()
        if len(piece) < piece_size:
            return None, None
        position += piece_size - 1  # a marker may lie across the end of the piece
        piece_size = largest


def _read_frame(marker: int, content: bytes) -> _Frame | None:
    """Return the frame of a header; `None` for a damaged one, which decoders refuse."""
    try:
        _, height, width, count = struct.unpack_from(">BHHB", content)
        components = [struct.unpack_from("BBB", content, 6 + 3 * number) for number in range(count)]
    except struct.error:
        return None
    most_columns = max((sampling >> 4 for _, sampling, _ in components), default=1) or 1
    most_rows = max((sampling & 15 for _, sampling, _ in components), default=1) or 1
    samples: dict[int, int] = {}
    for number, sampling, _ in components:
        area = -(-width * (sampling >> 4) // most_columns) * -(-height * (sampling & 15) // most_rows)
        samples[number] = max(area, samples.get(number, 0))
    return _Frame(marker in _PROGRESSIVE_FRAMES, count, samples)
