"""One photo never stops a folder: special files never block, and any error of a decoder names its photo."""

import os
import signal
import socket
import struct
import warnings
import zlib

import PIL.Image
import pytest

from d2vpr_hf.index.place_rows import PhotoFile
from d2vpr_hf.pretrained.fitted_photos import checksums
from d2vpr_hf.readers import UnreadablePhotoError, open_photo, read_places
from d2vpr_hf.readers.photos import find_photos, open_header
from d2vpr_hf.readers.structure.limits import LARGEST_FILE
from d2vpr_hf.retrieval.shared_photos import find_shared_photos
from d2vpr_hf.utils.regular_files import open_regular_file
from tests.photos import draw, jpeg, save


@pytest.fixture
def no_blocking():
    """Fail instead of waiting for ever."""

    def fail(*_):
        raise AssertionError("blocked for 20 s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def special_files(tmp_path, monkeypatch):
    """Return a folder of one photo, and files of its kind that block or never end."""
    folder = tmp_path / "photos"
    save(folder / "good.jpg", 0)
    os.mkfifo(folder / "fifo.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "linked.jpg").symlink_to("fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the path of a socket must be short
        server.bind("socket.jpg")
        monkeypatch.chdir(tmp_path)
    return folder


def test_special_files_never_block(special_files, no_blocking, tmp_path):
    photos = find_photos(special_files)
    assert len(photos) == 4  # the link to the pipe is another name of it
    reasons = {}
    for path in photos:
        for opened in (lambda path=path: open_photo(path), lambda path=path: open_header(path).__enter__()):
            try:
                opened()
            except UnreadablePhotoError as error:
                reasons[path.name] = str(error)
    assert reasons == dict.fromkeys(("fifo.jpg", "socket.jpg", "zero.jpg"), "not a regular file")
    for name in reasons:
        with pytest.raises(OSError, match="not a regular file"):
            PhotoFile().with_hash(special_files / name)
        with pytest.raises(UnreadablePhotoError, match="not a regular file"):
            open_photo(f"file://{special_files / name}")
        with pytest.raises(UnreadablePhotoError, match="not a regular file"):
            open_photo(f"zip://a.jpg::{special_files / name}")
    assert find_shared_photos(photos, photos) == {row: row for row, path in enumerate(photos) if path.name == "good.jpg"}
    assert len(checksums(photos)) == 1
    assert len(read_places(special_files).places) == 4


def test_tables_and_sidecars_that_are_pipes_never_block(special_files, no_blocking):
    """A folder's table is read before any photo."""
    for name in ("places.csv", "good.jpg.xmp", "good.xmp", "good.jpg.json", "image"):
        os.mkfifo(special_files / name)
    os.mkfifo(special_files.with_name("photos_images_paths.txt"))
    table = read_places(special_files)
    assert len(table.places) == 4 and any("sidecar files" in remark.text for remark in table.remarks)


def test_a_pipe_that_replaces_a_file_does_not_block(tmp_path, no_blocking, monkeypatch):
    """Between looking at a file and opening it, another program may replace it."""
    path = save(tmp_path / "a.jpg", 0)

    def replace(path, flags, opening=os.open):
        path.unlink()
        os.mkfifo(path)
        return opening(path, flags)

    monkeypatch.setattr(os, "open", replace)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular_file(path)


def test_files_without_end_are_not_hashed(tmp_path):
    """A sparse file takes no room, and hours to hash."""
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as file:
        file.write(jpeg())
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(OSError, match="bytes; at most"):
        PhotoFile().with_hash(path)
    with pytest.raises(UnreadablePhotoError, match="bytes; at most"):
        open_photo(path)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("too deep"),
        struct.error("short"),
        zlib.error("bad"),
        SyntaxError("no"),
        AttributeError("denominator"),
        UserWarning("a warning as an error"),
        OverflowError("large"),
        NotImplementedError("not yet"),
        AssertionError("never"),
        type("ForeignError", (Exception,), {})("of a plugin"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_error_of_a_decoder_names_its_photo(error, tmp_path, monkeypatch):
    """A list of expected errors is never complete."""
    path = save(tmp_path / "a.jpg", 0)
    for method in ("draft", "load", "getexif"):
        with monkeypatch.context() as patched:
            patched.setattr("PIL.JpegImagePlugin.JpegImageFile." + method, lambda *_, **__: _raise(error), raising=False)
            if method == "getexif":  # a photo with EXIF that cannot be read is still a photo
                assert open_photo(path).size == draw(0).size
                continue
            with pytest.raises(UnreadablePhotoError, match="memory" if isinstance(error, MemoryError) else "damaged"):
                open_photo(path, (8, 8))
            patched.setenv("D2VPR_RAISE_PHOTO_ERRORS", "1")
            with pytest.raises(type(error)):
                open_photo(path, (8, 8))
    monkeypatch.setattr(PIL.Image, "open", lambda *_, **__: _raise(error))
    with pytest.raises(UnreadablePhotoError):
        open_photo(path)


def _raise(error):
    raise error


def test_warnings_as_errors_name_the_photo(tmp_path, monkeypatch):
    """Pillow warns of large pictures; `python -W error` turns that into an error."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 60 * 90 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadablePhotoError, match="damaged"):
            open_photo(save(tmp_path / "a.jpg", 0))


@pytest.mark.parametrize("name", ["EPS", "PCX", "TGA", "ICO", "PDF", "SGI", "IM", "DDS"])
def test_only_formats_of_photos_reach_a_decoder(name, tmp_path):
    """The decoder of EPS runs Ghostscript, and every decoder more is one more to attack."""
    draw(0).save(tmp_path / "a.bin", name)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.bin").read_bytes())
    with pytest.raises(UnreadablePhotoError, match=r"not an image|not a format that is read"):
        open_photo(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "address", ["ftp://a/b.jpg", "s3://a/b.jpg", "github://a:b@c/d.jpg", "ssh://a/b.jpg", "memory://a.jpg"]
)
def test_addresses_of_other_protocols_are_refused(address):
    """Strings of a stranger's data set must not use the keys of this machine, nor start its programs."""
    for source in (address, f"zip://x.jpg::{address}", f"simplecache::{address}", f"zip://x::zip://y::{address}"):
        with pytest.raises(UnreadablePhotoError, match="an address that is not read; expected one of http, https, hf, file"):
            open_photo(source)
    with pytest.raises(UnreadablePhotoError, match="not read"):
        open_photo("simplecache::file:///a.jpg")


def test_the_package_reads_photos_without_pillow_heif(tmp_path, monkeypatch):
    """Its wheels hold code under the GPL, which some may not install."""
    import builtins

    from d2vpr_hf.readers import photos

    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    importing = builtins.__import__

    def without_heif(name, *arguments, **options):
        if name == "pillow_heif":
            raise ImportError(name)
        return importing(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_heif)
    photos._formats.cache_clear()
    try:
        assert open_photo(jpeg()).size == draw(1).size
        with pytest.raises(UnreadablePhotoError, match="pip install pillow-heif"):
            open_photo(heic)
    finally:
        photos._formats.cache_clear()
