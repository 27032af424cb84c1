"""Every kind of photo must come out upright, in RGB, in the same numbers."""

import base64
import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available

from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.modeling.image_processing_d2vpr import OWN_RANGE, to_rgb_image
from d2vpr_hf.readers import UnreadablePhotoError, open_photo
from tests.photos import add_rotation_box

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def pixels(image, **settings):
    return D2VPRImageProcessor(**settings)(image, return_tensors="pt")["pixel_values"]


def to_rgb(pixel_values):
    """Undo the normalisation: (B, 3, H, W) -> (B, H, W, 3) in [0, 1]."""
    return pixel_values.permute(0, 2, 3, 1).numpy() * STD + MEAN


@pytest.fixture
def scene():
    """A smooth picture whose four corners differ: 90 x 120, height first."""
    y, x = np.mgrid[0:1:90j, 0:1:120j]
    return np.stack([255 * x, 255 * y, 255 * (1 - x) * y], axis=-1).round().astype(np.uint8)


def test_torchvision_is_not_needed():
    assert not is_torchvision_available()


def test_the_published_resize(scene):
    """Float, bilinear, antialiased, aspect not kept; then normalised."""
    tensor = torch.from_numpy(scene).permute(2, 0, 1)[None] / 255
    resized = torch.nn.functional.interpolate(tensor, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
    expected = (resized - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(pixels(Image.fromarray(scene)), expected.float(), atol=1e-5)


def test_shrinking_is_antialiased():
    """A fine checkerboard becomes grey; without antialiasing it would become another pattern."""
    board = np.indices((448, 448)).sum(axis=0) % 2 * np.uint8(255)
    assert np.ptp(to_rgb(pixels(Image.fromarray(board.astype(np.uint8)))[:, :, 2:-2, 2:-2])) < 0.02


def test_height_comes_before_width(scene):
    assert pixels(Image.fromarray(scene), size={"height": 70, "width": 140}).shape == (1, 3, 70, 140)
    rgb = to_rgb(pixels(Image.fromarray(scene), size={"height": 28, "width": 56}))[0]
    assert rgb[0, -1, 0] > 0.9 > 0.1 > rgb[0, -1, 1]  # red grows to the right, green downwards
    assert rgb[-1, 0, 1] > 0.9 > 0.1 > rgb[-1, 0, 0]


def test_arrays_and_tensors_of_any_layout_agree(scene):
    expected = pixels(Image.fromarray(scene))
    unit = scene.astype(np.float32) / 255
    kinds = {
        "HWC bytes": scene,
        "CHW bytes": scene.transpose(2, 0, 1),
        "tensor HWC": torch.from_numpy(scene),
        "tensor CHW": torch.from_numpy(scene).permute(2, 0, 1),
        "floats in [0, 1]": unit,
        "float64": unit.astype(np.float64),
        "floats in [0, 255]": scene.astype(np.float32),
        "16 bits": scene.astype(np.uint16) * 257,
        "with alpha": np.dstack([scene, np.full(scene.shape[:2], 7, np.uint8)]),
        "not contiguous": np.ascontiguousarray(scene[:, ::-1])[:, ::-1],
    }
    for name, image in kinds.items():
        assert torch.allclose(pixels(image), expected, atol=2e-5), name


def test_grey_arrays(scene):
    grey = scene[..., 0]
    expected = pixels(Image.fromarray(grey))
    for image in (grey, grey[..., None], grey[None], torch.from_numpy(grey), grey / 255):
        assert torch.allclose(pixels(image), expected, atol=2e-5)


def test_rescaling_can_be_switched_off(scene):
    unit = scene.astype(np.float32) / 255
    assert torch.allclose(pixels(unit, do_rescale=False), pixels(scene), atol=2e-5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_pil_modes(scene, mode):
    source = Image.fromarray(scene)
    image = source.convert(mode) if mode != "PA" else source.convert("P").convert("PA")
    expected = image.convert("L").convert("RGB") if mode in ("F",) else image.convert("RGB")
    if mode == "I":  # 32-bit grey holds 16-bit values
        image, expected = image.point(lambda value: value * 257), source.convert("L").convert("RGB")
    assert torch.allclose(pixels(image), pixels(expected), atol=2.5 / 255 / 0.22)
    assert pixels(image).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_files_keep_their_range(scene, tmp_path, suffix):
    """Pillow's own conversion would turn everything above 255 of 65535 white."""
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(scene[..., 0].astype(np.uint16) * 257).save(path)
    assert torch.allclose(pixels(open_photo(path)), pixels(scene[..., 0]), atol=1.01 / 255 / 0.22)


# unless said otherwise, a ramp from black to white
RAMP = np.tile(np.linspace(0, 1, 256), (32, 1))


OWN = {"floats that overshoot", "floats around 0", "degrees Celsius of a thermal camera", "12 bits in 16"}
OWN |= {"14 bits of a thermal camera", "signed 16 bits", "32 bits of millimetres"}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("float64 of unit range", RAMP.astype(np.float32)),
        ("floats of bytes", (RAMP * 255).astype(np.float32)),
        ("floats of 16 bits", (RAMP * 65535).astype(np.float32)),
        ("floats that overshoot", (RAMP * 1.0001).astype(np.float32)),
        ("floats around 0", (RAMP * 2 - 1).astype(np.float32)),
        ("degrees Celsius of a thermal camera", (RAMP * 8 + 14).astype(np.float32)),
        ("12 bits in 16", (RAMP * 4095).round().astype(np.uint16)),
        ("14 bits of a thermal camera", (RAMP * 900 + 28000).round().astype(np.uint16)),
        ("signed 16 bits", (RAMP * 65535 - 32768).round().astype(np.int16)),
        ("signed 16 bits, none below 0", (RAMP * 32767).round().astype(np.int16)),
        ("32 bits of 16", (RAMP * 65535).round().astype(np.int32)),
        ("32 bits of millimetres", (RAMP * 200_000).round().astype(np.int32)),
        ("unsigned 32 bits", (RAMP * (2**32 - 1)).round().astype(np.uint32)),
    ],
)
def test_deep_grey_is_scaled_by_its_range(name, values, tmp_path):
    """Each becomes the ramp; Pillow's own conversion gives black, white or a part of it."""
    write_tiff(tmp_path / "a.tif", values)
    expected = np.round(RAMP * 255)
    for image in (open_photo(tmp_path / "a.tif"), to_rgb_image(Image.open(tmp_path / "a.tif"))):
        grey = np.asarray(image.convert("L"), np.float64)
        assert np.abs(grey - expected).max() <= 4  # own ranges lose a hundredth at each end
        assert grey.min() == 0
        assert grey.max() == 255
    assert open_photo(tmp_path / "a.tif").info[OWN_RANGE] == (name in OWN)
    assert torch.allclose(pixels(tmp_path / "a.tif"), pixels(open_photo(tmp_path / "a.tif")))


def write_tiff(path, values, **tags):
    """Write a little-endian TIFF with one strip, in types that Pillow itself does not write too."""
    height, width, *channels = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 2 if channels else tags.get("photometric", 1)}
    entries |= {
        273: 8,
        274: 1,
        277: (channels or [1])[0],
        278: height,
        284: tags.get("planar", 1),
        279: values.nbytes,
        339: kind,
    } | ({274: tags["orientation"]} if "orientation" in tags else {})
    pixels_end = 8 + values.nbytes
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, n) for tag, n in sorted(entries.items())
    )
    path.write_bytes(
        struct.pack("<2sHI", b"II", 42, pixels_end)
        + values.astype(values.dtype.newbyteorder("<")).tobytes()
        + directory
        + bytes(4)
    )


def test_white_may_be_zero_in_a_tiff(tmp_path):
    write_tiff(tmp_path / "a.tif", (RAMP * 65535).astype(np.uint16), photometric=0)
    assert np.array_equal(np.asarray(open_photo(tmp_path / "a.tif"))[0], np.arange(256)[::-1])


def test_deep_grey_is_turned_upright(tmp_path):
    write_tiff(tmp_path / "a.tif", RAMP.astype(np.float32), orientation=6)
    grey = np.asarray(open_photo(tmp_path / "a.tif"))
    assert grey.shape == (256, 32)
    assert np.array_equal(grey[:, 0], np.arange(256))
    assert torch.allclose(pixels(tmp_path / "a.tif"), pixels(grey), atol=1e-5)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, -3.4028235e38])
def test_values_that_are_no_measurements_become_black(tmp_path, hole):
    values = RAMP.astype(np.float32)
    values[:4] = hole
    write_tiff(tmp_path / "a.tif", values)
    grey = np.asarray(open_photo(tmp_path / "a.tif"))
    assert not grey[:4].any()
    assert np.array_equal(grey[4], np.arange(256))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((8, 8), np.nan, np.float32), "no pixel has a finite value"),
        (np.full((8, 8), -7, np.float32), "all pixels have the value -7, and black and white are known for 0 to 65535 only"),
        (np.full((8, 8), 3e8, np.float32), "all pixels have the value 3e"),
        (np.full((8, 8), -7, np.int32), "all pixels have the value -7"),
        (np.full((8, 8), 70_000, np.int32), "all pixels have the value 70000"),  # a shade of three ranges
        (np.full((8, 8), 2**32 - 1, np.uint32), "all pixels have the value 4.29"),
        (np.full((8, 8), 3, np.int8), "signed numbers of 8 bits"),
        (np.full((8, 8, 3), 0.5, np.float32), "a TIFF in a form that cannot be read"),
        (np.full((8, 8, 3), 70, np.int32), "a TIFF in a form that cannot be read"),
        (np.full((8, 8), 0.5, np.float64), "a TIFF in a form that cannot be read"),
        (np.full((8, 8, 3), 4095, np.uint16), "its colours of 16 bits reach 15/256 of white only"),
    ],
)
def test_grey_of_unknown_range_is_refused(tmp_path, values, reason):
    write_tiff(tmp_path / "a.tif", values)
    with pytest.raises(UnreadablePhotoError, match=reason):
        open_photo(tmp_path / "a.tif")


def colours(top, dtype=np.uint16):
    """Return a ramp in three colours, (32, 256, 3): red to the right, green to the left, blue half of red."""
    return (np.dstack([RAMP, RAMP[:, ::-1], RAMP / 2]) * top).round().astype(dtype)


def write_png(path, values):
    """Write a PNG with colours of 16 bits, which Pillow itself does not write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("name", ["a.png", "b.png", "a.tif", "a.ppm", "b.ppm"])
def test_colours_of_16_bits_keep_their_range(tmp_path, name):
    path, top = tmp_path / name, 4095 if name == "b.ppm" else 65535
    values = colours(top)
    if name.endswith("png"):
        write_png(path, values if name[0] == "a" else np.dstack([values, values[..., 0]]))
    elif name.endswith("tif"):
        write_tiff(path, values)
    else:
        path.write_bytes(b"P6 256 32 %d\n" % top + values.astype(">u2").tobytes())
    for image in (open_photo(path).convert("RGB"), to_rgb_image(Image.open(path))):
        assert np.abs(np.asarray(image, np.float64) - colours(255, np.float64)).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_colours_that_would_be_almost_black_are_refused(tmp_path, name):
    """Pictures of 12 bits in 16: Pillow keeps the upper 8, of which 4 are 0."""
    (write_png if name.endswith("png") else write_tiff)(tmp_path / name, colours(4095))
    with pytest.raises(UnreadablePhotoError, match="reach 15/256 of white only, such as colours of 12 bits; convert it"):
        open_photo(tmp_path / name)
    with pytest.raises(ValueError, match="reach 15/256 of white only"):
        pixels(str(tmp_path / name))


def test_planes_of_16_bits_are_refused(tmp_path):
    """Pillow takes each byte of them for a pixel."""
    write_tiff(tmp_path / "a.tif", colours(65535), planar=2)
    with pytest.raises(UnreadablePhotoError, match="16 bits in separate planes"):
        open_photo(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="16 bits in separate planes"):
        to_rgb_image(Image.open(tmp_path / "a.tif"))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "f.tif"])
def test_deep_grey_from_a_url_or_base64_is_that_of_its_file(tmp_path, name, monkeypatch):
    if name == "f.tif":
        write_tiff(tmp_path / name, RAMP.astype(np.float32))
    else:
        Image.fromarray((RAMP * 65535).astype(np.uint16)).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(content))
    encoded = base64.b64encode(content).decode()
    expected = pixels(tmp_path / name)
    assert float(expected.std()) > 0.9
    for source in (
        f"https://example.org/{name}",
        encoded,
        f"data:image/x;base64,{encoded}",
        base64.encodebytes(content).decode(),
    ):
        assert torch.equal(pixels(source), expected)


@pytest.mark.parametrize(("values", "expected"), [(np.float32(0.4), 102), (np.float32(80), 80), (np.uint16(25700), 100)])
def test_one_grey_keeps_its_value(tmp_path, values, expected):
    write_tiff(tmp_path / "a.tif", np.full((8, 8), values))
    assert np.asarray(open_photo(tmp_path / "a.tif")).tolist() == [[expected] * 8] * 8


def test_a_dark_16_bit_file_is_not_taken_for_8_bits(tmp_path):
    """PNG and PNM say 16 bits where Pillow's mode says 32; all values are below 256."""
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 65535\n" + np.full((8, 8), 200, ">u2").tobytes())
    assert np.asarray(open_photo(tmp_path / "a.pgm")).max() == 1


def test_the_first_page_of_a_tiff_is_taken(tmp_path):
    first, second = Image.fromarray(RAMP.astype(np.float32)), Image.new("RGB", (9, 9))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    assert open_photo(tmp_path / "a.tif").size == (256, 32)


@pytest.mark.parametrize("shape", [(224, 224), (224, 224, 3), (3, 224, 224)])
def test_arrays_of_other_ranges_are_refused(shape):
    """They would become almost black without a word."""
    rng = np.random.default_rng(0)
    for values in (rng.normal(0, 1, shape), rng.uniform(-1, 1, shape), rng.uniform(0, 65535, shape), np.full(shape, np.nan)):
        for image in (values, values.astype(np.float32), torch.from_numpy(values)):
            with pytest.raises(ValueError, match=r"must be in 0..1 or 0..255, got .* to .*normalised already"):
                pixels(image)
            assert pixels(image, do_rescale=False, do_normalize=False).shape == (1, 3, 224, 224)


def test_arrays_may_overshoot_as_resampling_does():
    unit = np.clip(RAMP * 1.1 - 0.05, None, 1.04)
    assert torch.allclose(pixels(unit), pixels(unit * 255), atol=1e-4)


def test_big_endian_16_bit(scene):
    header = f"P5 {scene.shape[1]} {scene.shape[0]} 65535\n".encode()
    image = Image.open(io.BytesIO(header + (scene[..., 0].astype(">u2") * 257).tobytes()))
    assert torch.allclose(pixels(image), pixels(scene[..., 0]), atol=1.01 / 255 / 0.22)


def test_transparent_palette(scene):
    image = Image.fromarray(scene).quantize(32)
    image.info["transparency"] = 0
    assert torch.allclose(pixels(image), pixels(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(scene, orientation, tmp_path):
    """Each stored orientation, undone by the tag that describes it, is the upright photo."""
    upright = Image.fromarray(scene)
    stored = {
        1: lambda im: im,
        2: lambda im: im.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda im: im.transpose(Image.Transpose.ROTATE_180),
        4: lambda im: im.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda im: im.transpose(Image.Transpose.TRANSPOSE),
        6: lambda im: im.transpose(Image.Transpose.ROTATE_90),
        7: lambda im: im.transpose(Image.Transpose.TRANSVERSE),
        8: lambda im: im.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    for image in (Image.open(tmp_path / "photo.png"), open_photo(tmp_path / "photo.png"), tmp_path / "photo.png"):
        assert torch.allclose(pixels(image), pixels(upright), atol=1e-5)


def test_heic(scene, tmp_path):
    pillow_heif.from_pillow(Image.fromarray(scene)).save(tmp_path / "phone.heic", quality=100)
    found = to_rgb(pixels(open_photo(tmp_path / "phone.heic")))
    assert np.abs(found - to_rgb(pixels(scene))).mean() < 0.02  # a lossy format


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_turned_by_exif_alone(scene, orientation, tmp_path):
    """As Pillow writes it. Phones add a rotation box, which the decoder obeys."""
    turns = {1: 0, 3: 180, 6: 90, 8: 270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(scene).rotate(turns[orientation], expand=True)
    pillow_heif.register_heif_opener()
    stored.save(tmp_path / "turned.heic", exif=exif, quality=95)
    image = open_photo(tmp_path / "turned.heic")
    assert image.size == (120, 90)
    assert np.abs(to_rgb(pixels(image)) - to_rgb(pixels(scene))).mean() < 0.02


def test_heic_turned_by_a_box_is_not_turned_again(scene, tmp_path):
    """Write a rotation box into a file's properties, and EXIF next to it, as phones do."""
    turned = Image.fromarray(scene).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.heic"
    pillow_heif.register_heif_opener()
    turned.save(path, exif=exif, quality=95)
    path.write_bytes(add_rotation_box(path.read_bytes(), quarter_turns=3))
    image = open_photo(path)
    assert image.size == (120, 90)
    assert np.abs(to_rgb(pixels(image)) - to_rgb(pixels(scene))).mean() < 0.02


def test_batches_keep_their_order(scene):
    """Images of one shape are resized together; their places in the batch must survive."""
    images = [scene, scene[:50], 255 - scene, scene[:50, ::-1].copy()]
    batch = pixels(images)
    assert torch.equal(batch, torch.cat([pixels(image) for image in images]))
    assert torch.equal(pixels(np.stack(images[::2])), batch[::2])


def test_settings_survive_saving(tmp_path):
    processor = D2VPRImageProcessor(size={"height": 322, "width": 336}, resample=3)
    processor.save_pretrained(tmp_path)
    loaded = D2VPRImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert dict(loaded.size) == {"height": 322, "width": 336}


@pytest.mark.parametrize(
    ("image", "settings", "error", "message"),
    [
        (np.zeros((5, 6, 7), np.uint8), {}, ValueError, "channel"),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), {}, ValueError, "2 or 3 dimensions"),
        (np.zeros((0, 5, 3), np.uint8), {}, ValueError, "must have pixels"),
        ("nowhere.jpg", {}, ValueError, "nowhere.jpg"),
        (7, {}, ValueError, "image type"),
        (np.zeros((8, 8), np.int64), {}, ValueError, "must be uint8 or uint16, got torch.int64"),
        ([], {}, ValueError, "no image"),
        (np.zeros((8, 8), np.uint8), {"resample": 0}, ValueError, "must be BILINEAR"),
        (np.zeros((8, 8), np.uint8), {"size": {"shortest_edge": 224}}, ValueError, "`size` must be"),
        (np.zeros((8, 8), np.uint8), {"do_center_crop": True, "crop_size": 4}, ValueError, "has no do_center_crop"),
    ],
)
def test_what_cannot_be_an_image_is_refused(image, settings, error, message):
    with pytest.raises(error, match=message):
        pixels(image, **settings)
