# Copyright 2026 The D2-VPR for Hugging Face authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Any mode of a PIL image to RGB or 8-bit grey, by Pillow and numpy alone."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

OWN_RANGE = "d2vpr_own_range"  # key in an image's information: whether its grey was scaled by its own range
WHOLE_TOPS: tuple[float, ...] = (255.0, 32767.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1)

_FLOAT_TOPS: tuple[float, ...] = (1.0, 255.0, 65535.0)
_FLAT = 16 / 256  # an image that takes a smaller share of its range would be almost black, grey or white
_LARGEST_VALUE = 1e30  # programs for maps write about 3.4e38 where there are no data
_ROUNDING = 1e-7  # relative; float32 rounds 2³² - 1 up
_SAMPLE_SIZE = 1_000_000

# tags of TIFF 6.0
_BITS_PER_SAMPLE = 258
_COMPRESSION = 259
_PHOTOMETRIC_INTERPRETATION = 262
_PLANAR_CONFIGURATION = 284
_SAMPLE_FORMAT = 339
_WHITE_IS_ZERO = 0


def to_rgb_image(image: Any) -> Any:
    """Turn a PIL image upright and into RGB; grey of more than 8 bits is scaled as [`to_8_bit_grey`] does."""
    is_deep = has_deep_colours(image)
    rgb = ImageOps.exif_transpose(to_8_bit_grey(image)).convert("RGB")
    if is_deep:
        check_brightness(rgb)
    return rgb


def has_deep_colours(image: Any) -> bool:
    """Return whether a PIL image that is not decoded yet has colours of 16 bits, of which Pillow keeps the upper 8.

    Raises:
        ValueError: If Pillow would read it wrong: a TIFF with 16 bits and a plane for each colour, without compression, or with
            signed numbers of 8 bits.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    if tags.get(_PLANAR_CONFIGURATION) == 2 and tags.get(_COMPRESSION) == 1 and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
        raise ValueError("a TIFF with colours of 16 bits in separate planes, which cannot be read; convert it to 8 bits")
    if tags.get(_SAMPLE_FORMAT) == (2,) and tags.get(_BITS_PER_SAMPLE) == (8,):
        raise ValueError("a TIFF with signed numbers of 8 bits, which cannot be read; convert it to unsigned ones")
    is_colour = image.mode.startswith(("RGB", "CMYK"))
    return is_colour and any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))


def check_brightness(image: Any) -> None:
    """Check a PIL image whose colours had 16 bits.

    Raises:
        ValueError: If it uses less than a sixteenth of the range, as pictures of 12 bits do: it would be almost black.
    """
    largest = max(high for _, high in image.convert("RGB").getextrema())
    if largest < 256 * _FLAT:
        raise ValueError(
            f"its colours of 16 bits reach {largest}/256 of white only, such as colours of 12 bits; convert it to 8 bits"
        )


def to_8_bit_grey(image: Any, opened: Any = None) -> Any:
    """Scale a PIL image in 16-bit, 32-bit or floating-point grey to 8 bits; return an image of another mode unchanged.

    Pillow's own conversion cuts values above 255 off and takes values in 0..1 for black. Here 0 stays black, and white is

    - 65535 for unsigned 16-bit grey,
    - the first of 255, 32767, 65535, 2³¹ - 1 and 2³² - 1 that no value exceeds, for whole numbers of 32 bits,
    - the first of 1, 255 and 65535 that no value exceeds, for floating-point numbers.

    If a value is negative or exceeds all of these, or if the image would have less than 16 of the 256 levels of grey (as
    pictures of thermal and depth cameras), black is the 1st percentile of the values and white the 99th. Values that are not
    finite, or not below 10³⁰, mark missing data and become black. `info[OWN_RANGE]` of the result says whether the range is
    that of the values.

    Args:
        image: The image.
        opened: The image as Pillow opened it from a file, whose format decides where the mode leaves the range open; `None` for
            an image that was not opened from a file.

    Raises:
        ValueError: If no value is finite, or all are equal and outside the ranges above, so that black and white are not known.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    opened = image if opened is None else opened
    tags = getattr(opened, "tag_v2", {})  # of a TIFF file
    values = np.array(image)
    if image.mode.startswith("I;16") or opened.format in ("PNG", "PPM"):
        tops = WHOLE_TOPS[2:3]
    elif image.mode == "F":
        tops = _FLOAT_TOPS
    else:
        tops = WHOLE_TOPS
        if tags.get(_SAMPLE_FORMAT, (1,)) == (1,) and tags.get(_BITS_PER_SAMPLE) == (32,):
            values = values.view("uint32")  # Pillow reads unsigned numbers as signed ones
    scaled, by_own_range = scale_to_bytes(values.astype(np.float32), tops)
    if tags.get(_PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    grey = image.convert("L")  # keeps the EXIF data
    grey.frombytes(scaled.round().astype(np.uint8).tobytes())
    grey.info[OWN_RANGE] = by_own_range
    return grey


def scale_to_bytes(values: NDArray[np.float32], tops: tuple[float, ...]) -> tuple[NDArray[np.float32], bool]:
    """Scale values of any shape to 0..255, by the first of `tops` that none exceeds or by their own range; return which."""
    measured = np.isfinite(values) & (np.abs(values) < _LARGEST_VALUE)
    finite = values[measured]
    if not finite.size:
        raise ValueError("no pixel has a finite value")
    low, high = float(finite.min()), float(finite.max())
    black, white = 0.0, next((top for top in tops if low >= 0 and high <= top * (1 + _ROUNDING)), math.nan)
    if low == high > 65535:  # one value does not tell which of the ranges of 32 bits it belongs to
        white = math.nan
    by_own_range = math.isnan(white) or 0 < (high - low) / white < _FLAT
    if by_own_range:
        black, white = _outer_percentiles(finite[:: max(1, finite.size // _SAMPLE_SIZE)])
        if black == white:
            black, white = low, high
    if black == white:
        raise ValueError(f"all pixels have the value {low:g}, and black and white are known for 0 to 65535 only")
    with np.errstate(over="ignore", invalid="ignore"):  # of values that mark missing data
        scaled = np.clip((values - np.float32(black)) * np.float32(255 / (white - black)), 0, 255)
    return np.where(measured, scaled, np.float32(0)), by_own_range


def _outer_percentiles(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the 1st and the 99th percentile, interpolated in float32 with one rounding, as `torch.quantile` does."""
    ordered = np.sort(values)
    ranks = np.array([0.01, 0.99], np.float32) * np.float32(len(ordered) - 1)
    low, high = (ordered[edge(ranks).astype(np.int64)].astype(np.float64) for edge in (np.floor, np.ceil))
    weights = ranks - np.floor(ranks)
    steps = (high - low).astype(np.float32).astype(np.float64)
    interpolated = np.where(weights < 0.5, low + weights * steps, high + (weights - np.float32(1)) * steps)
    black, white = interpolated.astype(np.float32).tolist()
    return black, white


__all__ = [
    "OWN_RANGE",
    "WHOLE_TOPS",
    "check_brightness",
    "has_deep_colours",
    "scale_to_bytes",
    "to_8_bit_grey",
    "to_rgb_image",
]
