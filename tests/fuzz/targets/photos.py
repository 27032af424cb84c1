"""Photos, their metadata, and zips of photos."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import mutate_json
from tests.fuzz.targets.registry import Prepared, WrongAnswerError, check, check_places, file_target, target, writer


def _photo_seeds() -> list[bytes]:
    import numpy as np
    import pillow_heif
    from PIL import Image, PngImagePlugin
    from PIL.ExifTags import GPS, IFD, Base

    pillow_heif.register_heif_opener()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).resize((40, 24))
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = "2024:05:01 12:30:00"
    exif.get_ifd(IFD.Exif)[Base.OffsetTimeOriginal] = "+02:00"
    gps = exif.get_ifd(IFD.GPSInfo)
    gps.update({GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (48.0, 8.0, 13.5)})
    gps.update({GPS.GPSLongitudeRef: "E", GPS.GPSLongitude: (11.0, 34.0, 31.0)})
    gps.update({GPS.GPSImgDirection: 12.5, GPS.GPSImgDirectionRef: "T", GPS.GPSMapDatum: "WGS-84"})
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", _XMP.decode())
    forms: list[tuple[str, Any, dict[str, Any]]] = [
        ("JPEG", image, {"exif": exif, "quality": 80}),
        ("JPEG", image, {"exif": exif, "progressive": True, "xmp": _XMP}),
        ("PNG", image, {"exif": exif, "pnginfo": text}),
        ("TIFF", image.convert("L"), {"compression": "tiff_lzw", "exif": exif}),
        ("TIFF", Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60), {}),
        ("WEBP", image, {"exif": exif}),
        ("GIF", image.quantize(16), {}),
        ("BMP", image, {}),
        ("HEIF", image, {"exif": exif.tobytes()}),
    ]
    contents = []
    for name, picture, options in forms:
        file = io.BytesIO()
        picture.save(file, name, **options)
        contents.append(file.getvalue())
    return contents


@target
def photos(folder: Path) -> Prepared:
    from d2vpr_hf.readers.photos import UnreadablePhotoError, open_photo

    def read(path: Path) -> None:
        image = open_photo(path, (32, 32))
        check(min(image.size) > 0, f"a photo of {image.size}")
        image.convert("RGB").tobytes()

    return file_target(folder / "photo.jpg", _photo_seeds(), read, (UnreadablePhotoError,))


@target
def photo_metadata(folder: Path) -> Prepared:
    from d2vpr_hf.readers.folder import read_photo

    # damaged metadata are skipped and counted: no exception is right
    return file_target(folder / "photo.jpg", _photo_seeds(), lambda path: check_places(read_photo(path).places), ())


@target
def exif_values(folder: Path) -> Prepared:
    """EXIF of wrong types in an undamaged photo."""
    from PIL import Image

    from d2vpr_hf.readers.folder import read_photo
    from d2vpr_hf.readers.photos import UnreadablePhotoError, open_photo

    with Image.open(io.BytesIO(_photo_seeds()[0])) as image:
        block = image.info["exif"]
        pixels = image.copy()
    write = writer(folder / "photo.jpg")

    def run(content: bytes) -> None:
        file = io.BytesIO()
        pixels.save(file, "JPEG", exif=content[:60_000])
        path = write(file.getvalue())
        check_places(read_photo(path).places)
        try:
            open_photo(path)
        except UnreadablePhotoError as error:
            raise WrongAnswerError("an undamaged picture was refused for its EXIF") from error

    return Prepared([block], run, ())


_XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,8.225N" exif:GPSLongitude="11,34.5E"
 exif:GPSImgDirection="125/10" exif:DateTimeOriginal="2024-05-01T12:30:00+02:00"/></rdf:RDF></x:xmpmeta>"""


@target
def xmp(folder: Path) -> Prepared:
    from d2vpr_hf.readers.metadata.xmp import parse_xmp, read_xmp

    return Prepared([_XMP, _XMP.decode().encode("utf-16")], lambda content: read_xmp(parse_xmp(content)))


@target
def takeout(folder: Path) -> Prepared:
    from d2vpr_hf.readers.metadata.takeout import read_takeout

    position = {"latitude": 48.1, "longitude": 11.5, "altitude": 0.0, "latitudeSpan": 0.0, "longitudeSpan": 0.0}
    values = {"title": "a.jpg", "photoTakenTime": {"timestamp": "1714559400"}, "geoData": position, "geoDataExif": position}
    return Prepared([json.dumps(values).encode()], lambda content: read_takeout(content, "a.jpg"), mutate=mutate_json)


@target
def zips(folder: Path) -> Prepared:
    import shutil

    from d2vpr_hf.space.uploads import Limits, UploadError, collect_photos

    photo = _photo_seeds()[0]
    seeds = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("a/@1@2@.jpg", photo)
            archive.writestr("b.jpg", photo)
            archive.writestr("notes.txt", "text")
        seeds.append(file.getvalue())
    home, limits = folder / "home", Limits()

    def read(path: Path) -> None:
        home.mkdir()
        try:
            collected = collect_photos([path], home, limits)
            check(all(home in photo.resolve().parents for photo in collected.photos), "a photo outside the folder")
            check({item.name for item in folder.iterdir()} <= {"home", path.name}, "a file outside the folder")
        finally:
            shutil.rmtree(home)

    return file_target(folder / "upload.zip", seeds, read, (UploadError,))
