"""ONNX graphs with a card run as encoders; wrong and hostile ones are refused before a runtime opens them."""

import contextlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from d2vpr_hf import PlaceEncoder, index_photos
from d2vpr_hf.backends.onnx_file import read_outline
from d2vpr_hf.encoders.carded_graphs import CardedGraph
from d2vpr_hf.encoders.photo_batches import check_independence
from d2vpr_hf.model_info.encoder_card import EncoderCard, hash_files, write_card
from d2vpr_hf.model_info.preprocessing import Preprocessing
from tests.onnx_files import TensorProto, onnx, plain_descriptors, rename_external, write_graph
from tests.photos import draw, save

pytest.importorskip("onnxruntime")

SIZE = 32
CARD = EncoderCard(
    "Tiny MegaLoc", 24, Preprocessing(size=(SIZE, SIZE)), license="mit", graph="model.onnx", checked={"photos": 4}
)


@pytest.fixture
def photos(tmp_path):
    return [save(tmp_path / "photos" / f"{seed}.png", seed) for seed in range(5)]


def make_folder(folder, card=CARD, **options):
    """Write a graph and its card into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_graph(folder / "model.onnx", **options)
    write_card(folder, card)
    return folder


def error_of(folder, **options):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        PlaceEncoder(folder, **options)
    return str(error.value)


# ---- good graphs


@pytest.mark.parametrize(
    "options",
    [
        {"external": "model.onnx.data"},
        {"size": SIZE},
        {"size": SIZE, "batch": 1},
        {"size": SIZE, "batch": 3},
        {"number_type": TensorProto.FLOAT16},
    ],
    ids=["dynamic", "fixed size", "one photo", "three photos", "float16"],
)
def test_descriptors_are_those_of_a_plain_script(tmp_path, photos, options):
    folder = make_folder(tmp_path / "model", **options)
    encoder = PlaceEncoder(folder, batch_size=4)
    descriptors = encoder.encode(photos).descriptors
    if options.get("batch") is None and "number_type" not in options:
        np.testing.assert_allclose(descriptors, plain_descriptors(folder / "model.onnx", photos, SIZE), atol=1e-5)
    else:
        dynamic = write_graph(tmp_path / "dynamic.onnx", size=options.get("size"))
        tolerance = 3e-3 if "number_type" in options else 1e-5  # float16 rounds pixel values to 0.001
        np.testing.assert_allclose(descriptors, plain_descriptors(dynamic, photos, SIZE), atol=tolerance)
    assert encoder.facts.license == "mit" and encoder.input_size == (SIZE, SIZE) and encoder.device_type == "cpu"
    assert encoder.runtime.backend == "onnxruntime"
    assert encoder.runtime.precision == ("fp16" if "number_type" in options else "fp32")


@pytest.mark.parametrize("external", [None, "weights.bin"])
def test_openvino_gives_the_same(tmp_path, photos, external):
    pytest.importorskip("openvino")
    folder = make_folder(tmp_path / "model", external=external, kind="two", card=replace(CARD, output_name="descriptor"))
    encoders = [PlaceEncoder(folder, backend=backend) for backend in ("auto", "openvino")]
    assert encoders[0].fingerprint == encoders[1].fingerprint
    first, second = (encoder.encode(photos).descriptors for encoder in encoders)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert (encoders[1].runtime.backend, encoders[1].runtime.precision) == ("openvino", "fp32")


def test_threads_do_not_run_a_graph_of_openvino_at_once(tmp_path, photos):
    """OpenVINO refuses a call while another one runs."""
    pytest.importorskip("openvino")
    encoder = PlaceEncoder(make_folder(tmp_path / "model"), backend="openvino")
    expected = encoder.encode(photos).descriptors
    network = encoder.backend._network
    running, counts = [], []

    def slow(inputs):
        running.append(1)
        counts.append(len(running))
        time.sleep(0.01)
        outputs = network(inputs)
        running.pop()
        return outputs

    encoder.backend._network = slow
    with ThreadPoolExecutor(3) as pool:
        for encoded in pool.map(encoder.encode, [photos] * 6):
            np.testing.assert_allclose(encoded.descriptors, expected, atol=1e-6)
    assert set(counts) == {1}


def test_another_backend_is_compared_with_onnxruntime(tmp_path, photos):
    """OpenVINO 2026.4 ignores `antialias` of a linear Resize without an error."""
    pytest.importorskip("openvino")
    folder = make_folder(tmp_path / "model", antialias=1)
    assert len(PlaceEncoder(folder).encode(photos).descriptors) == 5
    with pytest.raises(ValueError, match="openvino computes other descriptors"):
        PlaceEncoder(folder, backend="openvino").encode(photos)


def test_weights_that_are_inputs_too(tmp_path, photos):
    """Files of old versions list weights among the inputs."""
    folder = make_folder(tmp_path / "model")
    model = onnx.load_model(folder / "model.onnx")
    expected = PlaceEncoder(folder).encode(photos).descriptors
    model.graph.input.append(onnx.helper.make_tensor_value_info("weights", TensorProto.FLOAT, [48, 24]))
    onnx.save_model(model, folder / "model.onnx")
    np.testing.assert_array_equal(PlaceEncoder(folder).encode(photos).descriptors, expected)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_links_of_the_hubs_cache_are_followed(tmp_path, photos, backend):
    pytest.importorskip(backend)
    folder = make_folder(tmp_path / "plain", external="model.onnx_data")
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0ffee", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        (blobs / path.name.upper()).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name.upper()}")
    encoder = PlaceEncoder(snapshot, backend=backend)
    np.testing.assert_allclose(encoder.encode(photos).descriptors, PlaceEncoder(folder).encode(photos).descriptors, atol=1e-5)


def test_images_of_all_kinds(tmp_path):
    encoder = PlaceEncoder(make_folder(tmp_path))
    image = draw(1)
    array = np.asarray(image)
    expected = encoder.encode(image).descriptors
    for form in (array, array.transpose(2, 0, 1), array / 255.0, image.convert("RGBA")):
        np.testing.assert_allclose(encoder.encode(form).descriptors, expected, atol=2e-3)
    assert encoder.encode(Image.new("L", (9, 9), 100)).descriptors.shape == (1, 24)


def test_a_projection_and_norms(tmp_path, photos):
    """The descriptor is `(d - mean) @ components.T`, of a unit d where the card states so."""
    random = np.random.default_rng(0)
    mean, components = random.standard_normal(24).astype("f"), random.standard_normal((5, 24)).astype("f") / 10
    folder = make_folder(tmp_path / "model", unit=False, external="weights")
    save_file({"mean": mean, "components": components}, folder / "projection.safetensors")
    outputs = plain_descriptors(folder / "model.onnx", photos, SIZE)
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    prints = set()
    for normalize, normalize_projection in ((True, False), (True, True), (False, True)):
        card = replace(CARD, descriptor_dim=5, normalize=normalize, projection="projection.safetensors")
        write_card(folder, replace(card, normalize_projection=normalize_projection))
        encoder = PlaceEncoder(folder)
        expected = ((unit if normalize else outputs) - mean) @ components.T
        if normalize_projection:
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        elif np.linalg.norm(expected, axis=1).max() > 1:
            continue
        np.testing.assert_allclose(encoder.encode(photos).descriptors, expected, atol=1e-5)
        assert (encoder.descriptor_dim, encoder.projection_dim) == (5, 5)
        prints.add(encoder.fingerprint)
    assert len(prints) >= 2
    write_card(folder, replace(CARD, normalize=True))
    descriptors = PlaceEncoder(folder).encode(photos).descriptors
    np.testing.assert_allclose(descriptors, unit, atol=1e-5)
    save_file({"mean": mean[:3], "components": components}, folder / "projection.safetensors")
    write_card(folder, replace(CARD, descriptor_dim=5, projection="projection.safetensors"))
    assert "a projection of 24 numbers to 5" in error_of(folder)


def test_the_fingerprint_changes_with_what_changes_descriptors(tmp_path):
    folder = make_folder(tmp_path / "model", external="weights")
    fingerprint = PlaceEncoder(folder).fingerprint
    for card in (replace(CARD, license="apache-2.0", title="Other", checked={}), replace(CARD, output_name="descriptor")):
        write_card(folder, card)
        assert PlaceEncoder(folder).fingerprint == fingerprint
    changed = [
        replace(CARD, preprocessing=Preprocessing(size=(SIZE, SIZE), resample="bicubic")),
        replace(CARD, normalize=True),
    ]
    prints = {fingerprint}
    for card in changed:
        write_card(folder, card)
        prints.add(PlaceEncoder(folder).fingerprint)
    prints.add(PlaceEncoder(make_folder(tmp_path / "other", external="weights", seed=1)).fingerprint)
    assert len(prints) == 4


def test_another_image_size_is_an_option_of_graphs_of_any_size(tmp_path, photos):
    encoder = PlaceEncoder(make_folder(tmp_path / "any"), image_size=(40, 40))
    assert encoder.model_options == {"image_size": [40, 40]} and encoder.input_size == (40, 40)
    expected = plain_descriptors(tmp_path / "any" / "model.onnx", photos, 40)
    np.testing.assert_allclose(encoder.encode(photos).descriptors, expected, atol=1e-5)
    fixed = make_folder(tmp_path / "fixed", size=SIZE)
    assert "takes images of 32×32 only, got 40×40" in error_of(fixed, image_size=(40, 40))
    assert "without the options `pool`" in error_of(fixed, pool="gem")


def test_an_index_opens_its_graph_with_the_size_it_records_also_from_another_folder(tmp_path, photos):
    folder = make_folder(tmp_path / "model")
    encoder = PlaceEncoder(folder, image_size=(40, 40))
    index, _ = index_photos(photos[0].parent, tmp_path / "index", encoder)
    assert PlaceEncoder.for_index(index).fingerprint == encoder.fingerprint
    folder.rename(tmp_path / "moved")
    assert PlaceEncoder.for_index(index, tmp_path / "moved").fingerprint == encoder.fingerprint


def test_opening_and_encoding_load_neither_torch_nor_transformers(tmp_path):
    make_folder(tmp_path, external="weights")
    code = (
        "import sys; from pathlib import Path; from PIL import Image\n"
        "from d2vpr_hf.encoders.open_carded_graph import open_carded_graph\n"
        f"graph = open_carded_graph({str(tmp_path)!r}); graph.prepare(Image.new('RGB', (40, 30))), graph.fingerprint\n"
        "print(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


# ---- wrong and hostile ones


def test_descriptors_that_are_not_as_the_card_states(tmp_path, photos):
    unchecked = replace(CARD, checked={})
    cases = [
        ({"unit": False}, CARD, 'does not state "normalize": true'),
        ({"kind": "nan", "unit": False}, replace(CARD, normalize=True), "not finite"),
        ({"kind": "batch"}, unchecked, 'does not state "depends_on_batch": true'),
    ]
    for number, (options, card, reason) in enumerate(cases):
        encoder = PlaceEncoder(make_folder(tmp_path / str(number), card, **options))
        with pytest.raises(ValueError, match=reason):
            encoder.encode(photos)
    stated = PlaceEncoder(make_folder(tmp_path / "stated", replace(unchecked, depends_on_batch=True), kind="batch"))
    assert stated.depends_on_batch and len(stated.encode(photos).descriptors) == 5


def test_a_card_without_checks_is_checked_by_the_first_batch_of_different_photos(tmp_path, photos):
    encoder = PlaceEncoder(make_folder(tmp_path / "model", replace(CARD, checked={}), kind="batch"))
    assert len(encoder.encode([photos[0]] * 3).descriptors) == 3  # equal photos show nothing
    with pytest.raises(ValueError, match="depends_on_batch"):
        encoder.encode(photos)


@pytest.mark.parametrize(
    ("options", "card", "reason"),
    [
        ({"kind": "two"}, CARD, "several outputs: descriptor (?, 24), attention (?, 48). Name the right one by `output_name`"),
        ({}, replace(CARD, output_name="tokens"), "has no output 'tokens'. It has descriptor (?, 24)"),
        ({}, replace(CARD, input_name="pixels"), "has no input 'pixels'"),
        ({}, replace(CARD, descriptor_dim=25), "gives descriptors of 24 numbers, but its card states `descriptor_dim` 25"),
        ({"size": 40}, CARD, "takes images of 40×40 only, got 32×32"),
        ({"size": 40}, replace(CARD, preprocessing=Preprocessing(shortest_edge=40)), "Give this size in its card"),
        ({"kind": "custom"}, CARD, "operators of example.ops"),
        ({"number_type": TensorProto.DOUBLE}, CARD, "float32 or float16"),
        ({"size": SIZE, "batch": 2}, replace(CARD, depends_on_batch=True), "takes exactly 2 photos"),
        ({}, replace(CARD, sha256={"model.onnx": "0" * 64}), "SHA-256 is"),
        ({}, replace(CARD, graph="other.onnx"), "other.onnx is missing"),
        ({}, replace(CARD, projection="other.safetensors"), "other.safetensors is missing"),
    ],
)
def test_a_graph_that_does_not_fit_its_card_is_refused(tmp_path, options, card, reason):
    assert reason in error_of(make_folder(tmp_path, card, **options))


def test_a_graph_of_very_many_photos_is_refused(tmp_path):
    assert "takes 1000000000 images at once" in error_of(make_folder(tmp_path, size=SIZE, batch=10**9))


def test_a_projection_in_eight_bits_is_refused(tmp_path):
    header = json.dumps(
        {
            "mean": {"dtype": "F8_E4M3", "shape": [24], "data_offsets": [0, 24]},
            "components": {"dtype": "F8_E4M3", "shape": [4, 24], "data_offsets": [24, 120]},
        }
    ).encode()
    card = replace(CARD, projection="projection.safetensors", descriptor_dim=4)
    folder = make_folder(tmp_path, card)
    (folder / "projection.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 120)
    assert "projection.safetensors is not a projection" in error_of(folder)


def test_a_dependence_of_later_photos_of_a_batch_is_found():
    """The first photo's descriptor may be right in each batch."""

    def describe(pixel_values):
        rows = pixel_values.reshape(len(pixel_values), -1)
        return rows + np.arange(len(rows))[:, None]

    pixel_values = np.random.default_rng(0).random((3, 3, 2, 2), np.float32)
    assert check_independence(describe, pixel_values, describe(pixel_values), 1e-3) > 0.1
    assert check_independence(lambda it: it[:, 0, 0], pixel_values, pixel_values[:, 0, 0], 1e-3) == 0
    equal = np.repeat(pixel_values[:1], 3, axis=0)
    assert check_independence(describe, equal, describe(equal), 1e-3) is None


def test_a_graph_that_gives_maps_is_refused(tmp_path, photos):
    encoder = PlaceEncoder(make_folder(tmp_path / "model", kind="maps"))
    with pytest.raises(ValueError, match=r"Expected descriptors of the shape \(5, 24\) .* got \(5, 3, 4, 4\)"):
        encoder.encode(photos)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/weights", "..\\secret", "", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_weights_outside_of_the_folder_are_refused_before_a_runtime_opens_them(tmp_path, monkeypatch, name, backend):
    (tmp_path / "secret").write_bytes(bytes(10_000))
    folder = make_folder(tmp_path / "model", external="weights")
    rename_external(folder / "model.onnx", name)
    monkeypatch.setattr(CardedGraph, "backend", property(lambda self: pytest.fail("a runtime was opened")))
    assert "Only names of files in the same folder" in error_of(folder, backend=backend)


def test_links_to_weights_outside_and_missing_weights_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(10_000))
    folder = make_folder(tmp_path / "model", external="weights")
    (folder / "weights").unlink()
    assert "weights is missing" in error_of(folder)
    (folder / "weights").symlink_to("../secret")
    assert "link to a file in another folder" in error_of(folder)


def test_external_weights_are_found_wherever_a_graph_can_hold_them(tmp_path):
    """In attributes, subgraphs, functions, sparse tensors and training information, also if they are named twice."""

    def tensor(name):
        value = onnx.TensorProto(name="t", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
        value.external_data.add(key="location", value="first")
        value.external_data.add(key="location", value=name)
        return value

    model = onnx.load_model(write_graph(tmp_path / "model.onnx"))
    inner = onnx.helper.make_graph([], "inner", [], [], [tensor("../in_subgraph")])
    node = onnx.helper.make_node("Constant", [], ["c"], value=tensor("../in_attribute"))
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    model.graph.node.extend([node, branch])
    function = onnx.helper.make_function("f", "F", [], ["o"], [onnx.helper.make_node("Constant", [], ["o"])], [])
    function.node[0].attribute.append(onnx.helper.make_attribute("value", tensor("../in_function")))
    model.functions.append(function)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor("../in_sparse"))
    training = model.training_info.add()
    training.algorithm.initializer.append(tensor("../in_training"))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    places = {"subgraph", "attribute", "function", "sparse", "training"}
    assert read_outline(tmp_path / "model.onnx").external_files == {"first"} | {f"../in_{place}" for place in places}


@pytest.mark.parametrize("location", [b"\x70\x81\x80\x80\x80\x10", b"\xf0\x80\x80\x80\x10\x01"])
def test_numbers_that_readers_of_protobuf_cut_to_32_bits_hide_no_weights(tmp_path, location):
    """`data_location` as 2**32 + 1, and in a field whose number is 2**29 too large."""
    model = onnx.load_model(write_graph(tmp_path / "model.onnx"))
    tensor = onnx.TensorProto(name="hidden", data_type=1, dims=[2])
    tensor.external_data.add(key="location", value="../secret")
    content = tensor.SerializeToString() + location
    graph = model.graph.SerializeToString() + bytes([5 << 3 | 2, len(content)]) + content
    path = tmp_path / "hidden.onnx"
    model.ClearField("graph")
    onnx.save_model(model, path)
    length = bytes([len(graph) & 127 | 128, len(graph) >> 7 & 127 | 128, len(graph) >> 14])
    path.write_bytes(path.read_bytes() + bytes([7 << 3 | 2]) + length + graph)
    with contextlib.suppress(ValueError):  # refused, which is right as well
        assert read_outline(path).external_files == {"../secret"}


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 100, b"PK\x03\x04", b"\x3a\x05abc", json.dumps({}).encode()])
def test_a_damaged_graph_is_refused(tmp_path, content):
    folder = make_folder(tmp_path)
    (folder / "model.onnx").write_bytes(content)
    assert "not an ONNX model, or damaged" in error_of(folder)


def test_a_truncated_graph_is_refused(tmp_path, photos):
    folder = make_folder(tmp_path / "model")
    content = (folder / "model.onnx").read_bytes()
    for length in range(1, len(content) - 1, 97):
        (folder / "model.onnx").write_bytes(content[:length])
        assert "not an ONNX model, or damaged" in error_of(folder)


def test_a_runtime_that_cannot_open_a_graph_is_reported(tmp_path, photos):
    folder = make_folder(tmp_path / "model")
    model = onnx.load_model(folder / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for backend in ("onnxruntime", "openvino"):
        pytest.importorskip(backend)
        with pytest.raises(ValueError, match=f"{backend} cannot open .*model.onnx.*NoSuchOperator"):
            PlaceEncoder(folder, backend=backend).encode(photos)


def test_choices_that_a_graph_does_not_have(tmp_path, caplog):
    folder = make_folder(tmp_path)
    assert "runs by onnxruntime or openvino" in error_of(folder, backend="torch-compiled")
    assert "graph in fp32, which cannot run in fp16" in error_of(folder, precision="fp16")
    assert "has no `revision`" in error_of(folder, revision="main")
    assert "Omit `processor`" in error_of(folder, processor=object())
    assert PlaceEncoder(folder, device="cuda:0").device_type == "cpu" and "`device` has no effect" in caplog.text


def test_a_graph_without_a_card_names_the_command_that_writes_one(tmp_path):
    graph = write_graph(tmp_path / "mine.onnx")
    assert f"d2vpr card-onnx {graph}" in error_of(tmp_path)
    assert f"d2vpr card-onnx {graph}" in error_of(graph)


def test_hashes_are_of_all_files(tmp_path):
    folder = make_folder(tmp_path / "model", external="weights")
    graph = CardedGraph(folder, replace(CARD, sha256=hash_files(folder, ["model.onnx", "weights"])))
    assert graph.files == ["model.onnx", "weights"]
    content = bytearray((folder / "weights").read_bytes())
    content[7] ^= 1
    (folder / "weights").write_bytes(content)
    with pytest.raises(ValueError, match="weights is not the file that"):
        CardedGraph(folder, graph.card)
