"""Photos that would hold a decoder for minutes, or take gigabytes, are refused by a look at their parts."""

import io
from unittest.mock import patch

import PIL.Image
import PIL.ImageFile
import pytest

from d2vpr_hf.readers import UnreadablePhotoError, open_photo
from d2vpr_hf.readers.photos import open_header
from d2vpr_hf.readers.structure import UnsafePhotoError, check_structure
from tests.readers.photo_bombs import BOMBS, USUAL, picture, png, repeated_scans, tiled


@pytest.mark.parametrize("name", BOMBS)
def test_slow_and_large_photos_are_refused_before_they_are_decoded(name):
    """Each has less than 18 MB, and would take minutes or gigabytes."""
    content, reason = BOMBS[name]
    with (
        patch.object(PIL.ImageFile.ImageFile, "load", side_effect=AssertionError("decoded")),
        pytest.raises(UnreadablePhotoError, match=f"too large to be safe.*{reason}"),
    ):
        open_photo(content)


@pytest.mark.parametrize("name", USUAL)
def test_usual_photos_pass(name):
    """A limit that refuses ordinary files would lose photos."""
    content = USUAL[name]
    check_structure(io.BytesIO(content), will_decode=True)
    assert open_photo(content).size == PIL.Image.open(io.BytesIO(content)).size


def test_scans_behind_the_picture_do_not_count():
    """Phones append films to photos; their bytes may look like scans."""
    content = picture("JPEG", progressive=True) + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 2000
    assert open_photo(content).size == (64, 64)


def test_metadata_are_read_without_searching_the_pixels():
    """Reading positions of a folder must not read whole files from a network; the decoder's check comes later."""
    content = repeated_scans(2000, 1000)

    class CountingFile(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            content = super().read(size)
            self.read_bytes += len(content)
            return content

    file = CountingFile(content)
    check_structure(file, will_decode=False)
    assert file.read_bytes < 10_000 and file.tell() == 0
    with open_header(content) as image:
        assert image.size == (2000, 2000)
    with pytest.raises(UnreadablePhotoError, match="scans"), open_header(content, will_decode=True):
        pass


def test_limits_are_where_they_are_stated():
    """One part less than too many passes."""
    check_structure(io.BytesIO(png(*[(b"iCCP", b"x\0\0")] * 256)), will_decode=True)
    check_structure(io.BytesIO(tiled(4096)), will_decode=True)
    check_structure(io.BytesIO(repeated_scans(16, 990)), will_decode=True)
    check_structure(io.BytesIO(b"P6\n6000 4000\n65535\n"), will_decode=True)  # a developed raw photo of 24 megapixels
    for content in (png(*[(b"iCCP", b"x\0\0")] * 257), tiled(4112), repeated_scans(16, 1000)):
        with pytest.raises(UnsafePhotoError):
            check_structure(io.BytesIO(content), will_decode=True)


@pytest.mark.parametrize("content", list(USUAL.values()), ids=list(USUAL))
def test_damaged_structures_are_left_to_the_decoder(content):
    """A look must not fail on a file that is cut off anywhere: the decoder names the damage."""
    for end in range(0, len(content), max(1, len(content) // 40)):
        check_structure(io.BytesIO(content[:end]), will_decode=True)
