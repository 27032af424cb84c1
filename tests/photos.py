"""Drawn photos for tests, and files that only look like photos."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base


def save_row(folder):
    """Write nine photos in a row, 100 m apart, with positions in their names, and return the folder."""
    for i in range(9):
        save(folder / at_name(544000 + 100 * i, 4172758, heading=str(10 * i)), i)
    return folder


def save_town(folder: Path, noise: float) -> Path:
    """Write photos of 12 spots, 300 m apart, as a database and 120 labelled queries, and return the folder.

    Two of three queries show a spot with noise of this standard deviation; the others show only noise, from outside the map.
    """
    rng = np.random.default_rng(0)
    spots = [rng.integers(0, 255, (7, 7, 3)) for _ in range(12)]
    for side in ("database", "queries"):
        (folder / side).mkdir()
    for spot, pixels in enumerate(spots):
        _save_spot(folder / "database", pixels, spot, 0)
    for query in range(120):
        pixels = spots[query % 12] + rng.normal(0, noise, (7, 7, 3)) if query % 3 else rng.integers(0, 255, (7, 7, 3))
        _save_spot(folder / "queries", pixels, query % 12 if query % 3 else 500 + query % 2, query)
    return folder


def _save_spot(folder: Path, pixels: np.ndarray, spot: int, number: int) -> None:
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize((70, 70), Image.Resampling.BICUBIC)
    image.save(folder / f"@{500_000 + 300 * spot}@4649776@32@T@@@{number}@@@@@@@@.png")


def draw(seed: int, height: int = 60, width: int = 90) -> Image.Image:
    """Draw a smooth coloured picture, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, seed: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(seed).save(path, **options)
    return path


def jpeg(seed: int = 1, **options) -> bytes:
    file = io.BytesIO()
    draw(seed).save(file, "JPEG", **options)
    return file.getvalue()


def zipped(path: Path, entries) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def gps_exif(latitude: float, longitude: float, heading: float | None = None) -> Image.Exif:
    """Make EXIF data with a position in degrees, minutes and seconds, as cameras write it."""
    exif = Image.Exif()
    block = {
        GPS.GPSLatitudeRef: "N" if latitude >= 0 else "S",
        GPS.GPSLatitude: _sexagesimal(latitude),
        GPS.GPSLongitudeRef: "E" if longitude >= 0 else "W",
        GPS.GPSLongitude: _sexagesimal(longitude),
    }
    if heading is not None:
        block[GPS.GPSImgDirection] = heading
    exif[IFD.GPSInfo] = block
    exif[Base.DateTime] = "2026:05:04 03:02:01"
    return exif


def _sexagesimal(degrees: float) -> tuple[float, float, float]:
    minutes, seconds = divmod(abs(degrees) * 3600, 60)
    whole, minutes = divmod(minutes, 60)
    return whole, minutes, seconds


def at_name(east: float, north: float, zone: str = "10@S", latitude: str = "", longitude: str = "", heading: str = "") -> str:
    return f"@{east:.2f}@{north:.2f}@{zone}@{latitude}@{longitude}@pano@@{heading}@@@@201606@@.jpg"


def save_bad_files(folder: Path) -> dict[str, str]:
    """Write files that only look like photos; return a part of the error message for each file name."""
    (folder / "text.jpg").write_text("not a photo")
    (folder / "empty.jpg").write_bytes(b"")
    whole = save(folder / "truncated.jpg", 99)
    whole.write_bytes(whole.read_bytes()[:400])
    (folder / "bomb.png").write_bytes(_png_bomb(20_000))
    return {
        "text.jpg": "not an image",
        "empty.jpg": "the file is empty",
        "truncated.jpg": "damaged",
        "bomb.png": "too large to be safe",
    }


def add_rotation_box(heic: bytes, quarter_turns: int) -> bytes:
    """Add the property to a HEIC file with one image that turns the image anticlockwise when it is decoded."""
    content = bytearray(heic)
    ipco = content.index(b"ipco") - 4
    ipma = content.index(b"ipma") - 4
    iloc = content.index(b"iloc") - 4
    rotation = struct.pack(">I4sB", 9, b"irot", quarter_turns)
    number = 1 + _count_boxes(content, ipco)
    # the list of the image's properties gets one more: its count is byte 18 of ipma (one entry, version 0), then one byte each
    content[ipma + 18] += 1
    end = ipma + struct.unpack_from(">I", content, ipma)[0]
    content[end:end] = bytes([0x80 | number])
    end = ipco + struct.unpack_from(">I", content, ipco)[0]
    content[end:end] = rotation
    for box, grown in ((b"ipma", 1), (b"ipco", 9), (b"iprp", 10), (b"meta", 10)):
        start = content.index(box) - 4
        struct.pack_into(">I", content, start, struct.unpack_from(">I", content, start)[0] + grown)
    _move_extents(content, iloc, 10)
    return bytes(content)


def _count_boxes(content: bytearray, parent: int) -> int:
    position, count = parent + 8, 0
    end = parent + struct.unpack_from(">I", content, parent)[0]
    while position < end:
        position += struct.unpack_from(">I", content, position)[0]
        count += 1
    return count


def _move_extents(content: bytearray, iloc: int, shift: int) -> None:
    """Shift the offsets of the pixels in an iloc box of version 0, with offsets of 4 bytes and one extent for each item."""
    count = struct.unpack_from(">H", content, iloc + 14)[0]
    assert content[iloc + 8 : iloc + 14] == bytes([0, 0, 0, 0, 0x44, 0x40]), "not the layout that libheif writes"
    for item in range(count):
        offset = iloc + 16 + item * 18 + 10
        struct.pack_into(">I", content, offset, struct.unpack_from(">I", content, offset)[0] + shift)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG, with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_bomb(side: int) -> bytes:
    """Make a valid grey PNG of side x side zeros; at 20,000 its 49 kB decode to 400 MB."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + side // 8) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
