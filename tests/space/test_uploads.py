"""Uploads: refused with a sentence, never written outside their folder, never unpacked beyond the limits."""

import random
import stat
import struct
import zipfile
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image

from d2vpr_hf.space.uploads import Limits, UploadError, check_photo, collect_photos, safe_name
from tests.photos import draw, jpeg, save, zipped

SMALL = Limits(photos=4, photo_bytes=30_000, pixels=10_000, zip_entries=10, unpacked_bytes=100_000)


def files_under(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_photos_are_collected_and_other_files_skipped(tmp_path):
    pillow_heif.register_heif_opener()
    draw(3).save(tmp_path / "phone.HEIC", format="HEIF")
    (tmp_path / "broken.jpg").write_text("not a photo")
    archive = zipped(tmp_path / "more.zip", [("a/one.jpg", jpeg()), ("__MACOSX/a/._one.jpg", b"x"), ("a/notes.txt", b"hello")])
    files = [save(tmp_path / "first.jpg", 1), tmp_path / "phone.HEIC", tmp_path / "broken.jpg", archive]
    collected = collect_photos(files, tmp_path / "out", SMALL)
    assert [path.name for path in collected.photos] == ["first.jpg", "phone.HEIC", "one.jpg"]
    assert collected.skipped == {"broken.jpg": "not an image", "a/notes.txt": "not a photo by its name"}
    assert files_under(tmp_path / "out") == ["0000/first.jpg", "0001/phone.HEIC", "0002/one.jpg"]
    assert (tmp_path / "out" / "0002" / "one.jpg").read_bytes() == jpeg()


def test_thumbnails_and_deleted_photos_of_a_zip_are_skipped_and_named(tmp_path):
    names = ["a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".Trash/b.jpg", "DCIM/.trashed-17-c.jpg"]
    collected = collect_photos([zipped(tmp_path / "a.zip", [(name, jpeg()) for name in names])], tmp_path / "out", SMALL)
    assert [path.name for path in collected.photos] == ["a.jpg"]
    assert list(collected.skipped) == names[1:]
    assert collected.skipped[".Trash/b.jpg"] == "one of the photos in bins of deleted files"


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "a/../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg", "a/..", "C:evil.jpg"]
)
def test_paths_out_of_the_folder_are_refused(tmp_path, name):
    archive = zipped(tmp_path / "evil.zip", [("good.jpg", jpeg()), (name, jpeg())])
    with pytest.raises(UploadError, match=r"has a path out of its folder .* Nothing was read"):
        collect_photos([archive], tmp_path / "in" / "out", SMALL)
    assert files_under(tmp_path) == ["evil.zip"]


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = zipped(tmp_path / "link.zip", [(link, "/etc/passwd")])
    with pytest.raises(UploadError, match="has a link"):
        collect_photos([archive], tmp_path / "out", SMALL)


def test_a_bomb_is_not_unpacked(tmp_path):
    """10 MB of zeros in 10 kB: the zip's list of files is enough to refuse it."""
    bomb = zipped(tmp_path / "bomb.zip", [("zeros.jpg", bytes(10_000_000))])
    with pytest.raises(UploadError, match="would unpack to 10 MB"):
        collect_photos([bomb], tmp_path / "out", SMALL)
    with pytest.raises(UploadError, match="would unpack to 300 MB"):  # below all sizes, but the ratio is too high for photos
        collect_photos([zipped(tmp_path / "b.zip", [("z.jpg", bytes(300_000_000))])], tmp_path / "out", Limits(ratio=100))
    assert not (tmp_path / "out").exists()


def test_a_bomb_with_a_false_size_is_cut_off(tmp_path):
    """The list states 100 bytes, the content has 10 MB: at most the size of a photo may be written."""
    bomb = zipped(tmp_path / "bomb.zip", [("zeros.jpg", bytes(10_000_000))])
    content = bytearray(bomb.read_bytes())
    for position in (content.index(b"PK\x01\x02") + 24, 22):  # uncompressed size in the list and before the content
        struct.pack_into("<I", content, position, 100)
    bomb.write_bytes(content)
    with pytest.raises(UploadError, match="damaged"):
        collect_photos([bomb], tmp_path / "out", SMALL)
    assert sum(path.stat().st_size for path in tmp_path.rglob("out/**/*") if path.is_file()) <= SMALL.photo_bytes + (1 << 20)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93, 9, 98])
def test_rare_compressions_are_refused(tmp_path, method):
    """A zip of some kilobytes took 1.5 GB: Python unpacks bzip2 and LZMA without a limit, whatever size the zip states."""
    archive = zipped(tmp_path / "a.zip", [("photo.jpg", jpeg())])
    content = bytearray(archive.read_bytes())
    for position in (content.index(b"PK\x01\x02") + 10, 8):
        struct.pack_into("<H", content, position, method)
    archive.write_bytes(content)
    with pytest.raises(UploadError, match="packed in an unusual way"):
        collect_photos([archive], tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


def test_a_large_list_of_files_is_not_read(tmp_path):
    """A list of millions of files would be read into memory before it is counted."""
    archive = zipped(tmp_path / "a.zip", [("photo.jpg", jpeg())])
    content = archive.read_bytes()
    end = content.index(b"PK\x05\x06")
    for count, size in ((1, 500_000_000), (60_000, 60)):
        forged = bytearray(content)
        struct.pack_into("<HHI", forged, end + 8, count, count, size)
        archive.write_bytes(forged)
        with pytest.raises(UploadError, match="at most 10 are allowed"):
            collect_photos([archive], tmp_path / "out", SMALL)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, 10**8, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)  # a second record, which zipfile prefers
    archive.write_bytes(content[:end] + record + locator + content[end:])
    with pytest.raises(UploadError, match="at most 10 are allowed"):
        collect_photos([archive], tmp_path / "out", SMALL)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_zips_are_refused_with_a_sentence(tmp_path, seed):
    """Whatever zipfile raises on damage, the visitor gets a sentence."""
    content = zipped(tmp_path / "a.zip", [(f"{number}.jpg", jpeg(number)) for number in range(2)]).read_bytes()
    draws = random.Random(seed)
    for number in range(40):
        damaged = bytearray(content)
        for _ in range(draws.randint(1, 8)):
            damaged[draws.randrange(len(damaged))] = draws.randrange(256)
        (tmp_path / "b.zip").write_bytes(damaged[: draws.randint(20, len(damaged))] if number % 2 else damaged)
        try:
            collect_photos([tmp_path / "b.zip"], tmp_path / f"out{number}", SMALL)
        except UploadError as error:
            assert str(tmp_path) not in str(error)


def test_photos_that_take_too_long_together_are_refused(tmp_path):
    files = [save(tmp_path / f"{number}.jpg", number) for number in range(2)]
    with pytest.raises(UploadError, match="take longer than -1 seconds"):
        collect_photos(files, tmp_path / "out", Limits(seconds=-1))


def test_too_many_files_are_refused(tmp_path):
    photos = [save(tmp_path / f"{i}.jpg", i) for i in range(5)]
    with pytest.raises(UploadError, match=r"more than 4 photos\. Up to 4 photos"):
        collect_photos(photos, tmp_path / "out", SMALL)
    with pytest.raises(UploadError, match="has 5 photos"):
        collect_photos([zipped(tmp_path / "5.zip", [(f"{i}.jpg", jpeg()) for i in range(5)])], tmp_path / "out", SMALL)
    with pytest.raises(UploadError, match="lists 11 files"):
        collect_photos([zipped(tmp_path / "11.zip", [(f"{i}.txt", "") for i in range(11)])], tmp_path / "out", SMALL)


def test_files_that_are_too_large_are_refused(tmp_path):
    draw(1, height=100, width=100).save(tmp_path / "pixels.png")
    (tmp_path / "bytes.jpg").write_bytes(jpeg() + bytes(40_000))
    with pytest.raises(UploadError, match=r"it has 0\.0 megapixels, and photos must have fewer than 0\.01"):
        check_photo(tmp_path / "pixels.png", SMALL)
    with pytest.raises(UploadError, match=r"larger than 0\.03 MB"):
        check_photo(tmp_path / "bytes.jpg", SMALL)
    collected = collect_photos([save(tmp_path / "good.jpg", 1), tmp_path / "bytes.jpg"], tmp_path / "out", SMALL)
    assert len(collected.photos) == 1 and files_under(tmp_path / "out") == ["0000/good.jpg"]
    photos = [save(tmp_path / f"{i}.bmp", i) for i in range(4)]  # 16 kB each
    with pytest.raises(UploadError, match="take more than"):
        collect_photos(photos, tmp_path / "out2", Limits(photos=9, unpacked_bytes=40_000))


def test_fifty_megapixels_are_refused_without_decoding(tmp_path):
    Image.new("1", (10_000, 5_000)).save(tmp_path / "50.png")
    Image.new("1", (9_999, 5_000)).save(tmp_path / "49.png")
    with pytest.raises(UploadError, match=r"50\.0 megapixels, and photos must have fewer than 50"):
        check_photo(tmp_path / "50.png")
    check_photo(tmp_path / "49.png")


def test_files_that_are_not_photos_are_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "false.zip").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UploadError, match="cannot be used: not an image"):
        check_photo(tmp_path / "text.jpg")
    with pytest.raises(UploadError, match=r"false\.zip is not a readable zip"):
        collect_photos([tmp_path / "false.zip"], tmp_path / "out")
    with pytest.raises(UploadError, match=r"no photo .*notes\.txt: not a photo by its name.* Up to 300 photos"):
        collect_photos([tmp_path / "notes.txt"], tmp_path / "out")
    with pytest.raises(UploadError, match="no photo"):
        collect_photos([], tmp_path / "out")


def test_a_zip_with_a_password_or_damage_is_refused(tmp_path):
    archive = zipped(tmp_path / "locked.zip", [("a.jpg", jpeg())])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UploadError, match="password"):
        collect_photos([archive], tmp_path / "out")
    archive = zipped(tmp_path / "damaged.zip", [("a.jpg", jpeg())])
    content = bytearray(archive.read_bytes())
    content[60:80] = bytes(20)
    archive.write_bytes(content)
    with pytest.raises(UploadError, match="The zip is damaged: Bad CRC"):
        collect_photos([archive], tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b/c.jpg", "c.jpg"),
        ("..\\..\\x.jpg", "x.jpg"),
        ("<img src=x>.png", "_img src_x_.png"),
        ("...", "photo"),
        ("Straße 1.HEIC", "Straße 1.HEIC"),
        ("x" * 300 + ".jpg", "x" * 116 + ".jpg"),
        ("\U00020000" * 300 + ".jpg", "\U00020000" * 59 + ".jpg"),
        ("a\ud800\x1b[31m\u202e.jpg", "a___31m_.jpg"),
    ],
)
def test_safe_names(name, safe):
    assert safe_name(name) == safe and Path(safe).name == safe
