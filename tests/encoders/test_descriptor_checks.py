"""Models of other code: what they prepare and describe is checked, and the photos of wrong descriptors are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.retrieval import index_photos

WIDTH = 8


class SmallModel:
    """The first pixels of a photo as its descriptor, changed by functions."""

    model_name = model_revision = projection_dim = None
    model_options: dict[str, Any] = {}
    facts = ModelFacts("Small")
    descriptor_dim, depends_on_batch = WIDTH, False
    input_size = (16, 16)
    fingerprint, runtime = "f" * 64, Runtime("torch", "fp32")
    device_type = "cpu"

    def __init__(self, change: Callable[[Any], Any] = lambda it: it, prepared: Callable[[Any], Any] = lambda it: it) -> None:
        self.change, self.prepared = change, prepared

    def prepare(self, image: Image.Image) -> Any:
        return self.prepared(np.asarray(image.resize((16, 16)), np.float32).transpose(2, 0, 1) / 255)

    def describe(self, pixel_values: np.ndarray) -> Any:
        return self.change(unit(pixel_values.reshape(len(pixel_values), -1)[:, :WIDTH] + 0.1))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8))


PHOTOS = [noise(seed) for seed in range(7)]


def encode(model: SmallModel) -> np.ndarray:
    return PlaceEncoder(model, batch_size=4).encode(PHOTOS).descriptors


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.astype(np.float64),
        lambda it: torch.from_numpy(it),
        lambda it: torch.from_numpy(it).requires_grad_(),
        lambda it: torch.from_numpy(it).double(),
    ],
)
def test_arrays_and_tensors_of_all_floats_are_read(change: Callable[[Any], Any]) -> None:
    np.testing.assert_allclose(encode(SmallModel(change)), encode(SmallModel()), atol=1e-6)
    assert encode(SmallModel(change)).dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it * 2, "unit length from the model, got the length 2"),
        (lambda it: it * 0, "descriptor of zeros"),
        (lambda it: it.tolist(), "got a value of type list"),
        (lambda it: None, "got a value of type NoneType"),
        (lambda it: (it * 100).astype(int), r"got the shape \(4, 8\) in int"),
        (lambda it: it.astype(str), r"got the shape \(4, 8\) in <U"),
        (lambda it: it.astype(complex), "complex128"),
        (lambda it: it[:, :, None, None], r"shape \(4, 8\) from the model, got \(4, 8, 1, 1\)"),
        (lambda it: it[:, None], r"got \(4, 1, 8\)"),
        (lambda it: it[:-1], r"got \(3, 8\)"),
    ],
)
def test_descriptors_of_another_form_are_refused(change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(SmallModel(change))


def test_a_projected_descriptor_of_zeros_is_refused() -> None:
    model = SmallModel(lambda it: it * 0)
    model.projection_dim = WIDTH  # type: ignore[assignment]
    with pytest.raises(ValueError, match="descriptor of zeros"):
        encode(model)


def before(rows: np.ndarray) -> np.ndarray:
    """Each descriptor but the first depends on the one before it."""
    return unit(np.concatenate([rows[:1], rows[1:] + rows[:-1]]))


def in_large_batches(rows: np.ndarray) -> np.ndarray:
    return unit(rows + rows.mean(axis=0)) if len(rows) > 2 else rows


@pytest.mark.parametrize("change", [before, in_large_batches])
def test_descriptors_that_depend_on_the_batch_are_refused(change: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="with the other photos of its batch, but `depends_on_batch` of the model is false"):
        encode(SmallModel(change))
    model = SmallModel(change)
    model.depends_on_batch = True
    assert len(encode(model)) == 7


def test_a_model_may_use_the_same_memory_for_each_batch() -> None:
    memory = np.zeros((4, WIDTH), np.float32)

    def write(rows: np.ndarray) -> np.ndarray:
        memory[: len(rows)] = rows
        return memory[: len(rows)]

    np.testing.assert_array_equal(encode(SmallModel(write)), encode(SmallModel()))
    with pytest.raises(ValueError, match="depends_on_batch"):
        encode(SmallModel(lambda rows: write(before(rows))))


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        (lambda it: it.tolist(), "a value of type list"),
        (lambda it: None, "NoneType"),
        (lambda it: "text", "a value of type str"),
        (lambda it: it[None], r"the shape \(1, 3, 16, 16\)"),
        (lambda it: it.transpose(1, 2, 0), r"the shape \(16, 16, 3\)"),
        (lambda it: (it * 255).astype(np.uint8), "in uint8"),
    ],
)
def test_pixels_of_another_form_are_refused(prepared: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"from `prepare` of the model, got .*{message}"):
        encode(SmallModel(prepared=prepared))


def test_the_photo_of_a_broken_descriptor_is_named(tmp_path: Path) -> None:
    """The number in an index says little: rows are encoded in portions, and photos are sorted."""
    for number, photo in enumerate(PHOTOS):
        photo.save(tmp_path / f"photo{number}.png")
    lines = [f"photo{number}.png,45.00{number},7" for number in range(7)]
    (tmp_path / "places.csv").write_text("\n".join(["path,latitude,longitude", *lines]))
    pixels = SmallModel().prepare(PHOTOS[5])
    broken = SmallModel(prepared=lambda it: np.full_like(it, np.nan) if np.array_equal(it, pixels) else it)
    encoder = PlaceEncoder(broken, batch_size=4)
    with pytest.raises(ValueError, match=r"1 descriptors are not finite \(photos number \[5\] first\): photo5\.png\. "):
        index_photos(tmp_path, tmp_path / "index", encoder)
    with pytest.raises(ValueError, match=r"photo5\.png"):
        encoder.encode([tmp_path / f"photo{number}.png" for number in range(7)], order=[6, 5, 4, 3, 2, 1, 0])


def test_a_photo_of_an_extreme_shape_is_skipped() -> None:
    steps = Preprocessing(shortest_edge=400, crop_size=(16, 16))
    model = SmallModel()
    model.prepare = lambda image: steps(image)  # type: ignore[method-assign]
    encoded = PlaceEncoder(model).encode([PHOTOS[0], Image.new("RGB", (200_000, 1)), PHOTOS[1]])
    assert encoded.skipped == {1: "200000x1 pixels would be resized to 80000000x400, which is too large"}
