"""Photos become the pixel values that the image processors of transformers give: other pixels are another model."""

from dataclasses import replace

import numpy as np
import pytest
import transformers
from PIL import Image

from d2vpr_hf.model_info.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from d2vpr_hf.model_info.preprocessor_files import read_preprocessing, read_timm_preprocessing
from tests.encoders.vision_models import (
    BIT,
    DINOV3,
    IJEPA,
    MOBILENET,
    OLD_BEIT,
    OLD_CLIP,
    OLD_CONVNEXT,
    OLD_SWIN,
    OLD_VIT,
    SIGLIP,
    SIGLIP2,
)

SHAPES = [(100, 300), (300, 100), (77, 101), (33, 40), (150, 450), (5, 9), (64, 64)]  # height and width; two are 3:1


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def processor_of(module: str, name: str):
    return getattr(__import__(f"transformers.models.{module}.image_processing_pil_{module}", fromlist=["x"]), name)


VALUES = {
    "as DINOv2": ("bit", "BitImageProcessorPil", BIT),
    "as CLIP": ("clip", "CLIPImageProcessorPil", OLD_CLIP),
    "as SigLIP": ("siglip", "SiglipImageProcessorPil", SIGLIP),
    "as ViT": ("vit", "ViTImageProcessorPil", OLD_VIT),
    "as Swin": ("vit", "ViTImageProcessorPil", OLD_SWIN),
    "as I-JEPA": ("vit", "ViTImageProcessorPil", IJEPA),
    "as ConvNeXt": ("convnext", "ConvNextImageProcessorPil", OLD_CONVNEXT),
    "as ConvNeXt at 384": ("convnext", "ConvNextImageProcessorPil", OLD_CONVNEXT | {"size": {"shortest_edge": 384}}),
    "as MobileNetV2": ("mobilenet_v2", "MobileNetV2ImageProcessorPil", MOBILENET),
    "as BEiT": ("beit", "BeitImageProcessorPil", OLD_BEIT),
    "as DeiT": ("deit", "DeiTImageProcessorPil", {"image_processor_type": "DeiTImageProcessor"}),
    "as LeViT": ("levit", "LevitImageProcessorPil", {"image_processor_type": "LevitImageProcessor"}),
    "crop without resizing": ("clip", "CLIPImageProcessorPil", OLD_CLIP | {"do_resize": False, "crop_size": [64, 81]}),
    "shorter and longer edge": (
        "clip",
        "CLIPImageProcessorPil",
        OLD_CLIP | {"size": {"shortest_edge": 60, "longest_edge": 100}, "do_center_crop": False},
    ),
    "frame": (
        "clip",
        "CLIPImageProcessorPil",
        OLD_CLIP | {"size": {"max_height": 70, "max_width": 50}, "do_center_crop": False},
    ),
    "without rescaling": ("vit", "ViTImageProcessorPil", OLD_VIT | {"do_rescale": False}),
    "without normalising": ("vit", "ViTImageProcessorPil", OLD_VIT | {"do_normalize": False}),
    "padding": ("vit", "ViTImageProcessorPil", OLD_VIT | {"do_pad": True, "pad_size": {"height": 70, "width": 80}}),
    "nearest": ("vit", "ViTImageProcessorPil", OLD_VIT | {"resample": 0}),
    "lanczos": ("vit", "ViTImageProcessorPil", OLD_VIT | {"resample": 1}),
}


@pytest.mark.parametrize("case", VALUES)
def test_pixels_equal_those_of_transformers(case):
    """The bound is rounding: both take the same steps in the same order."""
    module, name, values = VALUES[case]
    settings = {key: value for key, value in values.items() if not key.endswith("_type") and value is not None}
    processor = processor_of(module, name)(**settings)
    steps = read_preprocessing(values)
    for height, width in SHAPES:
        image = noise(height, width)
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(steps(image), expected, rtol=1e-6, atol=1e-6)
        if steps.input_size is not None:
            assert steps.input_size == expected.shape[1:]


@pytest.mark.parametrize("values", [DINOV3, BIT, OLD_CLIP, OLD_VIT, SIGLIP])
def test_pixels_equal_those_of_torchvision(values):
    """The default processors of transformers, and the only one of DINOv3, run torchvision's own resampling.

    It rounds bicubic sums of 8-bit numbers otherwise than Pillow, after each of two passes: by up to 2 of 255 at few pixels.
    """
    pytest.importorskip("torchvision")
    full_name = values.get("image_processor_type", values.get("feature_extractor_type"))
    name = full_name.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    settings = {key: value for key, value in values.items() if not key.endswith(("_type", "_class")) and value is not None}
    processor = getattr(transformers, name)(**settings)
    steps = read_preprocessing(values)
    for height, width in SHAPES:
        image = noise(height, width)
        expected = processor(image, return_tensors="pt")["pixel_values"][0].numpy()
        difference = np.abs(steps(image) - expected) * np.array(steps.std)[:, None, None]
        assert difference.max() <= 2.01 / 255 and difference.mean() <= 1e-3


def test_dinov3_resizes_numbers_that_are_not_rounded():
    """Two of four columns: antialiasing weighs the nearest three by 3 : 3 : 1."""
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, 1:] = np.array([10, 31, 255])[:, None]
    steps = read_preprocessing(DINOV3 | {"size": {"height": 2, "width": 2}})
    left, right = (3 * 0 + 3 * 10 + 31) / 7, (10 + 3 * 31 + 3 * 255) / 7
    expected = (np.array([left, right])[None] / 255 - np.array(IMAGENET_MEAN)[:, None]) / np.array(IMAGENET_STD)[:, None]
    for row in range(2):
        np.testing.assert_allclose(steps(Image.fromarray(pixels))[:, row], expected, atol=1e-6)


def test_naflex_sizes_equal_those_of_transformers():
    processor = processor_of("siglip2", "Siglip2ImageProcessorPil")(max_num_patches=16, patch_size=16)
    steps = read_preprocessing(SIGLIP2)
    for height, width in SHAPES:
        inputs = processor(noise(height, width), return_tensors="np")
        rows, columns = inputs["spatial_shapes"][0]
        pixels = steps(noise(height, width))
        assert pixels.shape == (3, 16 * rows, 16 * columns)
        patches = pixels.reshape(3, rows, 16, columns, 16).transpose(1, 3, 2, 4, 0).reshape(rows * columns, -1)
        np.testing.assert_allclose(patches, inputs["pixel_values"][0][: rows * columns], atol=1e-6)


def test_timm_steps():
    config = {"pretrained_cfg": {"input_size": [3, 96, 96], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3}}
    steps = read_timm_preprocessing(config)
    assert (steps.shortest_edge, steps.crop_size, steps.resample) == (106, (96, 96), "bicubic")
    assert steps.mean == (0.5, 0.5, 0.5) and steps.std == IMAGENET_STD
    squashed = read_timm_preprocessing({"pretrained_cfg": config["pretrained_cfg"] | {"crop_mode": "squash"}})
    assert (squashed.size, squashed.shortest_edge) == ((106, 106), None)
    with pytest.raises(ValueError, match="crop mode 'border'"):
        read_timm_preprocessing({"pretrained_cfg": {"crop_mode": "border"}})


@pytest.mark.parametrize(
    ("changes", "attributes"),
    [
        ({"size": 64}, {"size": (64, 64)}),
        ({"size": [48, 64]}, {"size": (48, 64)}),
        ({"size": {"shortest_edge": 64}}, {"shortest_edge": 64}),
        ({"size": {"longest_edge": 64}}, {"fit_size": (64, 64)}),
        ({"image_mean": 0.4, "image_std": [0.3]}, {"mean": (0.4, 0.4, 0.4), "std": (0.3, 0.3, 0.3)}),
        ({"resample": "lanczos"}, {"resample": "lanczos"}),
        ({"do_rescale": False, "do_normalize": False}, {"rescale_factor": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}),
        ({"image_processor_type": "ViTImageProcessorFast"}, {"size": (64, 64)}),
    ],
)
def test_forms_of_settings(changes, attributes):
    steps = read_preprocessing(OLD_VIT | changes)
    assert {name: getattr(steps, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_processor_type": "SamImageProcessor"}, "got SamImageProcessor"),
        ({"size": 64}, "got no type"),
        (OLD_VIT | {"do_flip_channel_order": True}, "`do_flip_channel_order`"),
        (OLD_VIT | {"size": {"edge": 3}}, "must have height and width"),
        (OLD_VIT | {"resample": 9}, "0 to 5"),
        (OLD_VIT | {"image_mean": [1, 2]}, "one or three channels"),
        (OLD_VIT | {"image_std": [0, 1, 1]}, "greater than 0"),
        (OLD_VIT | {"size": "large"}, "cannot be read|must have"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_preprocessing(values)


def test_whole_photos_and_other_sizes():
    crop = read_preprocessing(BIT)
    whole = crop.for_whole_images()
    assert (whole.size, whole.crop_size, whole.input_size) == ((70, 70), None, (70, 70))
    wide = noise(60, 180)
    assert np.abs(whole(wide) - crop(wide)).max() > 0.5  # the sides count
    larger = crop.for_size((140, 280), crop=True)
    assert (larger.shortest_edge, larger.crop_size) == (320, (140, 280))
    assert crop.decoding_size == (80, 80) and larger(noise(500, 1500)).shape == (3, 140, 280)


def test_arrays_are_read_as_images():
    image = noise(40, 50)
    steps = read_preprocessing(OLD_VIT)
    np.testing.assert_array_equal(steps(np.asarray(image)), steps(image))
    np.testing.assert_array_equal(steps(np.asarray(image, np.float32)), steps(image))


def test_the_json_form_keeps_every_value():
    steps = replace(read_preprocessing(BIT), multiple_of=2, rounding="down", pad_size=(90, 90))
    assert Preprocessing.from_dict(steps.to_dict()) == steps
    with pytest.raises(ValueError, match="does not know sharpen"):
        Preprocessing.from_dict({"sharpen": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (0, 4)}, "`size` must be a height and a width"),
        ({"size": 4}, "`size` must be a height and a width"),
        ({"shortest_edge": 1.5}, "`shortest_edge` must be a whole number"),
        ({"resample": "cubic"}, "`resample` must be one of"),
        ({"std": (0.1, 0.0, 0.1)}, "greater than 0"),
        ({"mean": (0.1, 0.1)}, "`mean` must be three numbers"),
        ({"size": (4, 4), "shortest_edge": 4}, "one rule for the size"),
        ({"shortest_edge": 10, "longest_edge": 9}, "is less than"),
    ],
)
def test_wrong_steps_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


def test_multiples():
    assert Preprocessing(multiple_of=14).resized_size(100, 205) == (98, 210)
    assert Preprocessing(multiple_of=14, rounding="down").resized_size(111, 209) == (98, 196)
    assert Preprocessing(multiple_of=14, rounding="up").resized_size(99, 197) == (112, 210)
    assert Preprocessing(longest_edge=50).resized_size(40, 100) == (20, 50)
    assert Preprocessing(longest_edge=50).resized_size(40, 30) == (40, 30)


def test_steps_load_no_torch():
    """The settings above must be read where torch is not installed; see also tests/index/test_light_reading.py."""
    import subprocess
    import sys

    code = "import sys, d2vpr_hf.model_info.preprocessor_files; print('torch' in sys.modules, 'transformers' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["False", "False"]


@pytest.mark.parametrize(
    "values",
    [{"size": []}, {"size": {"shortest_edge": float("inf")}}, {"image_mean": [10**400] * 3}, {"crop_size": [1]}],
)
def test_settings_of_wrong_values_are_reported(values):
    with pytest.raises(ValueError, match="cannot be read"):
        read_preprocessing({"image_processor_type": "CLIPImageProcessor"} | values)


@pytest.mark.parametrize("values", [5, {"mean": 10**400}, {"input_size": [3]}])
def test_settings_of_timm_of_wrong_values_are_reported(values):
    with pytest.raises(ValueError, match="timm model"):
        read_timm_preprocessing({"pretrained_cfg": values})
