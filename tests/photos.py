"""Drawn photos for tests, good and bad."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base


def draw(seed: int, height: int = 60, width: int = 90) -> Image.Image:
    """A smooth coloured picture, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, seed: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(seed).save(path, **options)
    return path


def gps_exif(latitude: float, longitude: float, heading: float | None = None) -> Image.Exif:
    """EXIF with a position in degrees, minutes and seconds, as cameras write it."""
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
    """Write files that only look like photos; gives what the reason for each must say."""
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


def _png_bomb(side: int) -> bytes:
    """A valid grey PNG of side x side zeros: 49 kB that unfold to 400 MB at 20,000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + side // 8) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
