"""A search with a graph loads neither torch nor transformers, which take seconds to load, and gives the same results."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from d2vpr_hf.backends import cpu_kind
from d2vpr_hf.backends.export_model import ExportOptions, export_model
from d2vpr_hf.backends.exported_model import info_text, with_checksums
from d2vpr_hf.encoders.own_models import prepare_by
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.encoders.rgb_images import to_rgb
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization import localize_photos
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.pretrained.own_facts import steps_of
from d2vpr_hf.readers import open_photo
from d2vpr_hf.retrieval import index_photos, search_photos
from tests.photos import draw, save_row

HEAVY = ("torch", "transformers", "datasets", "gradio")
LOADED = f"print('loaded:', sorted(set({HEAVY}) & set(sys.modules)))"
COMMAND = """
import sys
from d2vpr_hf.cli import main
main()
"""
LIBRARY = """
import json, sys
from d2vpr_hf import PlaceEncoder, PlaceIndex, localize_photos, search_photos
_, folder, photo, *graphs = sys.argv
index = PlaceIndex.open(folder)
for name in graphs:
    encoder = PlaceEncoder(name, batch_size=2)
    results = search_photos(index, [photo], encoder, top_k=3)
    answers = localize_photos(index, [photo], encoder)
    assert answers[0].place is not None and PlaceEncoder.for_index(index, name).fingerprint == encoder.fingerprint
    print(json.dumps([result.to_dict() for result in results]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_folder):
    """Photos, an index by a model, the graph of that model, and an index by the graph."""
    folder = tmp_path_factory.mktemp("light")
    save_row(folder / "photos")
    Image.fromarray(np.arange(0, 60_000, 10, np.uint16).reshape(60, 100)).save(folder / "grey.png")
    options = ExportOptions("onnx", "fp32", "fixed")
    model, processor = load_model(tiny_folder), load_image_processor(tiny_folder)
    export_model(model, processor, folder / "graph", options, info={"fingerprint": PlaceEncoder(tiny_folder).fingerprint})
    index_photos(folder / "photos", folder / "by-model", PlaceEncoder(tiny_folder))
    index_photos(folder / "photos", folder / "by-graph", PlaceEncoder(folder / "graph"))
    return folder


def run(program, *arguments):
    """Run a program in a new process; return its output, and the heavy libraries that it loaded."""
    code = f"import atexit, sys\natexit.register(lambda: {LOADED})\n" + program
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    output, _, loaded = done.stdout.rpartition("loaded: ")
    return output, loaded.strip()


@pytest.mark.parametrize(("command", "backend"), [("search", "torch"), ("localize", "torch"), ("search", "openvino")])
def test_commands_load_neither_torch_nor_transformers(world, tiny_folder, command, backend):
    """The default backend is torch; for a graph it is onnxruntime."""
    photos = [sorted((world / "photos").iterdir())[3], world / "grey.png"]
    arguments = ["--model", world / "graph", "--backend", backend, "--json"]
    output, loaded = run(COMMAND, command, world / "by-model", *photos, *arguments)
    assert loaded == "[]"
    answer = {"search": search_photos, "localize": localize_photos}[command]
    by_torch = answer(PlaceIndex.open(world / "by-model"), photos, PlaceEncoder(tiny_folder))
    assert_close(json.loads(output), json.loads(json.dumps([result.to_dict() for result in by_torch])))


def test_an_index_that_was_built_with_a_graph_is_searched_with_it(world):
    photo = sorted((world / "photos").iterdir())[3]
    output, loaded = run(COMMAND, "search", world / "by-graph", photo, "--top-k", 1)
    assert loaded == "[]" and photo.name in output and " 1.0000 " in output


def test_the_library_loads_neither_torch_nor_transformers(world):
    photo = sorted((world / "photos").iterdir())[5]
    output, loaded = run(LIBRARY, world / "by-model", photo, world / "graph")
    assert loaded == "[]"
    [result] = json.loads(output)
    assert [match["rank"] for match in result["matches"]] == [1, 2, 3] and result["matches"][0]["path"] == str(photo)


def assert_close(first, second):
    """Compare JSON values: the light way and the torch way round differently."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_close(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for values in zip(first, second, strict=True):
            assert_close(*values)
    elif isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-4)
    else:
        assert first == second


PROCESSORS = {
    "bilinear": {"size": {"height": 70, "width": 98}},
    "bicubic": {"size": {"height": 98, "width": 70}, "resample": 3},
    "bicubic, larger": {"size": {"height": 224, "width": 224}, "resample": 3},
    "bilinear, larger": {"size": {"height": 224, "width": 322}},
    "any size": {"do_resize": False},
    "photos": dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), False),
    "other mean": {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 127.5},
    "not normalised": {"do_normalize": False},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixel_values_without_torch_are_those_of_the_image_processor(name, tmp_path):
    processor = D2VPRImageProcessor(**PROCESSORS[name])
    steps = steps_of(processor)
    assert steps == type(steps).from_dict(json.loads(json.dumps(steps.to_dict())))
    for number, image in enumerate(images(tmp_path)):
        expected, values = prepare_by(processor, image), steps(to_rgb(image))
        assert values.dtype == expected.dtype and values.shape == expected.shape, number
        # between dots of different colours more of the error of torch's positions, which are in float32, is seen
        tolerance = 1e-4 if number < 2 else 1e-3 if name == "photos" else 1e-5  # of 255 for photos
        assert np.abs(values - expected).max() <= tolerance, number


def images(folder):
    """Return images of all modes and of several shapes, from files, from memory and in arrays; the first two are dithered."""
    colour = draw(1, 120, 360)  # 3:1
    grey = Image.fromarray((np.arange(0, 60_000, 10).reshape(60, 100)).astype(np.uint16))
    turned = draw(3, 200, 150)
    turned.getexif()[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=turned.getexif())
    grey.save(folder / "grey.tif")
    modes = ("L", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F")
    pictures = [
        colour,
        draw(2, 360, 120),
        draw(4, 7, 5),
        draw(5, 1, 40),
        turned,
        grey,
        *(colour.convert(mode) for mode in modes),
    ]
    files = [open_photo(folder / "turned.jpg"), open_photo(folder / "grey.tif"), Image.open(folder / "turned.jpg")]
    arrays = [np.asarray(colour), np.asarray(colour).transpose(2, 0, 1), np.asarray(colour.convert("L"))]
    return [*pictures, *files, *arrays, torch.from_numpy(arrays[1].copy())]


def test_a_graph_without_an_entry_about_the_encoder_runs_by_its_configuration(world, tmp_path):
    """Exports of earlier versions have none."""
    copy = tmp_path / "graph"
    copy.mkdir()
    for path in (world / "graph").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    info = json.loads((copy / "export.json").read_text())
    for key in ("encoder", "checksum"):  # a value that was removed by hand would be noticed
        del info[key]
    (copy / "export.json").write_text(json.dumps(info))
    older, encoder = PlaceEncoder(copy), PlaceEncoder(world / "graph")
    photo = world / "grey.png"
    assert np.array_equal(older.encode([photo]).descriptors, encoder.encode([photo]).descriptors)
    for name in ("descriptor_dim", "projection_dim", "depends_on_batch", "input_size", "fingerprint", "runtime"):
        assert getattr(older, name) == getattr(encoder, name)
    info["encoder"] = {"descriptor_dim": 3}
    (copy / "export.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"The entry 'encoder' of .*export.json cannot be read .* Export the model again"):
        PlaceEncoder(copy)


def test_a_given_image_processor_prepares_photos(world):
    """It has precedence over the steps that the folder states."""
    processor = D2VPRImageProcessor(size={"height": 70, "width": 70}, image_mean=[0.1] * 3)
    photo = open_photo(world / "grey.png")
    prepared = PlaceEncoder(world / "graph", processor).descriptor_model.prepare(photo)
    assert np.array_equal(prepared, prepare_by(processor, photo))


def test_a_device_that_a_graph_cannot_run_on_is_reported(world, caplog):
    PlaceEncoder(world / "graph", device="cuda")
    assert "runs on the CPU here; `device` has no effect" in caplog.text


@pytest.mark.skipif(cpu_kind._named_by_linux() is None, reason="the system does not list instruction sets")
def test_the_kind_of_processor_is_the_same_without_torch():
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch does not list instruction sets")
    assert cpu_kind._named_by_linux() == cpu_kind._named_by_torch()


def test_the_kind_of_processor_reads_the_lists_of_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_kind, "_CPU_INFO", tmp_path / "cpuinfo")
    assert cpu_kind._named_by_linux() is None
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n\nprocessor\t: 1\n")
    assert cpu_kind._named_by_linux() == ["dotprod", "i8mm"]
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse avx avx2 avx512f avx512bw avx512_vnni amx_tile\n")
    assert cpu_kind._named_by_linux() == ["avx2", "avx512_bw", "avx512_vnni"]


def test_weights_of_an_exported_graph_outside_of_its_folder_are_refused(tmp_path, world):
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "graph"
    shutil.copytree(world / "graph", folder)
    path = next(folder.rglob("*.onnx"))
    model = onnx.load_model(path)
    tensor = model.graph.initializer[0]
    (tmp_path / "secret").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="has changed since it was exported"):
        PlaceEncoder(folder)
    info = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(info_text(with_checksums(info, folder)))  # a stranger's checksums are right
    with pytest.raises(ValueError, match="Only names of files in the same folder are allowed"):
        PlaceEncoder(folder).backend  # noqa: B018 - it is opened when it is first used
