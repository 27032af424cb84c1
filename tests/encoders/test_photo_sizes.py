"""Sizes of photos and forms of queries: each agrees with a plain script, and batches are full although sizes alternate."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.encoders import encode_queries
from d2vpr_hf.explanation import explain_match
from d2vpr_hf.export import export
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.stores.exact import exact_search
from d2vpr_hf.stores.views import search_views
from tests.command_line import run
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.encoders.vision_models import save_published
from tests.other_model import OtherModel

OLD = Path(__file__).parents[1] / "data" / "version_0_1"
MEAN, STD = ((torch.tensor(values).view(3, 1, 1)) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def photo(height: int, width: int, seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


PHOTOS = [photo(90, 120, 0), photo(120, 90, 1), photo(100, 300, 2), photo(90, 120, 3), photo(80, 80, 4), photo(120, 90, 5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tiny_model(), tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return save_published("dinov2", tmp_path_factory.mktemp("dinov2") / "model")


def plain_pixels(image: Image.Image, height: int, width: int) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    resized = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
    return (resized - MEAN) / STD


def plain_descriptors(pixel_values: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return tiny_model()(pixel_values).pooler_output.numpy()


def test_another_size_is_that_of_the_model_with_another_processor(folder):
    encoder = PlaceEncoder(folder, device="cpu", image_size=(84, 56))
    expected = [plain_descriptors(plain_pixels(image, 84, 56)[None])[0] for image in PHOTOS]
    np.testing.assert_allclose(encoder.encode(PHOTOS).descriptors, expected, atol=1e-5)
    with_processor = PlaceEncoder(folder, D2VPRImageProcessor(size={"height": 84, "width": 56}), device="cpu")
    assert encoder.fingerprint == with_processor.fingerprint and encoder.input_size == (84, 56)
    default, same = PlaceEncoder(folder, device="cpu"), PlaceEncoder(folder, device="cpu", image_size=70)
    assert default.fingerprint == same.fingerprint != encoder.fingerprint
    assert default.model_options == {} and encoder.model_options == {"image_size": [84, 56]}


def test_a_size_that_is_not_in_whole_patches_is_refused_with_the_nearest(folder):
    with pytest.raises(
        ValueError, match=r"multiple of the patch size of this model, 14 pixels, got 320x100; the nearest is 322x98"
    ):
        PlaceEncoder(folder, device="cpu", image_size=(320, 100))


# the shorter side is 84; the longer one is int(84 * longer / shorter), rounded to the nearest multiple of 14:
# 112 -> 112; 252 -> 252; for 77x101 110 -> 112; for 64x75 98 -> 98; for 60x80 at 70: 93 -> 98
@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((90, 120), 84, (84, 112)),
        ((120, 90), (84, 140), (112, 84)),
        ((300, 100), 84, (252, 84)),
        ((77, 101), 84, (84, 112)),
        ((60, 80), None, (70, 98)),
    ],
)
def test_photos_that_keep_their_aspect_have_whole_patches(folder, dinov2, size, image_size, expected):
    image = photo(*size, seed=7)
    student = PlaceEncoder(folder, device="cpu", image_size=image_size, keep_aspect=True)
    vit = PlaceEncoder(dinov2, device="cpu", image_size=image_size, keep_aspect=True)
    assert student.descriptor_model.prepare(image).shape[1:] == vit.descriptor_model.prepare(image).shape[1:] == expected
    np.testing.assert_allclose(
        student.encode([image]).descriptors, plain_descriptors(plain_pixels(image, *expected)[None]), atol=1e-5
    )
    assert student.input_size is vit.input_size is None and student.shorter_side == min(expected)


def test_a_convolutional_network_takes_any_length(tmp_path):
    encoder = PlaceEncoder(save_published("resnet", tmp_path / "model"), device="cpu", image_size=64, keep_aspect=True)
    assert encoder.descriptor_model.prepare(photo(90, 125, 0)).shape == (3, 64, 88)
    assert np.isfinite(encoder.encode(PHOTOS).descriptors).all()


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_descriptors_of_photos_of_several_sizes_come_in_their_order(folder, batch_size):
    encoder = PlaceEncoder(folder, device="cpu", keep_aspect=True, batch_size=batch_size)
    alone = np.concatenate([encoder.encode([image]).descriptors for image in PHOTOS])
    np.testing.assert_allclose(encoder.encode(PHOTOS).descriptors, alone, atol=1e-5)
    backwards = encoder.encode(PHOTOS, order=range(len(PHOTOS) - 1, -1, -1)).descriptors
    np.testing.assert_allclose(backwards, alone, atol=1e-5)


class AnySize(OtherModel):
    """A model of photos of any size that notes the shapes of its batches."""

    input_size = None

    def __init__(self):
        super().__init__()
        self.input_size, self.shapes = None, []

    def prepare(self, image):
        if image.width == 13:
            return super().prepare(image)
        return np.full((3, image.height, image.width), image.getpixel((0, 0))[0], np.float32)

    def describe(self, pixel_values):
        self.shapes.append(pixel_values.shape)
        directions = np.eye(32, dtype=np.float32)
        return directions[pixel_values[:, 0, 0, 0].astype(int) % 32]


def test_batches_are_full_although_sizes_alternate(tmp_path):
    sizes = [(14, 28), (28, 14)] * 12 + [(42, 14)]
    photos = [Image.new("RGB", size, (number, 0, 0)) for number, size in enumerate(sizes)]
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photo")
    photos.insert(3, broken)
    model, batches = AnySize(), []
    counts = []
    encoder = PlaceEncoder(model, batch_size=8)
    encoder._is_checked = True
    encoded = encoder.encode(photos, counts.append, on_batch=batches.append)
    numbers = [number for number in range(26) if number != 3]
    assert encoded.rows.tolist() == numbers and list(encoded.skipped) == [3]
    assert encoded.descriptors.argmax(1).tolist() == list(range(25))
    assert sorted(shape[0] for shape in model.shapes) == [1, 4, 4, 8, 8]  # 12, 12 and 1 photos
    assert np.concatenate([batch.rows for batch in batches]).tolist() == numbers
    assert np.concatenate([batch.descriptors for batch in batches]).argmax(1).tolist() == list(range(25))
    assert sum(counts) == 26 and [list(batch.skipped) for batch in batches].count([3]) == 1


def test_a_rare_size_waits_for_four_batches_at_most():
    sizes = [(42, 14)] + [(14, 28)] * 3 + [(28, 14)] * 30
    photos = [Image.new("RGB", size, (number, 0, 0)) for number, size in enumerate(sizes)]
    model, batches = AnySize(), []
    encoder = PlaceEncoder(model, batch_size=2)
    encoder._is_checked = True
    for position in range(9, len(photos), 2):  # 9 waiting photos of different sizes are one too many
        photos[position] = Image.new("RGB", (14 * (position + 4), 14), (position % 32, 0, 0))
    encoder.encode(photos, on_batch=batches.append)
    assert len(batches) > 3 and np.concatenate([batch.rows for batch in batches]).tolist() == list(range(len(photos)))


def restated_five_crops(image: Image.Image, side: int) -> np.ndarray:
    """Restate the form `five_crops` of the benchmark: shorter side to `side`, five squares, the mean of their descriptors."""
    width, height = image.size
    if width <= height:
        new_width, new_height = side, int(side * height / width)
    else:
        new_width, new_height = int(side * width / height), side
    pixels = plain_pixels(image, new_height, new_width)
    crops = []
    for bottom in (False, True):
        for right in (False, True):
            rows = slice(new_height - side, None) if bottom else slice(0, side)
            columns = slice(new_width - side, None) if right else slice(0, side)
            crops.append(pixels[:, rows, columns])
    top, left = round((new_height - side) / 2), round((new_width - side) / 2)
    crops.append(pixels[:, top : top + side, left : left + side])
    descriptors = []
    for crop in crops:
        assert crop.shape == (3, side, side)
        descriptors.append(plain_descriptors(crop[None])[0])
    return np.array(descriptors)


def test_five_crops_are_those_of_the_benchmark(folder):
    crops = np.array([restated_five_crops(image, 70) for image in PHOTOS])
    mean = PlaceEncoder(folder, device="cpu", test_time="five-crops", batch_size=4)
    means = crops.mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(mean.encode_queries(PHOTOS).descriptors, means, atol=1e-5)
    nearest = PlaceEncoder(folder, device="cpu", test_time="nearest-crop", batch_size=4)
    np.testing.assert_allclose(encode_queries(nearest, PHOTOS).descriptors, crops, atol=1e-5)
    plain = PlaceEncoder(folder, device="cpu", batch_size=4)
    assert (mean.encode(PHOTOS).descriptors == plain.encode(PHOTOS).descriptors).all(), "database photos are resized"
    assert mean.fingerprint == nearest.fingerprint == plain.fingerprint
    assert (plain.encode_queries(PHOTOS).descriptors == plain.encode(PHOTOS).descriptors).all()


@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_nearest_crop_decides(k):
    generator = np.random.default_rng(0)
    database, queries = generator.normal(size=(12, 8)), generator.normal(size=(4, 5, 8))
    database[7] = database[2]  # equal distances come in the order of the rows
    distances, rows = search_views(lambda descriptors, count: exact_search(descriptors, database, count), queries, k)
    expected = ((queries[:, :, None] - database) ** 2).sum(-1).min(axis=1)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    assert (rows == order).all()
    np.testing.assert_allclose(distances, np.take_along_axis(expected, order, 1), rtol=1e-5)


def test_an_index_records_the_size_and_the_form_of_queries(folder, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(PHOTOS):
        image.save(tmp_path / "photos" / f"{number}.png")
    encoder = PlaceEncoder(folder, device="cpu", image_size=56, keep_aspect=True, test_time="nearest-crop")
    index, _ = index_photos(tmp_path / "photos", tmp_path / "index", encoder)
    assert index.settings.model_options == {"image_size": [56, 56], "keep_aspect": True, "test_time": "nearest-crop"}
    again = PlaceEncoder.for_index(PlaceIndex.open(tmp_path / "index"), device="cpu")
    assert again.model_options == index.settings.model_options and again.fingerprint == encoder.fingerprint
    results = search_photos(index, [tmp_path / "photos"], again, top_k=2)
    crops = encoder.encode_queries(PHOTOS).descriptors
    similarities = np.einsum("qvd,nd->qvn", crops, encoder.encode(PHOTOS).descriptors).max(axis=1)
    assert [result.matches[0].row for result in results] == similarities.argmax(axis=1).tolist()
    assert results[2].matches[0].similarity == pytest.approx(similarities[2].max(), abs=1e-3)  # the index has half precision
    plain = PlaceEncoder.for_index(index, device="cpu", test_time="resize")
    assert search_photos(index, [tmp_path / "photos"], plain, top_k=1)[2].matches[0].similarity == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="keep_aspect True"):
        search_photos(index, [tmp_path / "photos"], PlaceEncoder(folder, device="cpu"))


def test_graphs_keep_the_size_of_their_export():
    size = PlaceEncoder(OLD / "graph").input_size
    assert size is not None and PlaceEncoder(OLD / "graph", image_size=size).input_size == size
    for options in ({"image_size": 224}, {"keep_aspect": True}):
        with pytest.raises(ValueError, match=f"takes images of {size[0]}x{size[1]} pixels.*Export the model again"):
            PlaceEncoder(OLD / "graph", **options)


@pytest.mark.slow
def test_a_graph_for_any_size_keeps_the_aspect_of_its_model(tmp_path):
    """A graph that squares photos, or rounds their sides otherwise, gives the descriptors of other photos."""
    pytest.importorskip("onnxruntime")
    folder = save_folder(tiny_model(num_hidden_layers=1), tmp_path / "model")
    encoder = PlaceEncoder(folder, device="cpu", image_size=42, keep_aspect=True)
    export(encoder, tmp_path / "graph", ExportOptions(input="any-size"))
    graph = PlaceEncoder(tmp_path / "graph", device="cpu")
    assert (graph.shorter_side, graph.input_size, graph.fingerprint) == (42, None, encoder.fingerprint)
    for image in PHOTOS:
        np.testing.assert_allclose(graph.encode([image]).descriptors, encoder.encode([image]).descriptors, atol=1e-5)


def test_an_old_graph_encodes_crops_of_queries():
    graph, model = (PlaceEncoder(OLD / name, device="cpu", test_time="five-crops") for name in ("graph", "model"))
    photos = sorted((OLD / "queries").iterdir())
    np.testing.assert_allclose(graph.encode_queries(photos).descriptors, model.encode_queries(photos).descriptors, atol=1e-4)


def test_impossible_forms_are_refused(tmp_path):
    model = tiny_cricavpr(use_cross_image_encoder=True)
    processor = D2VPRImageProcessor(size={"height": 70, "width": 70})
    with pytest.raises(ValueError, match="crops of a query would change each other"):
        PlaceEncoder(model, processor, device="cpu", test_time="five-crops")
    PlaceEncoder(model, processor, device="cpu", test_time="five-crops", cross_image_encoder=False)
    without_size = D2VPRImageProcessor(do_resize=False)
    with pytest.raises(ValueError, match="no size of square crops"):
        PlaceEncoder(tiny_model(), without_size, device="cpu", test_time="nearest-crop")
    with pytest.raises(ValueError, match="`keep_aspect=True` needs `image_size`"):
        PlaceEncoder(tiny_model(), without_size, device="cpu", keep_aspect=True)
    with pytest.raises(ValueError, match="Give one of them"):
        ModelOptions(keep_aspect=True, center_crop=True)
    with pytest.raises(ValueError, match="`test_time` must be one of resize, five-crops, nearest-crop"):
        ModelOptions(test_time="crops")
    assert ModelOptions(test_time="resize").to_dict() == {}


def test_evaluation_reports_the_size_and_the_form(folder, tmp_path):
    for side in ("database", "queries"):
        (tmp_path / side).mkdir()
        for number, image in enumerate(PHOTOS):
            image.save(tmp_path / side / f"@{500000 + 100 * number}@4000000@10@S@@@@@@@@@@@.png")
    sides = ("--database", tmp_path / "database", "--queries", tmp_path / "queries", "--model", folder, "--device", "cpu")
    form = ("--image-size", "56", "--keep-aspect", "--test-time", "nearest-crop")
    code, text, errors = run("evaluate", *sides, *form, "--json", tmp_path / "a.json")
    assert code == 0, errors
    assert "shorter side 56 with the photo's aspect (queries: nearest of five square crops)" in text
    values = json.loads((tmp_path / "a.json").read_text())["model"]
    assert values["shorter_side"] == 56 and values["resolution"] is None
    assert values["options"] == {"image_size": [56, 56], "keep_aspect": True, "test_time": "nearest-crop"}
    code, _, errors = run("evaluate", *sides, "--image-size", "56", "--json", tmp_path / "b.json")
    assert code == 0, errors
    code, text, errors = run("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0 and "resolutions differ: None and [56, 56]" in text, errors
    code, _, errors = run("evaluate", *sides, *form, "--save-descriptors", tmp_path / "saved")
    assert code != 0 and "--test-time nearest-crop" in errors and not (tmp_path / "saved").exists()


def test_matches_of_photos_of_two_sizes_are_explained(folder, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, image in zip(paths, PHOTOS, strict=False):
        image.save(path)
    encoder = PlaceEncoder(folder, device="cpu", keep_aspect=True)
    descriptors = encoder.encode(paths).descriptors
    explanation = explain_match(encoder, *paths)
    assert explanation.cosine == pytest.approx(float(descriptors[0] @ descriptors[1]), abs=1e-4)
