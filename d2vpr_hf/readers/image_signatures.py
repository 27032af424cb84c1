"""Formats of images by the first bytes of their files.

Sources: the table of signatures of `file` (magic/Magdir/images, jpeg, riff), and ISO/IEC 23008-12 for the brands of HEIF.
"""

import re

NUM_BYTES = 64  # first bytes that `image_format` needs

READ = ("JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "JPEG 2000", "HEIF", "AVIF", "PNM")  # formats of photos that are read

_SIGNATURES: tuple[tuple[str, str], ...] = (
    (r"\xff\xd8\xff", "JPEG"),
    (r"\x89PNG\r\n\x1a\n", "PNG"),
    (r"GIF8[79]a", "GIF"),
    (r"BM.{4}\0{4}.{4}[\x0c(4@8l|]\0{3}", "BMP"),  # two letters alone begin texts too: the reserved zeros and the header's size
    (r"RIFF.{4}WEBP", "WebP"),
    (r"II\*\0.{4}CR", "Canon raw"),
    (r"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (r"\0{3}\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\0", "JPEG 2000"),
    (r"\0{3}\x0cJXL \r\n\x87\n|\xff\x0a", "JPEG XL"),
    (r".{4}ftyp(.{4})*?avi[fs]", "AVIF"),
    (r".{4}ftyp(.{4})*?(hei[cxms]|hev[cxms]|mi[fa][12f]|msf1)", "HEIF"),
    (r".{4}ftypcrx ", "Canon raw"),
    (r"P[1-6]\s+(\d+\s|#)", "PNM"),
    (r"P[Ff]\s+\d+\s", "PFM"),
    (r"P7\nWIDTH ", "PAM"),
    (r"8BPS\0[\x01\x02]", "Photoshop"),
    (r"v/1\x01", "OpenEXR"),
    (r"#\?(RADIANCE|RGBE)", "Radiance HDR"),
    (r"qoif", "QOI"),
    (r"SIMPLE  =", "FITS"),
    (r"DDS \|\0{3}", "DDS"),
    (r"gimp xcf ", "GIMP"),
    (r"IIR[OS]|MMOR", "Olympus raw"),
    (r"IIU\0", "Panasonic raw"),
    (r"FUJIFILMCCD-RAW", "Fujifilm raw"),
    (r"FOVb", "Sigma raw"),
    (r"\0MRM", "Minolta raw"),
    (r"II\x1a\0{3}HEAPCCDR", "Canon raw"),
    (r"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]", "SGI"),
    (r"\x59\xa6\x6a\x95", "Sun raster"),
    (r"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]", "PCX"),
    (r"\0\0\x01\0[\x01-\xff]\0", "icon"),
)
_PATTERNS = [(re.compile(pattern.encode("latin-1"), re.DOTALL), name) for pattern, name in _SIGNATURES]


def image_format(first_bytes: bytes) -> str | None:
    """Return the format of an image, such as `"JPEG XL"`, from its first `NUM_BYTES` bytes; `None` for other files."""
    return next((name for pattern, name in _PATTERNS if pattern.match(first_bytes)), None)
