"""The parsers that read strangers' files: seeds, the function to run, and the exceptions that are right answers.

A target is a function that gets an empty folder and returns a [`Prepared`]; it imports the libraries that it needs, so that a
process loads those of one target only. An answer that can be compared with the undamaged file's is compared: a wrong answer in
silence is a fault like a traceback.
"""

import functools
import io
import json
import logging
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.mutations import Mutation, mutate_bytes, mutate_json, mutate_text


class WrongAnswerError(Exception):
    """A damaged file was read without an error or a warning, and the answer is wrong."""


class Prepared(NamedTuple):
    """A target with its files in place.

    Attributes:
        seeds: Valid inputs.
        run: Reads an input and checks the answer.
        right: Exceptions that are right answers.
        mutate: Draws a damaged input from a seed.
        is_slow: Whether an execution starts a process; the default tests then run only two.
    """

    seeds: list[bytes]
    run: Callable[[bytes], object]
    right: tuple[type[BaseException], ...] = (ValueError,)
    mutate: Mutation = mutate_bytes
    is_slow: bool = False


TARGETS: dict[str, Callable[[Path], Prepared]] = {}


def target(make: Callable[[Path], Prepared]) -> Callable[[Path], Prepared]:
    TARGETS[make.__name__] = make
    return make


def check(holds: object, reason: str) -> None:
    if not holds:
        raise WrongAnswerError(reason)


def check_places(places: Iterable[Any]) -> None:
    """Check that the numbers of places are finite and in their ranges, and their texts are texts."""
    for place in places:
        check(isinstance(place.path, str), f"path {place.path!r}")
        for name, most in (("latitude", 90), ("longitude", 180)):
            value = getattr(place, name)
            check(value is None or (isinstance(value, float) and abs(value) <= most), f"{name} {value!r}")
        for name in ("utm_east", "utm_north", "heading", "height"):
            value = getattr(place, name, None)
            check(value is None or math.isfinite(value), f"{name} {value!r}")


def writer(path: Path) -> Callable[[bytes], Path]:
    """Return a function that puts content into a new file at a path: readers may have mapped the old one."""

    def write(content: bytes) -> Path:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return path

    return write


def file_target(
    path: Path,
    seeds: list[bytes],
    read: Callable[[Path], object],
    right: tuple[type[BaseException], ...] = (ValueError,),
    mutate: Mutation = mutate_bytes,
) -> Prepared:
    """Return a target that reads one file."""
    write = writer(path)
    return Prepared(seeds, lambda content: read(write(content)), right, mutate)


class Warnings(logging.Handler):
    """Counts warnings of the package while it is attached."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1

    def __enter__(self) -> "Warnings":
        logging.getLogger("d2vpr_hf").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("d2vpr_hf").removeHandler(self)


# ---- photos


def _photo_seeds() -> list[bytes]:
    import numpy as np
    import pillow_heif
    from PIL import Image, PngImagePlugin
    from PIL.ExifTags import GPS, IFD, Base

    pillow_heif.register_heif_opener()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).resize((40, 24))
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = "2024:05:01 12:30:00"
    exif.get_ifd(IFD.Exif)[Base.OffsetTimeOriginal] = "+02:00"
    gps = exif.get_ifd(IFD.GPSInfo)
    gps.update({GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (48.0, 8.0, 13.5)})
    gps.update({GPS.GPSLongitudeRef: "E", GPS.GPSLongitude: (11.0, 34.0, 31.0)})
    gps.update({GPS.GPSImgDirection: 12.5, GPS.GPSImgDirectionRef: "T", GPS.GPSMapDatum: "WGS-84"})
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", _XMP.decode())
    forms: list[tuple[str, Any, dict[str, Any]]] = [
        ("JPEG", image, {"exif": exif, "quality": 80}),
        ("JPEG", image, {"exif": exif, "progressive": True, "xmp": _XMP}),
        ("PNG", image, {"exif": exif, "pnginfo": text}),
        ("TIFF", image.convert("L"), {"compression": "tiff_lzw", "exif": exif}),
        ("TIFF", Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60), {}),
        ("WEBP", image, {"exif": exif}),
        ("GIF", image.quantize(16), {}),
        ("BMP", image, {}),
        ("HEIF", image, {"exif": exif.tobytes()}),
    ]
    contents = []
    for name, picture, options in forms:
        file = io.BytesIO()
        picture.save(file, name, **options)
        contents.append(file.getvalue())
    return contents


@target
def photos(folder: Path) -> Prepared:
    from d2vpr_hf.readers.photos import UnreadablePhotoError, open_photo

    def read(path: Path) -> None:
        image = open_photo(path, (32, 32))
        check(min(image.size) > 0, f"a photo of {image.size}")
        image.convert("RGB").tobytes()

    return file_target(folder / "photo.jpg", _photo_seeds(), read, (UnreadablePhotoError,))


@target
def photo_metadata(folder: Path) -> Prepared:
    from d2vpr_hf.readers.folder import read_photo

    # damaged metadata are skipped and counted: no exception is right
    return file_target(folder / "photo.jpg", _photo_seeds(), lambda path: check_places(read_photo(path).places), ())


@target
def exif_values(folder: Path) -> Prepared:
    """EXIF of wrong types in an undamaged photo."""
    from PIL import Image

    from d2vpr_hf.readers.folder import read_photo
    from d2vpr_hf.readers.photos import UnreadablePhotoError, open_photo

    with Image.open(io.BytesIO(_photo_seeds()[0])) as image:
        block = image.info["exif"]
        pixels = image.copy()
    write = writer(folder / "photo.jpg")

    def run(content: bytes) -> None:
        file = io.BytesIO()
        pixels.save(file, "JPEG", exif=content[:60_000])
        path = write(file.getvalue())
        check_places(read_photo(path).places)
        try:
            open_photo(path)
        except UnreadablePhotoError as error:
            raise WrongAnswerError("an undamaged picture was refused for its EXIF") from error

    return Prepared([block], run, ())


_XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:GPSLatitude="48,8.225N" exif:GPSLongitude="11,34.5E"
 exif:GPSImgDirection="125/10" exif:DateTimeOriginal="2024-05-01T12:30:00+02:00"/></rdf:RDF></x:xmpmeta>"""


@target
def xmp(folder: Path) -> Prepared:
    from d2vpr_hf.readers.metadata.xmp import parse_xmp, read_xmp

    return Prepared([_XMP, _XMP.decode().encode("utf-16")], lambda content: read_xmp(parse_xmp(content)))


@target
def takeout(folder: Path) -> Prepared:
    from d2vpr_hf.readers.metadata.takeout import read_takeout

    position = {"latitude": 48.1, "longitude": 11.5, "altitude": 0.0, "latitudeSpan": 0.0, "longitudeSpan": 0.0}
    values = {"title": "a.jpg", "photoTakenTime": {"timestamp": "1714559400"}, "geoData": position, "geoDataExif": position}
    return Prepared([json.dumps(values).encode()], lambda content: read_takeout(content, "a.jpg"), mutate=mutate_json)


# ---- tables and names

_TABLES = [
    b"path,latitude,longitude,heading,timestamp\na.jpg,48.1,11.5,10,2024-05-01T12:00:00\nb/c.jpg,48.2,11.6,,\n",
    b"image;utm_east;utm_north;utm_zone;place_id\na.jpg;691000,5;5334000;32U;1\nb.jpg;691010;5334000;32U;2\n",
    b'\xef\xbb\xbf# drawn\r\nfile_name,lat,lon,night\r\n"a, b.jpg",-33.9,151.2,1\r\n',
]


@target
def csv_tables(folder: Path) -> Prepared:
    from d2vpr_hf.readers.tables.csv_table import read_csv

    return file_target(folder / "places.csv", _TABLES, lambda path: check_places(read_csv(path).places), mutate=mutate_text)


@target
def at_names(folder: Path) -> Prepared:
    from d2vpr_hf.readers.at_names import places_from_names

    names = (
        b"@0544000.00@4172758.00@10@S@037.70000@-122.50000@pano@@90@@@@20240501@note@.jpg",
        b"@544000.00@4172758.00@.jpg",
        b"@0691000@5334000@32@U@048.13057@011.56705@a@0@0@0@1@2@20240501@x@.jpg",
    )

    def run(content: bytes) -> None:
        name = content.decode("utf-8", "replace").replace("/", "_").replace("\0", "_") or "@"
        check_places(places_from_names([folder / f"@{name.lstrip('@')}"], folder))

    return Prepared(list(names), run, mutate=mutate_text)


@target
def photo_lists(folder: Path) -> Prepared:
    from d2vpr_hf.readers.photo_lists import read_photo_list

    return file_target(
        folder / "list.csv", [b"path,other\na.jpg,1\nb.jpg,2\n", b"a.jpg\nb.jpg\n"], read_photo_list, mutate=mutate_text
    )


@target
def positives_json(folder: Path) -> Prepared:
    return _positives(
        folder / "positives.json", [b'{"q1.jpg": ["a.jpg"], "q2.jpg": ["a.jpg", "b.jpg"]}', b"[[0, 1], [1]]"], mutate_json
    )


@target
def positives_csv(folder: Path) -> Prepared:
    return _positives(
        folder / "positives.csv", [b"query,database\nq1.jpg,a.jpg\nq2.jpg,b.jpg\n", b"query,database\n0,1\n"], mutate_text
    )


def _positives(path: Path, seeds: list[bytes], mutate: Mutation) -> Prepared:
    from d2vpr_hf.readers.positives_files import RowNames, read_positives

    database, queries = RowNames("database", ["a.jpg", "b.jpg"]), RowNames("query", ["q1.jpg", "q2.jpg"])

    def read(path: Path) -> None:
        positives, _ = read_positives(path, database, queries)
        check(len(positives) == 2 and all(0 <= row < 2 for rows in positives for row in rows), f"rows {positives}")

    return file_target(path, seeds, read, mutate=mutate)


# ---- indexes


def _make_index(folder: Path, compression: Any = "none", dtype: str = "float16") -> tuple[Path, Any]:
    import numpy as np

    from d2vpr_hf.index import IndexSettings, PlaceIndex
    from d2vpr_hf.places.place import Place

    draws = np.random.default_rng(0)
    rows = draws.normal(size=(30, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    places = [Place(f"ä/{row:02d}.jpg", 48 + row / 100, 11.5, heading=10.0 * row, timestamp="2024-05-01") for row in range(30)]
    path = folder / "index"
    with PlaceIndex.create(path, IndexSettings("user/model", "fingerprint", 64, dtype, shard_size=20)) as index:
        index.add(rows, places)
        index.build_store(compression)
    return path, rows


def _search(path: Path, queries: Any) -> list[Any]:
    """Return all places of an index, and the matches of queries."""
    from d2vpr_hf.index import PlaceIndex

    with PlaceIndex.open(path) as index:
        matches = [(match.row, match.place.path, match.similarity) for row in index.search(queries, 5) for match in row]
        return [list(index.places), matches]


@target
def manifests(folder: Path) -> Prepared:
    """A manifest that a stranger edits, with a right checksum in most inputs."""
    from d2vpr_hf.utils.atomic_files import checksum

    path, rows = _make_index(folder)
    manifest = path / "manifest.json"
    content, write = manifest.read_bytes(), writer(manifest)
    answer = _search(path, rows[:3])

    def mutate(seed: bytes, draws: Any) -> bytes:
        damaged = mutate_json(seed, draws)
        try:
            values = json.loads(damaged)
            del values["checksum"]
            values["checksum"] = checksum(json.dumps(values, sort_keys=True).encode())
        except (ValueError, KeyError, TypeError, AttributeError):
            return damaged
        return json.dumps(values, indent=2).encode() + b"\n" if draws.random() < 0.8 else damaged

    def run(damaged: bytes) -> None:
        write(damaged)
        damaged_answer = _search(path, rows[:3])
        if json.loads(damaged).get("checksum") == json.loads(content)["checksum"]:
            check(damaged_answer == answer, "an edited manifest with the old checksum changed the answer")

    return Prepared([content], run, (ValueError, FileNotFoundError), mutate)


@target
def place_tables(folder: Path) -> Prepared:
    path, rows = _make_index(folder)
    file = sorted(path.glob("places-*"))[0]
    return _index_file(path, file, rows)


@target
def calibration_files(folder: Path) -> Prepared:
    from d2vpr_hf.localization.calibration import Calibration
    from d2vpr_hf.localization.reliability import FEATURES

    count = len(FEATURES)
    values = {
        "format_version": 1,
        **{name: [0.5] * count for name in ("weights", "means", "deviations")},
        **{"bias": 0.1, "features": list(FEATURES), "thresholds": [0.1, 0.5], "precision": [0.5, 0.9], "coverage": [1.0, 0.5]},
        **{"radius_confidence": [0.1, 0.9], "radius": [50.0, 10.0], "num_queries": 100, "num_right": 50},
    }

    def run(content: bytes) -> None:
        import numpy as np

        calibration = Calibration.from_dict(json.loads(content))
        confidences = calibration.confidences(np.zeros((1, count)))
        check(np.isfinite(confidences).all() and 0 <= confidences[0] <= 1, f"a confidence {confidences}")
        check(not math.isnan(calibration.radius_90(0.5)), "a radius that is not a number")

    return Prepared([json.dumps(values).encode()], run, mutate=mutate_json)


def _index_file(path: Path, file: Path, rows: Any) -> Prepared:
    """Return a target of a file of an index: opened, it gives the answer of the undamaged file, a warning, or an error."""
    content, write = file.read_bytes(), writer(file)
    answer = _search(path, rows[:3])

    def mutate(seed: bytes, draws: Any) -> bytes:
        damaged = mutate_bytes(seed, draws)  # another size is refused before anything is read
        return (damaged + seed)[: len(seed)] if draws.random() < 0.8 else damaged

    def run(damaged: bytes) -> None:
        write(damaged)
        with Warnings() as warnings:
            damaged_answer = _search(path, rows[:3])
        check(damaged_answer == answer or warnings.count, "a damaged file changed the answer in silence")

    return Prepared([content], run, mutate=mutate)


@target
def index_descriptors(folder: Path) -> Prepared:
    """Descriptors are checked on `verify`: what it passes is what was written, and nothing raises but errors of damage."""
    from d2vpr_hf.index.verification import verify_index

    path, rows = _make_index(folder)
    file = sorted(path.glob("descriptors-*"))[0]
    content, write = file.read_bytes(), writer(file)

    def run(damaged: bytes) -> None:
        write(damaged)
        check(damaged == content or verify_index(path), "a damaged file passed the verification")
        _search(path, rows[:3])

    return Prepared([content], run, mutate=_index_file(path, file, rows).mutate)


def _store(folder: Path, compression: str, pattern: str, dtype: str = "float16") -> Prepared:
    """Return a target of a derived store, over which no exception is right: the search is then exact."""
    path, rows = _make_index(folder, compression, dtype)
    file = next(iter(sorted(path.glob(f"derived-*/{pattern}"))))
    store = {each: each.read_bytes() for each in file.parent.iterdir()}
    prepared = _index_file(path, file, rows)

    def run(damaged: bytes) -> None:
        file.parent.mkdir(exist_ok=True)
        for each, content in store.items():
            if not each.exists():  # a store that cannot be used is removed
                each.write_bytes(content)
        prepared.run(damaged)

    return prepared._replace(run=run, right=())


@target
def bit_stores(folder: Path) -> Prepared:
    return _store(folder, "bits", "bits.npy")


@target
def int8_stores(folder: Path) -> Prepared:
    return _store(folder, "int8", "int8.faiss")


@target
def half_stores(folder: Path) -> Prepared:
    return _store(folder, "half", "*.npy", "float32")


@target
def store_descriptions(folder: Path) -> Prepared:
    return _store(folder, "bits", "*.json")._replace(mutate=mutate_json)


# ---- arrays, weights and models


def _descriptors() -> Any:
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _read_descriptors(path: Path) -> None:
    import numpy as np

    from d2vpr_hf.readers.descriptor_files import read_descriptors

    file = read_descriptors(path)
    check(np.asarray(file.descriptors[:2]).ndim == 2, "descriptors without rows")


@target
def npy_descriptors(folder: Path) -> Prepared:
    import numpy as np

    files = []
    for values in (_descriptors(), np.asfortranarray(_descriptors().astype(np.float16))):
        file = io.BytesIO()
        np.save(file, values)
        files.append(file.getvalue())
    return file_target(folder / "rows.npy", files, _read_descriptors)


@target
def safetensors_descriptors(folder: Path) -> Prepared:
    from safetensors.numpy import save

    return file_target(folder / "rows.safetensors", [save({"rows": _descriptors()}, {"a": "b"})], _read_descriptors)


@target
def hdf5_descriptors(folder: Path) -> Prepared:
    import h5py

    with h5py.File(folder / "one.h5", "w") as file:
        file["rows"] = _descriptors()
    with h5py.File(folder / "many.h5", "w") as file:
        for name, row in zip(("a.jpg", "b/c.jpg"), _descriptors(), strict=False):
            file.create_group(name)["global_descriptor"] = row
    seeds = [(folder / name).read_bytes() for name in ("one.h5", "many.h5")]
    return file_target(folder / "rows.h5", seeds, _read_descriptors)


@target
def array_pickles(folder: Path) -> Prepared:
    import numpy as np

    from d2vpr_hf.readers.data_sets.array_files import read_names, read_positives

    arrays = (
        np.array([np.array([1, 2]), np.array([3])], object),
        np.array(["a.jpg", "b.jpg"], object),
        np.arange(6).reshape(2, 3),
    )
    files = []
    for values in (*arrays, np.array(["a.jpg", "ä.jpg"]), np.array([b"a.jpg"])):
        file = io.BytesIO()
        np.save(file, values, allow_pickle=True)
        files.append(file.getvalue())

    def read(path: Path) -> None:
        try:
            read_names(path)
        except ValueError:
            read_positives(path)

    return file_target(folder / "array.npy", files, read)


@target
def weights_pickles(folder: Path) -> Prepared:
    import numpy as np
    import torch

    from d2vpr_hf.convert.weights_file import read_weights

    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2, dtype=torch.float16)}
    contents = [{"model_state_dict": weights, "recalls": np.array([1.0]), "epoch": 3}, weights]
    seeds = []
    for number, content in enumerate(contents):
        torch.save(content, folder / "seed.pth", _use_new_zipfile_serialization=number == 0)
        seeds.append((folder / "seed.pth").read_bytes())
    return file_target(folder / "weights.pth", seeds, read_weights)


@target
def weights_safetensors(folder: Path) -> Prepared:
    import torch
    from safetensors.torch import save

    from d2vpr_hf.convert.weights_file import read_weights

    seeds = [save({"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2, dtype=torch.bfloat16)})]
    return file_target(folder / "weights.safetensors", seeds, read_weights)


@target
def mobilenet_graphs(folder: Path) -> Prepared:
    from d2vpr_hf.convert.mobilenet_v2 import is_mobilenet_v2

    return file_target(folder / "graph.pb", [_onnx_graph(folder)], is_mobilenet_v2)


@target
def model_configs(folder: Path) -> Prepared:
    from d2vpr_hf.modeling import D2VPRConfig
    from d2vpr_hf.pretrained.loading import load_config

    D2VPRConfig().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not read")
    seeds = [(folder / "config.json").read_bytes()]
    return file_target(folder / "config.json", seeds, lambda path: load_config(path.parent), (ValueError, OSError), mutate_json)


@target
def encoder_cards(folder: Path) -> Prepared:
    from d2vpr_hf.model_info.encoder_card import CARD_FILE, EncoderCard, read_card
    from d2vpr_hf.model_info.preprocessing import Preprocessing

    steps = Preprocessing(size=(56, 56))
    card = EncoderCard(
        "A model", 8, steps, license="mit", num_parameters=100, graph="model.onnx", sha256={"model.onnx": "0" * 64}
    )
    return file_target(
        folder / CARD_FILE, [json.dumps(card.to_dict()).encode()], lambda path: read_card(path.parent), mutate=mutate_json
    )


@target
def preprocessor_files(folder: Path) -> Prepared:
    from d2vpr_hf.model_info.preprocessor_files import read_preprocessing, read_processor_file

    settings = {
        **{"image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3},
        **{"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255},
        **{"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "do_convert_rgb": True},
    }

    def read(path: Path) -> None:
        read_preprocessing(read_processor_file(path.parent) or {})

    return file_target(folder / "preprocessor_config.json", [json.dumps(settings).encode()], read, mutate=mutate_json)


@functools.cache
def _onnx_graph(folder: Path) -> bytes:
    from onnx import TensorProto, helper

    shape = [1, 3, 4, 4]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "descriptor")]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["images", "w"], ["descriptor"])], "g", values[:1], values[1:], [weights]
    )
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


@target
def onnx_outlines(folder: Path) -> Prepared:
    from d2vpr_hf.backends.onnx_file import read_outline

    return file_target(folder / "model.onnx", [_onnx_graph(folder)], read_outline)


@target
def export_files(folder: Path) -> Prepared:
    from d2vpr_hf.backends.exported_model import INFO_FILE, ExportedModel

    info = {"format_version": 1, "format": "onnx", "precision": "fp32", "model": "user/model", "fingerprint": "x", "graphs": {}}
    return file_target(
        folder / INFO_FILE, [json.dumps(info).encode()], lambda path: ExportedModel.open(path.parent), mutate=mutate_json
    )


# ---- the Space, recipes, reports and data sets


@target
def zips(folder: Path) -> Prepared:
    import shutil

    from d2vpr_hf.space.uploads import Limits, UploadError, collect_photos

    photo = _photo_seeds()[0]
    seeds = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("a/@1@2@.jpg", photo)
            archive.writestr("b.jpg", photo)
            archive.writestr("notes.txt", "text")
        seeds.append(file.getvalue())
    home, limits = folder / "home", Limits()

    def read(path: Path) -> None:
        home.mkdir()
        try:
            collected = collect_photos([path], home, limits)
            check(all(home in photo.resolve().parents for photo in collected.photos), "a photo outside the folder")
            check({item.name for item in folder.iterdir()} <= {"home", path.name}, "a file outside the folder")
        finally:
            shutil.rmtree(home)

    return file_target(folder / "upload.zip", seeds, read, (UploadError,))


@target
def recipes(folder: Path) -> Prepared:
    import contextlib

    from d2vpr_hf.training.options import CONFIGS, FinetuneOptions, parse_options

    seed = (CONFIGS / "finetune_gsv_cities.yaml").read_bytes() + b"\nphotos: [photos]\nout: run\nmodel: embedded\n"

    def read(path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            parse_options(FinetuneOptions, [str(path)])

    return file_target(folder / "recipe.yaml", [seed], read, (ValueError, SystemExit), mutate_text)


@target
def reports(folder: Path) -> Prepared:
    from d2vpr_hf.evaluation.encoder_info import EncoderInfo
    from d2vpr_hf.evaluation.positives import PositiveRule
    from d2vpr_hf.evaluation.report import Evaluation, QueryResult

    query = QueryResult("q.jpg", 0, "night", [1.0, 2.0], 1, 1, "a.jpg", [1.0, 3.0], 0.9, 1.0, True)
    database = {"path": "photos", "count": 2, "checksum": "x"}
    evaluation = Evaluation(PositiveRule(), (1, 5), [query] * 2, database, database, EncoderInfo(descriptor_dim=8))
    evaluation.save(folder / "seed.json")
    seeds = [(folder / "seed.json").read_bytes()]
    return file_target(folder / "report.json", seeds, lambda path: Evaluation.load(path).to_text(), mutate=mutate_json)


@target
def msls_tables(folder: Path) -> Prepared:
    from d2vpr_hf.readers.data_sets.registry import read_data_set

    root = folder / "msls"
    tables = {
        "raw.csv": b",key,lon,lat,ca,captured_at,pano\n0,a,11.5,48.1,10.0,2019-01-01,False\n"
        b"1,b,11.6,48.2,20.0,2019-01-02,False\n",
        "postprocessed.csv": b",key,easting,northing,unique_cluster,night,control_panel,view_direction\n"
        b"0,a,691000.0,5334000.0,1,False,False,Forward\n1,b,691010.0,5334000.0,2,True,False,Forward\n",
        "seq_info.csv": b",key,sequence_key,frame_number\n0,a,s,0\n1,b,s,1\n",
        "subtask_index.csv": b",all,s2w\n0,True,True\n1,True,False\n",
    }
    for side in ("database", "query"):
        place = root / "train_val" / "cph" / side
        (place / "images").mkdir(parents=True)
        for name, content in tables.items():
            (place / name).write_bytes(content)
        for name in ("a", "b"):
            (place / "images" / f"{name}.jpg").write_bytes(b"x")
    names = list(tables)

    def run(content: bytes) -> None:
        """Write the damaged table in place of the one with the most similar header."""
        name = next((name for name in names if content[:12] == tables[name][:12]), names[len(content) % len(names)])
        for other in names:
            (root / "train_val" / "cph" / "query" / other).write_bytes(content if other == name else tables[other])
        data_set = read_data_set(root)
        check_places(place for part in data_set.parts for place in part.database.places)

    return Prepared(list(tables.values()), run, (ValueError, FileNotFoundError), mutate_text)


@target
def matlab_structs(folder: Path) -> Prepared:
    import numpy as np
    from scipy.io import savemat

    from d2vpr_hf.readers.data_sets.matlab_structs import read_struct

    images = np.array([["a.jpg"], ["b.jpg"]], object)
    struct = {
        **{"whichSet": "val", "dbImage": images, "qImage": images, "utmDb": np.arange(4.0).reshape(2, 2), "numDb": 2.0},
        **{
            "utmQ": np.arange(4.0).reshape(2, 2),
            "numImages": 2.0,
            "numQueries": 2.0,
            "posDistThr": 25.0,
            "posDistSqThr": 625.0,
        },
    }
    seeds = []
    for compressed in (False, True):
        savemat(folder / "seed.mat", {"dbStruct": struct}, do_compression=compressed)
        content = (folder / "seed.mat").read_bytes()
        seeds.append(content[:20].ljust(116) + content[116:])  # the header has the time
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"x")
    prepared = file_target(folder / "data.mat", seeds, lambda path: read_struct(folder, path), (ValueError, FileNotFoundError))
    return prepared._replace(is_slow=True)
