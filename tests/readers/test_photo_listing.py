"""A folder's photos are listed alike on every machine, and each skipped photo is named or counted."""

import os
import socket
import struct

import pillow_heif
import pytest
from PIL import Image

from d2vpr_hf import PlaceEncoder, index_photos
from d2vpr_hf.readers import find_photos, open_photo, read_places
from d2vpr_hf.readers.image_signatures import NUM_BYTES, image_format
from d2vpr_hf.readers.photo_listing import LINKED_FOLDERS, LINKED_PHOTOS, list_photos
from d2vpr_hf.readers.program_files import BINS, SYSTEM, THUMBNAILS, VERSIONS, program_file


def save(path, colour=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), (colour, 0, 0)).save(path, "JPEG")
    return path


def names(listing, folder):
    return [photo.relative_to(folder).as_posix() for photo in listing.photos]


def counts(listing):
    return {remark.text: remark.count for remark in listing.remarks}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", THUMBNAILS),
        ("album/.@__thumb/default_a.jpg", THUMBNAILS),
        ("Catalog Previews.lrdata/0/00.jpg", THUMBNAILS),
        ("Fotos.photoslibrary/resources/derivatives/a.jpg", THUMBNAILS),
        ("GOPR0001.THM", THUMBNAILS),
        ("appdata_oc1x2y/preview/a/b.jpg", THUMBNAILS),
        ("iPhoto Library/Thumbnails/2011/a.jpg", THUMBNAILS),
        ("iPhoto Library/Data.noindex/2011/a.jpg", THUMBNAILS),
        (".photoprism/cache/a.jpg", THUMBNAILS),
        ("storage/cache/thumbnails/1/a.jpg", THUMBNAILS),
        ("CaptureOne/Cache/a.jpg", THUMBNAILS),
        ("Catalog.lrcat-data/a.jpg", THUMBNAILS),
        ("home/.local/share/Trash/files/a.jpg", BINS),
        (".Recycle/a.jpg", BINS),
        ("Recycle Bin/a.jpg", BINS),
        (".snapshots/1/a.jpg", VERSIONS),
        ("@Recycle/a.jpg", BINS),
        ("Recycle Bin - Volume_1/a.jpg", BINS),
        ("FOUND.000/a.jpg", BINS),
        ("#RECYCLE/a.jpg", BINS),
        (".Trashes/501/a.jpg", BINS),
        (".Trash-1000/files/a.jpg", BINS),
        ("RECYCLER/S-1/Dc1.jpg", BINS),
        ("DCIM/.trashed-1717171717-IMG_1.jpg", BINS),
        ("@Recently-Snapshot/daily/a.jpg", VERSIONS),
        ("#snapshot/daily/a.jpg", VERSIONS),
        (".sync/Archive/a.jpg", VERSIONS),
        (".dropbox.cache/a.jpg", VERSIONS),
        (".picasaoriginals/a.jpg", VERSIONS),
        ("DCIM/.pending-1717171717-IMG_1.jpg", VERSIONS),
        ("@tmp/a.jpg", VERSIONS),
        (".AppleDouble/a.jpg", SYSTEM),
        ("sub/._a.jpg", SYSTEM),
        (".git/annex/objects/a.jpg", SYSTEM),
        (".Spotlight-V100/a.jpg", SYSTEM),
        (".hidden/a.jpg", None),
        (".hidden.jpg", None),
        ("Thumbs up/a.jpg", None),
        ("thumbs/a.jpg", None),
        ("thumbnails of Rome/a.jpg", None),
        (".thumbsup/a.jpg", None),
        ("recycled materials/a.jpg", None),
        ("recycle bins of Oslo/a.jpg", None),
        (".recycled cars/a.jpg", None),
        ("@snapshot of Rome/a.jpg", None),
        ("Trash/a.jpg", None),
        ("iPhoto Library/Originals/a.jpg", None),
        ("trash bins of Oslo/a.jpg", None),
        ("Fotos.photoslibrary/originals/0/a.jpg", None),
        ("resources/a.jpg", None),
    ],
)
def test_files_of_programs_are_left_out_and_counted(tmp_path, path, text):
    save(tmp_path / "kept.jpg")
    save(tmp_path / path)
    listing = list_photos(tmp_path)
    assert program_file(tuple(path.split("/"))) == text
    assert names(listing, tmp_path) == sorted(["kept.jpg"] if text else ["kept.jpg", path])
    if path.endswith(".THM"):
        assert listing.skipped == {}
    assert counts(listing) == ({text: 1} if text else {})


def test_a_usual_name_is_a_programs_next_to_its_other_folders(tmp_path):
    """Immich keeps `thumbs` next to `encoded-video`."""
    for name in ("immich/thumbs/user/a.jpg", "immich/encoded-video/b.jpg", "immich/library/c.jpg", "mine/thumbs/d.jpg"):
        save(tmp_path / name)
    listing = list_photos(tmp_path)
    assert counts(listing) == {THUMBNAILS: 1}
    assert names(listing, tmp_path) == ["immich/encoded-video/b.jpg", "immich/library/c.jpg", "mine/thumbs/d.jpg"]


@pytest.mark.parametrize("kind", ["hard link", "symbolic link"])
def test_an_update_follows_the_names_of_a_file(tmp_path, kind, tiny_folder):
    """Whichever name of a file appears or disappears, the updated index has the rows of a new one."""
    encoder, photos = PlaceEncoder(tiny_folder), tmp_path / "photos"
    save(photos / "m.jpg", 1)
    save(photos / "z.jpg", 2)
    index_photos(photos, tmp_path / "index", encoder)

    def rows():
        return index_photos(photos, tmp_path / "index", encoder)[0].places.column("path")

    if kind == "hard link":
        (photos / "a.jpg").hardlink_to(photos / "m.jpg")
        assert sorted(rows()) == ["a.jpg", "z.jpg"]
    else:
        (photos / "a.jpg").symlink_to("m.jpg")
        assert sorted(rows()) == ["m.jpg", "z.jpg"]
    (photos / "m.jpg").unlink()
    (photos / "a.jpg").unlink()
    save(photos / "n.jpg", 1)
    assert sorted(rows()) == ["n.jpg", "z.jpg"]


def test_the_name_of_the_given_folder_does_not_count(tmp_path):
    folder = tmp_path / ".cache" / "@eaDir" / "lost+found"
    save(folder / "a.jpg")
    assert names(list_photos(folder), folder) == ["a.jpg"]


def test_photos_that_a_table_lists_are_photos_wherever_they_are(tmp_path):
    for name in ("a.jpg", ".cache/b.jpg", ".cache/c.jpg", "#recycle/d.jpg"):
        save(tmp_path / name)
    (tmp_path / "places.csv").write_text("path,lat,lon\na.jpg,1,2\n.cache/b.jpg,1,2\n")
    table = read_places(tmp_path)
    assert table.paths == ["a.jpg", ".cache/b.jpg"]
    assert table.skipped == {}
    assert {remark.text: remark.count for remark in table.remarks} == {SYSTEM: 1, BINS: 1}


def test_a_folder_of_thumbnails_alone_is_an_error_that_counts_them(tmp_path):
    save(tmp_path / "@eaDir" / "a.jpg")
    (tmp_path / "b.jxl").write_bytes(b"\xff\x0a" + bytes(20))
    with pytest.raises(
        FileNotFoundError, match=r"(?s)No photo in .*Skipped images: b\.jxl \(JPEG XL.*Skipped: 1 photos that are thumbnails"
    ):
        list_photos(tmp_path)


def test_find_photos_warns_of_all_that_it_leaves_out(tmp_path, caplog):
    save(tmp_path / "a.jpg")
    save(tmp_path / ".thumbnails" / "a.jpg")
    save(tmp_path / "a.jpg_original")
    assert find_photos(tmp_path) == [tmp_path / "a.jpg"]
    assert "Skipped: 1 photos that are thumbnails or previews of a program, such as .thumbnails/a.jpg." in caplog.text
    assert "a.jpg_original: JPEG under a name that does not end in a suffix of photos; rename it" in caplog.text


@pytest.mark.parametrize("suffix", ["hif", "HIF", "hifs", "heics", "heif", "ppm", "pgm", "pnm", "apng", "j2k", "avif"])
def test_photos_of_cameras_and_robots_are_read(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.linear_gradient("L").convert("L" if suffix == "pgm" else "RGB").resize((64, 48))
    if suffix.lower() in ("hif", "hifs", "heics", "heif"):
        pillow_heif.from_pillow(image).save(path)
    else:
        image.save(path, {"apng": "PNG", "j2k": "JPEG2000", "avif": "AVIF"}.get(suffix, "PPM"))
    assert [open_photo(photo).size for photo in find_photos(tmp_path)] == [(64, 48)]


SIGNATURES = {
    "a.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(8), "JPEG XL is not"),
    "a": (b"\x89PNG\r\n\x1a\n" + bytes(8), "PNG under"),
    "a.JPG.part": (b"\xff\xd8\xff\xe0" + bytes(8), "JPEG under"),
    "a.heic~": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF under"),
    "a.bak": (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf", "AVIF under"),
    "a.dng": (b"II*\0\x08\0\0\0" + bytes(8), "TIFF or a camera's raw format"),
    "a.NEF": (b"MM\0*\0\0\0\x08" + bytes(8), "TIFF or a camera's raw format"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\x02\0", "Canon raw is not"),
    "a.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "Canon raw is not"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "Fujifilm raw is not"),
    "a.psd": (b"8BPS\0\x01" + bytes(8), "Photoshop is not"),
    "a.pfm": (b"Pf\n640 480\n-1.0\n", "PFM is not"),
    "a.tga": (bytes(2) + b"\x02" + bytes(20), "TGA is not"),
}


@pytest.mark.parametrize("with_table", [False, True])
def test_images_of_other_names_and_formats_are_named(tmp_path, with_table):
    save(tmp_path / "photo.jpg")
    for name, (content, _) in SIGNATURES.items():
        (tmp_path / name).write_bytes(content)
    others = {
        "clip.mp4": b"\0\0\0\x18ftypmp42",
        "BMW.dat": b"BMW is a car",
        "P5": b"P5 is a format",
        "notes": b"",
        "x.txt": b"\xff\xd8\xff",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    if with_table:
        (tmp_path / "places.csv").write_text("path,lat,lon\nphoto.jpg,1,2\n")
    table = read_places(tmp_path)
    assert table.paths == ["photo.jpg"]
    assert table.skipped.keys() == SIGNATURES.keys()
    for name, (_, reason) in SIGNATURES.items():
        assert table.skipped[name].startswith(reason)


def test_formats_that_pillow_writes_are_recognised(tmp_path):
    written = {
        "JPEG": "JPEG",
        "PNG": "PNG",
        "GIF": "GIF",
        "BMP": "BMP",
        "WEBP": "WebP",
        "TIFF": "TIFF",
        "JPEG2000": "JPEG 2000",
    }
    written |= {"AVIF": "AVIF", "PPM": "PNM", "ICO": "icon", "PCX": "PCX", "SGI": "SGI", "DDS": "DDS", "QOI": "QOI"}
    for pillow_name, name in written.items():
        Image.new("RGB", (32, 32), (9, 8, 7)).save(tmp_path / "a", pillow_name)
        assert image_format((tmp_path / "a").read_bytes()[:NUM_BYTES]) == name
    pillow_heif.from_pillow(Image.new("RGB", (32, 32))).save(tmp_path / "a.heic")
    assert image_format((tmp_path / "a.heic").read_bytes()[:NUM_BYTES]) == "HEIF"


def test_pipes_sockets_and_devices_are_not_opened(tmp_path):
    save(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        listing = list_photos(tmp_path)
    assert (names(listing, tmp_path), listing.skipped) == (["a.jpg"], {})


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_with_several_names_is_listed_once(tmp_path, order, monkeypatch):
    """Whatever order the file system has, the real name is preferred, and then the first one."""
    save(tmp_path / "m" / "real.jpg")
    (tmp_path / "a.jpg").symlink_to("m/real.jpg")
    save(tmp_path / "z.jpg", 1)
    (tmp_path / "y.jpg").hardlink_to(tmp_path / "z.jpg")
    (tmp_path / "album").symlink_to("m")
    (tmp_path / "circle").symlink_to(".")
    scandir = os.scandir

    class Entries(list):
        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

    monkeypatch.setattr(os, "scandir", lambda path: Entries(sorted(scandir(path), key=lambda entry: entry.name)[::order]))
    listing = list_photos(tmp_path)
    assert names(listing, tmp_path) == ["m/real.jpg", "y.jpg"]
    assert counts(listing) == {LINKED_PHOTOS: 2, LINKED_FOLDERS: 2}


def test_linked_folders_outside_are_read_under_the_first_link(tmp_path):
    save(tmp_path / "outside" / "deep" / "a.jpg")
    for link, target in (("2", "../outside"), ("1", "../outside/deep"), ("3", "../outside")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / link).symlink_to(target)
    listing = list_photos(tmp_path / "photos")
    assert names(listing, tmp_path / "photos") == ["1/a.jpg"]
    assert counts(listing) == {LINKED_FOLDERS: 2}


def test_a_table_may_name_photos_by_their_links(tmp_path):
    save(tmp_path / "real" / "a.jpg")
    save(tmp_path / "real" / "b.jpg", 1)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "c.jpg").hardlink_to(tmp_path / "real" / "b.jpg")
    (tmp_path / "places.csv").write_text("path,lat,lon\nlink/a.jpg,1,2\nc.jpg,1,2\nreal/b.jpg,1,2\n")
    table = read_places(tmp_path)
    assert (table.paths, table.skipped) == (["link/a.jpg", "c.jpg", "real/b.jpg"], {})


def test_names_that_differ_by_case_or_normalisation_are_two_photos(tmp_path):
    for number, name in enumerate(("A.JPG", "a.jpg", "\u00e9.jpg", "e\u0301.jpg")):
        save(tmp_path / name, number)
    if len(list(tmp_path.iterdir())) < 4:
        pytest.skip("this file system does not tell such names apart")
    assert names(list_photos(tmp_path), tmp_path) == ["A.JPG", "a.jpg", "e\u0301.jpg", "\u00e9.jpg"]


def test_text_that_begins_like_a_bitmap_is_not_an_image():
    assert image_format(b"BM" + struct.pack("<IHHII", 100, 0, 0, 54, 40)) == "BMP"
    for text in (b"BMW cars are made in Munich, Germany", b"P3 is next", b"II*", b"GIF89", b"\xef\xbb\xbfpath,lat,lon", b""):
        assert image_format(text) is None
