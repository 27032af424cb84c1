"""Boxes and codestreams of JPEG 2000 (ISO/IEC 15444-1): tiles, precincts and layers that OpenJPEG allocates in advance."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from d2vpr_hf.readers.structure.boxes import iterate_boxes
from d2vpr_hf.readers.structure.limits import LARGEST_METADATA, MOST_PIXELS, UnsafePhotoError, read_at, size_of

_CODESTREAM = b"\xff\x4f\xff\x51"
_SIZE = 0x51  # markers
_CODING, _CODING_OF_COMPONENT = 0x52, 0x53
_TILE_PART, _PIXELS = 0x90, 0x93
_END = 0xD9
_MOST_MARKERS = 65_536  # of all headers
_MOST_BLOCKS = 4_000_000  # tiles, precincts and code blocks of all components and resolutions
_MOST_PACKETS = 20_000_000  # precincts in layers
_TILE_BLOCKS = 50  # memory of a tile without pixels, in blocks


# ids of boxes `uuid` with metadata, as ExifTool and the XMP specification (part 3) give them
_METADATA = {b"JpgTiffExif->JP2": "exif", bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "xmp"}


@dataclass
class _Picture:
    """The picture of a codestream.

    Attributes:
        width, height: Size in pixels.
        tiles: Number of tiles.
        components: Number of components.
        tile_width, tile_height: Size of a tile in pixels; at most that of the picture.
    """

    width: int
    height: int
    tiles: int
    components: int
    tile_width: int
    tile_height: int


def check_jpeg2000(file: BinaryIO) -> None:
    """Check the boxes of a JPEG 2000 file and the headers of its codestream.

    Raises:
        UnsafePhotoError: If it has very many boxes, tiles, precincts, code blocks or layers.
    """
    if read_at(file, 0, 4) == _CODESTREAM:
        _check_codestream(file, 0)
        return
    for kind, start, end in iterate_boxes(file, 0, size_of(file)):
        if kind == b"jp2h":
            for _ in iterate_boxes(file, start, end):
                pass  # counted
        if kind == b"jp2c":
            _check_codestream(file, start)


def read_metadata_boxes(file: BinaryIO) -> dict[str, bytes]:
    """Return the EXIF and XMP of a JPEG 2000 file as `exif` and `xmp`, if it has them; larger ones than 16 MiB are not read."""
    if read_at(file, 0, 4) == _CODESTREAM:
        return {}
    metadata: dict[str, bytes] = {}
    for kind, start, end in iterate_boxes(file, 0, size_of(file)):
        if kind == b"uuid" and (name := _METADATA.get(read_at(file, start, 16))) and end - start <= LARGEST_METADATA:
            metadata.setdefault(name, file.read(end - start - 16))
    return metadata


def _check_codestream(file: BinaryIO, start: int) -> None:
    """Check the markers of the main header, and of the headers of tile parts, which may state other codings."""
    picture: _Picture | None = None
    position = start + 2
    tile_part, tile_end = 0, 0
    for _ in range(_MOST_MARKERS):
        marker, length = _marker(file, position)
        if marker is None or marker == _END:
            return
        content = file.read(max(0, length - 2)) if marker in (_SIZE, _CODING, _CODING_OF_COMPONENT, _TILE_PART) else b""
        if marker == _SIZE:
            picture = _read_size(content)
        elif marker in (_CODING, _CODING_OF_COMPONENT) and picture is not None:
            _check_coding(content, marker == _CODING, picture)
        elif marker == _TILE_PART and len(content) >= 6:
            tile_part, tile_end = position, int.from_bytes(content[2:6], "big")
        if marker != _PIXELS:
            position += 2 + length
        elif tile_end < 14:  # the last part, up to the end
            return
        else:
            position = tile_part + tile_end
    raise UnsafePhotoError(f"it has more than {_MOST_MARKERS:,} markers")


def _marker(file: BinaryIO, position: int) -> tuple[int | None, int]:
    """Return the marker at a position, and the length of its segment; 0 for one without a segment."""
    header = read_at(file, position, 4)
    if len(header) < 2 or header[0] != 0xFF:
        return None, 0
    if header[1] in (_PIXELS, _END) or 0x30 <= header[1] <= 0x3F:
        return header[1], 0
    return header[1], max(2, int.from_bytes(header[2:4], "big"))


def _read_size(content: bytes) -> _Picture | None:
    if len(content) < 36:
        return None
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack_from(">8IH", content, 2)
    width, height = right - left, bottom - top
    if not (width > 0 and height > 0 and tile_width and tile_height and width * height <= MOST_PIXELS):
        return None  # Pillow refuses it
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if tiles * components * _TILE_BLOCKS > _MOST_BLOCKS:
        raise UnsafePhotoError(f"it has {tiles:,} tiles of {components} components")
    return _Picture(width, height, tiles, components, min(tile_width, width), min(tile_height, height))


def _check_coding(content: bytes, is_default: bool, picture: _Picture) -> None:
    """Check the precincts, code blocks and layers that a segment COD or COC states."""
    skipped = 5 if is_default else (2 if picture.components < 257 else 3)
    if len(content) < skipped + 4:
        return
    has_precincts = content[0 if is_default else skipped - 1] & 1
    layers = int.from_bytes(content[2:4], "big") if is_default else 1
    levels = content[skipped]
    columns, rows = (size & 15 for size in content[skipped + 1 : skipped + 3])
    sizes = content[skipped + 5 : skipped + 6 + levels] if has_precincts else b"\xff" * (levels + 1)
    precincts, blocks = 0, 0
    for resolution, size in enumerate(sizes):
        width, height = (side >> levels - resolution for side in (picture.tile_width, picture.tile_height))
        across, down = size & 15, size >> 4
        precincts += ((width >> across) + 1) * ((height >> down) + 1)
        blocks += ((width >> min(columns + 2, across)) + 1) * ((height >> min(rows + 2, down)) + 1)
    times = picture.tiles * picture.components
    if times * (precincts + blocks) > _MOST_BLOCKS:
        raise UnsafePhotoError(f"it has {times * (precincts + blocks):,} precincts and code blocks")
    if times * precincts * layers > _MOST_PACKETS:
        raise UnsafePhotoError(f"it has {times * precincts * layers:,} packets in {layers:,} layers")
