"""Small pictures of photos as data URIs: the browser fetches nothing, and they have no EXIF."""

import base64
import functools
import io
from pathlib import Path

from PIL import Image

from d2vpr_hf.modeling.image_processing_d2vpr import to_rgb_image
from d2vpr_hf.readers import UnreadablePhotoError, open_photo

_QUALITY = 82


def picture_uri(photo: Path, side: int = 480) -> str | None:
    """Return a photo, upright and no larger than `side` pixels, as a JPEG in a data URI; `None` if it cannot be shown."""
    try:
        image = open_photo(photo)
    except UnreadablePhotoError:
        return None
    image.thumbnail((side, side))
    file = io.BytesIO()
    _without_metadata(to_rgb_image(image)).save(file, "JPEG", quality=_QUALITY)
    return jpeg_uri(file.getvalue())


def jpeg_uri(content: bytes) -> str:
    """Return a JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


@functools.lru_cache(maxsize=1024)
def map_picture_uri(photo: Path, side: int = 480) -> str | None:
    """Return [`picture_uri`] of a photo of the Space's map, cached in memory; never use this for visitors' photos."""
    return picture_uri(photo, side)


def _without_metadata(image: Image.Image) -> Image.Image:
    plain = Image.new("RGB", image.size)
    plain.paste(image)
    return plain
