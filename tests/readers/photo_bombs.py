"""Small photo files that would hold a decoder for minutes, or take gigabytes."""

import io
import struct
import zlib

from PIL import Image

from tests.photos import png_chunk

_MEGABYTE = zlib.compress(bytes(1 << 20), 9)


def picture(name: str, width: int = 64, height: int = 64, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 100).save(file, name, **options)
    return file.getvalue()


def repeated_scans(side: int, scans: int) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    content = picture("JPEG", side, side, "L", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * scans + b"\xff\xd9"


def separate_scans(side: int, scans: int) -> bytes:
    """Decode a baseline JPEG's component again and again: several scans need no progressive frame."""
    content = picture("JPEG", side, side)
    start = content.rindex(b"\xff\xda")
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + bytes(40)
    return content[:start] + scan * scans + b"\xff\xd9"


def with_equal_ids(content: bytes) -> bytes:
    """Return a JPEG whose components all have the same id, which libjpeg accepts."""
    changed = bytearray(content)
    frame = content.index(b"\xff\xc0") + 10
    for component in range(3):
        changed[frame + 3 * component] = 1
    return bytes(changed)


def with_segments(segment: bytes, count: int) -> bytes:
    content = picture("JPEG")
    return content[:2] + segment * count + content[2:]


def exif_segment(block: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block


def overlapping_exif(entries: int = 5000, kind: int = 7, count: int = 60_000) -> bytes:
    """Make EXIF of 65 kB whose entries all have the same 60 kB as their values."""
    rows = b"".join(struct.pack("<HHII", 1000 + number, kind, count, 100) for number in range(entries))
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + rows + b"\0\0\0\0"
    return block.ljust(65_000, b"\1")


def inner_exif() -> bytes:
    """Make EXIF whose first directory is harmless, and points to one with overlapping values."""
    inner = overlapping_exif()[14:]
    first = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26) + b"\0\0\0\0"
    return b"Exif\0\0II*\0\x08\0\0\0" + first + inner[: 65_000 - 32]


def tiff(tags, tail: bytes = b"") -> bytes:
    """Make a TIFF file of tags: number, type, count, and a number or the bytes of the values."""
    rows, values = b"", b""
    base = 14 + 12 * len(tags)
    for tag, kind, count, value in sorted(tags):
        content = struct.pack("<I", value) if isinstance(value, int) else value
        if len(content) > 4:
            content, values = struct.pack("<I", base + len(values)), values + content
        rows += struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0")
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows + b"\0\0\0\0" + values + tail


def grey_tags(width: int, height: int, compression: int = 8):
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
    ]


def tiled(tile: int, side: int = 100) -> bytes:
    return tiff([*grey_tags(side, side), (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 600), (325, 4, 1, 9)], bytes(600))


def tiled_twice(tile: int, stated: int) -> bytes:
    """Make a TIFF that states the size of its tiles twice: libtiff takes the first, Pillow the last."""
    tags = [*grey_tags(100, 100), (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 600), (325, 4, 1, 9)]
    content = tiff([*tags, (322, 4, 1, stated), (323, 4, 1, stated)], bytes(600))
    for tag in (322, 323):
        first, second = (struct.pack("<HHII", tag, 4, 1, side) for side in (tile, stated))
        content = content.replace(second + first, first + second)
    return content


def equal_strips(strips: int = 20_000, num_bytes: int = 1_000_000) -> bytes:
    """Make a TIFF whose strips are all the same bytes of the file."""
    positions, sizes = (struct.pack("<I", value) * strips for value in (300_000, num_bytes))
    return tiff(
        [*grey_tags(100, strips), (278, 4, 1, 1), (273, 4, strips, positions), (279, 4, strips, sizes)], bytes(num_bytes)
    )


def scans_in_strips() -> bytes:
    """Make a TIFF whose strips are the same progressive JPEG with many scans."""
    stream = repeated_scans(2000, 300)
    positions, sizes = (struct.pack("<I", value) * 10 for value in (1000, len(stream)))
    tags = [*grey_tags(2000, 20_000, 7), (278, 4, 1, 2000), (273, 4, 10, positions), (279, 4, 10, sizes)]
    return tiff(tags).ljust(1000, b"\0") + stream


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Make a PNG with chunks in front of its pixels."""
    content = picture("PNG")
    return content[:33] + b"".join(png_chunk(*chunk) for chunk in chunks) + content[33:]


def gif(extension: bytes) -> bytes:
    content = picture("GIF", mode="P")
    start = content.index(b",")
    return content[:start] + extension + content[start:]


def run_lengths(width: int, height: int) -> bytes:
    """Make a BMP whose rows end after one pixel: Pillow fills the rest of each in a loop."""
    rows = b"\x01\x00\0\0" * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + header + bytes(1024) + rows


def codestream(width: int, tile: int, layers: int = 1, block: int = 4, precinct: int | None = None) -> bytes:
    """Make a JPEG 2000 codestream without pixels; exponents of two for the sides of code blocks and precincts."""
    sizes = b"" if precinct is None else bytes([precinct * 17] * 6)
    siz = struct.pack(">HIIIIIIIIH", 0, width, width, 0, 0, tile, tile, 0, 0, 1) + b"\x07\x01\x01"
    cod = bytes([bool(sizes), 0]) + struct.pack(">H", layers) + bytes([0, 5, block - 2, block - 2, 0, 1]) + sizes
    qcd = bytes([0x40] + [0x48] * 16)
    segments = b"".join(_j2k(code, content) for code, content in ((0x51, siz), (0x52, cod), (0x5C, qcd)))
    return b"\xff\x4f" + segments + _j2k(0x90, struct.pack(">HIBB", 0, 0, 0, 1)) + b"\xff\x93" + bytes(99) + b"\xff\xd9"


def _j2k(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def shared_items() -> bytes:
    """Make a HEIF file whose list of items covers its bytes thousands of times."""
    extents = 3000
    items = struct.pack(">HHHH", 1, 0, 0, extents) + struct.pack(">II", 100, 1_000_000) * extents
    iloc = _box(b"iloc", b"\0\0\0\0\x44\0\0\x01" + items[:4] + items[6:])
    return _box(b"ftyp", b"heic\0\0\0\0mif1heic") + _box(b"meta", bytes(4) + iloc) + _box(b"mdat", bytes(1_000_000))


def large_grid(width: int) -> bytes:
    """Make a HEIF file whose picture is a grid of tiles, which it states to be large."""
    entry = _box(b"infe", b"\x02\0\0\0" + struct.pack(">HH", 1, 0) + b"grid\0")
    iinf = _box(b"iinf", bytes(4) + struct.pack(">H", 1) + entry)
    iloc = _box(b"iloc", b"\x01\0\0\0\x44\0" + struct.pack(">HHHHHII", 1, 1, 1, 0, 1, 0, 12))
    idat = _box(b"idat", b"\0\x01\0\0" + struct.pack(">II", width, width))
    return _box(b"ftyp", b"heic\0\0\0\0mif1heic") + _box(b"meta", bytes(4) + iinf + iloc + idat)


def wide_tiles(columns: int = 64, side: int = 4096, width: int = 64) -> bytes:
    """Make a HEIF file with a small picture, a grid of large tiles that all are one item."""
    entries = b"".join(
        _box(b"infe", b"\x02\0\0\0" + struct.pack(">HH", number, 0) + kind + b"\0")
        for number, kind in ((1, b"grid"), (2, b"hvc1"))
    )
    iinf = _box(b"iinf", bytes(4) + struct.pack(">H", 2) + entries)
    iloc = _box(b"iloc", b"\x01\0\0\0\x44\0" + struct.pack(">HHHHHII", 1, 1, 1, 0, 1, 0, 8))
    idat = _box(b"idat", bytes([0, 0, 0, columns - 1]) + struct.pack(">HH", width, 64))
    iref = _box(b"iref", bytes(4) + _box(b"dimg", struct.pack(">HH", 1, columns) + struct.pack(">H", 2) * columns))
    ispe = _box(b"ispe", bytes(4) + struct.pack(">II", side, side))
    ipma = _box(b"ipma", bytes(4) + struct.pack(">IHBB", 1, 2, 1, 0x81))
    meta = iinf + iloc + idat + iref + _box(b"iprp", _box(b"ipco", ispe) + ipma)
    return _box(b"ftyp", b"heic\0\0\0\0mif1heic") + _box(b"meta", bytes(4) + meta)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


BOMBS = {
    "JPEG, last scan repeated": (repeated_scans(2000, 1000), "scans"),
    "JPEG, many scans of few pixels": (repeated_scans(16, 1001), "scans"),
    "JPEG, large picture": (repeated_scans(5000, 200), "samples"),
    "JPEG, baseline in scans": (separate_scans(64, 1001), "scans"),
    "JPEG, baseline in scans of equal ids": (with_equal_ids(separate_scans(64, 1001)), "scans"),
    "JPEG, tables between scans": (
        repeated_scans(16, 1).replace(b"\xff\xd9", b"\xff\xfe\0\x02" * 10_001 + b"\xff\xd9"),
        "between",
    ),
    "JPEG, empty EXIF segments": (with_segments(b"\xff\xe1\0\x0aExif\0\0II", 1100), "segments"),
    "JPEG, EXIF between large segments": (
        with_segments(exif_segment(b"Exif\0\0II") + exif_segment(bytes(34_000)), 1100),
        "segments of EXIF",
    ),
    "JPEG, comments": (with_segments(b"\xff\xfe\0\x02", 1100), "segments"),
    "JPEG, profiles": (with_segments(b"\xff\xe2\0\x10ICC_PROFILE\0\1\1", 1100), "segments"),
    "JPEG, fill bytes": (with_segments(b"\xff", 1_100_000), "bytes between"),
    "JPEG, stray bytes": (with_segments(b"x", 1_100_000), "bytes between"),
    "JPEG, 17 MB of EXIF": (with_segments(exif_segment(b"Exif\0\0II".ljust(65_000, b"\0")), 270), "its EXIF"),
    "JPEG, EXIF that begins again": (with_segments(exif_segment(b"Exif\0\0" * 10_000), 99), "begins"),
    "PNG, EXIF that begins again": (png((b"eXIf", b"Exif\0\0" * 100_000)), "begins"),
    "JPEG, overlapping EXIF": (with_segments(exif_segment(overlapping_exif()), 1), "tags"),
    "JPEG, overlapping inner EXIF": (with_segments(exif_segment(inner_exif()), 1), "tags"),
    "JPEG, overlapping multi-picture tags": (
        with_segments(b"\xff\xe2" + struct.pack(">H", 64_996) + b"MPF\0" + overlapping_exif()[6:64_996], 1),
        "tags",
    ),
    "PNG, overlapping EXIF": (picture("PNG", exif=overlapping_exif()[6:]), "tags"),
    "WebP, overlapping EXIF": (picture("WEBP", exif=overlapping_exif()), "tags"),
    "AVIF, overlapping EXIF": (picture("AVIF", exif=overlapping_exif()), "tags"),
    "PNG, profiles": (png(*[(b"iCCP", b"x\0\0" + _MEGABYTE)] * 300), "compressed metadata"),
    "PNG, damaged texts": (png(*[(b"zTXt", b"x\0\0" + _MEGABYTE[:-4] + b"abcd")] * 300), "compressed metadata"),
    "PNG, empty chunks": (png(*[(b"abCd", b"")] * 10_001), "chunks"),
    "PNG, empty pixels": (png(*[(b"IDAT", b"")] * 10_001), "chunks"),
    "WebP, empty chunks": (picture("WEBP") + b"abcd\0\0\0\0" * 10_001, "chunks"),
    "GIF, long comment": (gif(b"!\xfe" + (b"\xff" + bytes(255)) * 4200 + b"\0"), "in front of"),
    "GIF, empty extensions": (gif(b"!\xfe\0" * 350_000), "in front of"),
    "GIF, stray bytes": (gif(b"x" * 1_100_000), "in front of"),
    "BMP, run lengths": (run_lengths(13_000, 13_000), "run lengths"),
    "PNM, comments": (b"P2\n9 9 255\n" + b"#\n" * 1100 + b"7 " * 81, "comments"),
    "PNM, long header": (b"P2\n#" + b"x" * 70_000 + b"\n9 9 255\n" + b"7 " * 81, "header"),
    "PNM, slow form": (b"P6\n9000 9000 254\n", "slow form"),
    "TIFF, large tile": (tiled(26_000), "tiles of"),
    "TIFF, tiles stated twice": (tiled_twice(26_000, 112), "tiles of"),
    "TIFF, overlapping tags": (
        tiff([*grey_tags(9, 9), *((40_000 + n, 7, 90_000, 100) for n in range(99))], bytes(90_000)),
        "tags",
    ),
    "TIFF, many fractions": (tiff([*grey_tags(9, 9), (40_000, 5, 100_001, 200)], bytes(900_000)), "fractions"),
    "TIFF, equal strips": (equal_strips(), "strips"),
    "TIFF, scans in strips": (scans_in_strips(), "scans"),
    "JPEG 2000, small tiles": (codestream(6000, 16), "tiles"),
    "JPEG 2000, small precincts": (codestream(6000, 6000, precinct=1), "precincts"),
    "JPEG 2000, small blocks": (codestream(13_000, 13_000, block=2), "code blocks"),
    "JPEG 2000, layers": (codestream(3000, 3000, layers=65_535, precinct=7), "layers"),
    "HEIF, shared items": (shared_items(), "items"),
    "HEIF, tiles beyond the picture": (wide_tiles(), "tiles of 4096"),
    "HEIF, one large tile": (wide_tiles(1, 8192), "tiles of 8192"),
    "HEIF, large grid": (large_grid(30_000), "pixels"),
}

USUAL = {
    "progressive": picture("JPEG", 600, 400, progressive=True),
    "progressive with metadata": with_segments(exif_segment(b"Exif\0\0II*\0\x08\0\0\0\0\0"), 1),
    "a panorama with 1,100 segments of XMP": with_segments(
        exif_segment(b"http://ns.adobe.com/xmp/extension/\0".ljust(17_000)), 1100
    ),
    "20 profile segments": with_segments(b"\xff\xe2\0\x10ICC_PROFILE\0\1\1", 20),
    "PNG": picture("PNG", 600, 400),
    "GIF": gif(b"!\xfe\x05hello\0"),
    "BMP": picture("BMP"),
    "run lengths": run_lengths(60, 40),
    "PGM in text": b"P2\n# made by hand\n3 1 255\n" + b"0 # black\n100 255\n",
    "PPM": picture("PPM"),
    "12 bits": b"P5\n2 1 4095\n" + struct.pack(">HH", 0, 4095),
    "WebP": picture("WEBP"),
    "AVIF": picture("AVIF"),
    "TIFF": picture("TIFF", compression="tiff_lzw"),
    "TIFF in JPEG": picture("TIFF", 600, 400, compression="jpeg"),
    "JPEG 2000": picture("JPEG2000", 600, 400),
    "JPEG 2000 in tiles": picture("JPEG2000", 600, 400, tile_size=(128, 128)),
}
