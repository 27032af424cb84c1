"""Small pictures of photos, as data URIs: nothing to fetch, nothing of EXIF in them."""

import base64
import functools
import io
from pathlib import Path

from PIL import Image

from d2vpr_hf.modeling.image_processing_d2vpr import to_rgb_image
from d2vpr_hf.readers import UnreadablePhotoError, open_photo

_QUALITY = 82


def picture_uri(photo: Path, side: int = 480) -> str:
    """Return a photo, upright and no larger than `side` pixels, as a JPEG in a data URI.

    Raises:
        UnreadablePhotoError: If it cannot be decoded.
    """
    image = open_photo(photo)
    image.thumbnail((side, side))
    file = io.BytesIO()
    _without_metadata(to_rgb_image(image)).save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


@functools.lru_cache(maxsize=1024)
def map_picture_uri(photo: Path, side: int = 480) -> str | None:
    """Return the picture of a photo of the Space's own map, kept in memory; `None` if it cannot be shown."""
    try:
        return picture_uri(photo, side)
    except UnreadablePhotoError:
        return None


def _without_metadata(image: Image.Image) -> Image.Image:
    plain = Image.new("RGB", image.size)
    plain.paste(image)
    return plain


__all__ = ["map_picture_uri", "picture_uri"]
