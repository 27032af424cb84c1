"""Damaged files are found and named, and their content never gets into a search result."""

import json
import re
import shutil

import numpy as np
import pytest

from d2vpr_hf.index import DamagedIndexError, PhotoFile, PlaceIndex, place_index, verify_index
from d2vpr_hf.index.manifest import read_manifest
from d2vpr_hf.places import Place
from d2vpr_hf.utils.atomic_files import checksum
from tests.index.workers import DIM, begin, frame


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three shards, one with a removed row, and a calibration."""
    folder = tmp_path_factory.mktemp("damage") / "whole"
    with begin(folder) as index:
        for number in range(12):
            index.add(*frame(number))
        index.remove(["/frames/1"])
        index.store_calibration({"scale": 1.5})
    return folder


FILES = 3 * 2 + 1 + 1  # shards' files, calibration, manifest


def files_of(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_flipped_bit_in_any_file_is_found(whole, tmp_path):
    """Bits of headers, numbers, places and texts, at many places of each file; each time exactly that file is named."""
    assert verify_index(whole) == [] and len(files_of(whole)) == FILES
    broken = shutil.copytree(whole, tmp_path / "broken")
    chance = np.random.default_rng(0)
    for name in files_of(whole):
        content = (whole / name).read_bytes()
        ends = [0, 7, 8, len(content) // 2, len(content) - 1]
        for byte in {*(place for place in ends if place < len(content)), *chance.integers(0, len(content), 25).tolist()}:
            bad = bytearray(content)
            bad[byte] ^= 1 << int(chance.integers(8))
            (broken / name).write_bytes(bad)
            problems = verify_index(broken) if name != "manifest.json" else manifest_problems(broken)
            assert len(problems) == 1 and name in problems[0], (name, byte)
        (broken / name).write_bytes(content)


def manifest_problems(folder):
    """Return the problems of a manifest, the error of an unsupported version included."""
    try:
        return verify_index(folder)
    except ValueError as error:
        return [f"manifest.json: {error}"]


@pytest.mark.parametrize("change", ["missing", "cut", "longer", "empty"])
def test_an_index_with_a_damaged_file_is_not_opened(whole, tmp_path, change):
    """The error names the file and the way to repair it; `verify` names the same."""
    for number, name in enumerate(files_of(whole)):
        broken = shutil.copytree(whole, tmp_path / str(number))
        content = (broken / name).read_bytes()
        new = {"missing": None, "cut": content[:-1], "longer": content + b"x", "empty": b""}[change]
        (broken / name).unlink()
        if new is not None:
            (broken / name).write_bytes(new)
        repair = "calibrate" if name.startswith("calibration") else "index"
        with pytest.raises((DamagedIndexError, FileNotFoundError), match=re.escape(name) + f".*`d2vpr {repair}"):
            _ = PlaceIndex.open(broken).calibration
        if (broken / "manifest.json").exists():
            assert [name in problem for problem in verify_index(broken)] == [True]


def test_every_damaged_file_is_named(whole, tmp_path):
    broken = shutil.copytree(whole, tmp_path / "broken")
    names = [name for name in files_of(whole) if name != "manifest.json"]
    for name in names[::2]:
        (broken / name).write_bytes(b"")
    for name in names[1::2]:
        (broken / name).unlink()
    problems = verify_index(broken)
    assert len(problems) == FILES - 1 and all(any(name in problem for problem in problems) for name in names)


def test_damaged_places_are_never_returned(whole, tmp_path):
    """A flipped bit does not change sizes, so that opening does not find it; reading finds it and names the file."""
    broken = shutil.copytree(whole, tmp_path / "broken")
    name = next(name for name in files_of(whole) if name.endswith(".parquet"))
    content = bytearray((broken / name).read_bytes())
    page = content.find(b"/frames/0")
    content[page if page >= 0 else 60] ^= 4
    (broken / name).write_bytes(content)
    index = PlaceIndex.open(broken)
    with pytest.raises(DamagedIndexError, match=re.escape(name)):
        index.search(frame(0)[0], 99)


@pytest.mark.parametrize("kind", ["descriptors", "places"])
def test_damaged_rows_never_get_a_correct_checksum(whole, tmp_path, kind):
    """Merging, compacting and amending write rows to new files, but only after their checksums were compared."""
    changes = {
        "joined": lambda index: (index.add(*frame(20)), index.add(*frame(21)), index.flush()),
        "compacted": lambda index: index.compact(),
        "amended": lambda index: index.amend([Place("/frames/11")], [PhotoFile()]),
    }
    for name, change in changes.items():
        broken = shutil.copytree(whole, tmp_path / name)
        last = sorted(path for path in broken.iterdir() if path.name.startswith(kind))[-1]
        content = bytearray(last.read_bytes())
        content[60 if kind == "places" else -1] ^= 1  # within the pages of a table, within the numbers
        last.write_bytes(content)
        index = PlaceIndex.open(broken)
        with pytest.raises(DamagedIndexError, match=re.escape(last.name)):
            change(index)
        assert len(verify_index(broken)) == 1 and len(PlaceIndex.open(broken)) == 11


def test_numbers_that_are_not_finite_are_found(tmp_path, monkeypatch):
    """A faulty writer stored them: the checksum is correct, the numbers are not."""
    index = begin(tmp_path / "index")
    monkeypatch.setattr(place_index, "to_stored", lambda descriptors, places, manifest: np.full((1, DIM), np.inf, np.float16))
    index.add(np.zeros(DIM), Place("a"))
    index.flush()
    assert verify_index(tmp_path / "index") == ["descriptors-000000.safetensors: a descriptor is not finite"]
    with pytest.raises(ValueError, match="not finite"):
        index.search(np.zeros(DIM), 1)


@pytest.mark.parametrize("name", ["../descriptors-000000.safetensors", "/etc/passwd", "other.txt"])
def test_a_manifest_cannot_lead_out_of_its_folder(whole, tmp_path, name):
    """A manifest may come from the Hub."""
    broken = shutil.copytree(whole, tmp_path / "broken")
    values = json.loads((broken / "manifest.json").read_text())
    values["shards"][0]["descriptors"]["name"] = name
    del values["checksum"]
    values["checksum"] = checksum(json.dumps(values, sort_keys=True).encode())
    (broken / "manifest.json").write_text(json.dumps(values, indent=2) + "\n")
    with pytest.raises(DamagedIndexError, match="a file named"):
        PlaceIndex.open(broken)


def test_manifests_with_wrong_values_are_refused(whole, tmp_path):
    broken = shutil.copytree(whole, tmp_path / "broken")
    values = json.loads((whole / "manifest.json").read_text())
    assert read_manifest(whole).count == 11
    for key in values:
        for changed in (values | {key: 1.5}, {name: value for name, value in values.items() if name != key}):
            (broken / "manifest.json").write_text(json.dumps(changed, indent=2) + "\n")
            with pytest.raises(ValueError, match=r"manifest\.json is damaged|has format 1\.5"):
                PlaceIndex.open(broken)
    for removed in ([99], [2, 1], [1, 1], ["a"]):
        shards = [values["shards"][0] | {"removed": removed}, *values["shards"][1:]]
        (broken / "manifest.json").write_text(json.dumps(values | {"shards": shards}, indent=2) + "\n")
        with pytest.raises(DamagedIndexError, match="is damaged"):
            PlaceIndex.open(broken)


def test_a_damaged_index_can_be_replaced(whole, tmp_path):
    for number, change in enumerate((b"{", b"")):
        broken = shutil.copytree(whole, tmp_path / str(number))
        (broken / "manifest.json").write_bytes(change)
        with begin(broken, overwrite=True) as index:
            index.add(*frame(0))
        assert verify_index(broken) == [] and len(files_of(broken)) == 3
