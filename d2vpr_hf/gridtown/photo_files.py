"""The files of rendered photos: names, rows of GSV-Cities tables, and JPEG bytes with EXIF positions."""

import io
from typing import Any, NamedTuple

import torch
import utm
from PIL import Image
from PIL.ExifTags import GPS, IFD

from d2vpr_hf.gridtown.city import UTM_ZONE, City
from d2vpr_hf.gridtown.photo_spec import NUM_HEADINGS, Photo


class CameraPosition(NamedTuple):
    """UTM east and north in metres of `UTM_ZONE`, latitude and longitude in degrees."""

    east: float
    north: float
    latitude: float
    longitude: float


def city_name(city: City) -> str:
    """Return the name of a city, in the form of GSV-Cities' names."""
    return f"Gridtown{city.seed}"


def position(city: City, photo: Photo) -> CameraPosition:
    """Return the position of a photo's camera."""
    east, north = (float(part) for part in city.to_utm(photo.camera.x, photo.camera.y))
    latitude, longitude = utm.to_latlon(east, north, *UTM_ZONE)
    return CameraPosition(east, north, float(latitude), float(longitude))


def at_name(city: City, photo: Photo) -> str:
    """Return the file name of a photo by the `@` convention, with its condition as the note."""
    east, north, latitude, longitude = position(city, photo)
    number, letter = UTM_ZONE
    pano = f"{city.seed}-{photo.place}-{photo.heading}-{photo.visit}"
    heading = f"{round(float(city.heading(photo.camera.yaw)), 2) % 360:.2f}"
    parts = [f"{east:.2f}", f"{north:.2f}", number, letter, f"{latitude:.6f}", f"{longitude:.6f}", pano, "", heading]
    return "@".join(["", *map(str, parts), "", "", f"{photo.camera.height:.2f}", "", photo.condition, ".jpg"])


def gsv_row(city: City, photo: Photo) -> dict[str, Any]:
    """Return the row of a photo in a GSV-Cities table, in which each view of a place is a place."""
    camera = position(city, photo)
    return {
        "place_id": photo.place * NUM_HEADINGS + photo.heading,
        "year": 2000 + photo.visit % 100,
        "month": 1 + photo.visit % 12,
        "northdeg": int(city.heading(photo.camera.yaw)) % 360,
        "city_id": city_name(city),
        "lat": round(camera.latitude, 7),
        "lon": round(camera.longitude, 7),
        "panoid": f"{photo.place}-{photo.heading}-{photo.visit}",
    }


def gsv_name(city: City, photo: Photo) -> str:
    """Return the file name of a photo in GSV-Cities' form."""
    row = gsv_row(city, photo)
    date_and_heading = f"{row['year']:04d}_{row['month']:02d}_{row['northdeg']:03d}"
    return f"{row['city_id']}_{row['place_id']:07d}_{date_and_heading}_{row['lat']}_{row['lon']}_{row['panoid']}.jpg"


def encode_jpeg(pixels: torch.Tensor, photo: Photo, city: City) -> bytes:
    """Compress (3, height, width) uint8 pixels with the photo's JPEG quality, and add its position and heading as EXIF."""
    file = io.BytesIO()
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.save(file, "JPEG", quality=photo.conditions.jpeg_quality, exif=_exif(city, photo))
    return file.getvalue()


def _exif(city: City, photo: Photo) -> Image.Exif:
    camera = position(city, photo)
    exif = Image.Exif()
    exif[IFD.GPSInfo] = {
        GPS.GPSLatitudeRef: "N",  # all cities are north of the equator and east of Greenwich
        GPS.GPSLatitude: _sexagesimal(camera.latitude),
        GPS.GPSLongitudeRef: "E",
        GPS.GPSLongitude: _sexagesimal(camera.longitude),
        GPS.GPSImgDirectionRef: "T",
        GPS.GPSImgDirection: float(city.heading(photo.camera.yaw)),
    }
    return exif


def _sexagesimal(degrees: float) -> tuple[float, float, float]:
    """Convert degrees to degrees, minutes and seconds."""
    minutes, seconds = divmod(degrees * 3600, 60)
    whole_degrees, minutes = divmod(minutes, 60)
    return whole_degrees, minutes, seconds
