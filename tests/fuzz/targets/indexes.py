"""Files of indexes, calibrations and reports."""

import json
import math
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.fuzz.targets.registry import Prepared, Warnings, check, file_target, target, writer


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


def _mutate_in_place(seed: bytes, draws: Any) -> bytes:
    """Damage a file and mostly keep its size: another size is refused before anything is read."""
    damaged = mutate_bytes(seed, draws)
    return (damaged + seed)[: len(seed)] if draws.random() < 0.8 else damaged


def _index_file(path: Path, file: Path, rows: Any) -> Prepared:
    """Return a target of a file of an index: opened, it gives the answer of the undamaged file, a warning, or an error."""
    content, write = file.read_bytes(), writer(file)
    answer = _search(path, rows[:3])

    def run(damaged: bytes) -> None:
        write(damaged)
        with Warnings() as warnings:
            damaged_answer = _search(path, rows[:3])
        check(damaged_answer == answer or warnings.count, "a damaged file changed the answer in silence")

    return Prepared([content], run, mutate=_mutate_in_place)


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

    return Prepared([content], run, mutate=_mutate_in_place)


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
