"""Positions in photos: the GPS block of EXIF."""

import math
from pathlib import Path
from typing import Any

from PIL.ExifTags import GPS, IFD, Base

from d2vpr_hf.places.place import Place, check_degrees, with_utm
from d2vpr_hf.readers.photos import UnreadablePhotoError, named_errors, open_header


def place_from_exif(path: Path, folder: Path) -> Place:
    """Read the place of a photo from its EXIF. Without a usable position in EXIF, the place has no position."""
    name = path.relative_to(folder).as_posix()
    try:
        with open_header(path) as image, named_errors(path):
            exif = image.getexif()
            gps = exif.get_ifd(IFD.GPSInfo)
            taken = exif.get_ifd(IFD.Exif).get(Base.DateTimeOriginal) or exif.get(Base.DateTime)
    except UnreadablePhotoError:
        return Place(name)  # decoding the photo reports the error
    latitude = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), negative="S")
    longitude = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), negative="W")
    if latitude is None or longitude is None:
        return Place(name, timestamp=taken)
    try:
        check_degrees(latitude, longitude)
    except ValueError:
        return Place(name, timestamp=taken)
    heading = _float(gps.get(GPS.GPSImgDirection))
    return with_utm(Place(name, latitude, longitude, heading=heading, timestamp=taken))


def _degrees(parts: Any, reference: Any, negative: str) -> float | None:
    """Turn degrees, minutes, seconds and the letter of the hemisphere into signed degrees; `None` if they are malformed."""
    values = [_float(part) for part in parts] if isinstance(parts, tuple) else []
    if len(values) != 3 or None in values:
        return None
    degrees = sum(value / 60**i for i, value in enumerate(values) if value is not None)
    return -degrees if str(reference).strip("\0 ").upper() == negative else degrees


def _float(value: Any) -> float | None:
    """Turn a rational into a float; `None` if it is missing, malformed, or 0/0, which cameras write without a GPS fix."""
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None
