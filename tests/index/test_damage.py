"""Damaged files are found and named, and their content never gets into a search result."""

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d2vpr_hf.index import DamagedIndexError, PhotoFile, PlaceIndex, place_index, repair_index, verification, verify_index
from d2vpr_hf.index.manifest import StoredFile, read_manifest
from d2vpr_hf.index.place_rows import ROW_SCHEMA, StoredPlaces
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


def test_places_that_take_more_memory_than_their_file_holds_are_damage(tmp_path):
    """A stranger's index has correct checksums, and a text of 200 kB that 500 rows share."""
    file = tmp_path / "places-000000.parquet"
    rows = [{"path": "a" * 200_000}] * 500
    pq.write_table(pa.Table.from_pylist(rows, ROW_SCHEMA), file, compression="zstd")
    assert file.stat().st_size < 20_000
    with pytest.raises(DamagedIndexError, match=r"places-000000\.parquet: it states 100,000,000 bytes of content"):
        _ = StoredPlaces(file).table


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
        index = PlaceIndex.resume(broken, replacement=False)  # `open` would find damaged descriptors of so small an index
        with pytest.raises(DamagedIndexError, match=re.escape(last.name)):
            change(index)
        assert len(verify_index(broken)) == 1 and read_manifest(broken).count == 11


def test_damaged_descriptors_of_a_small_index_are_found_when_it_is_opened(whole, tmp_path):
    """A flipped bit changes no size; searches would return other similarities in silence."""
    for file in sorted(whole.glob("descriptors-*")):
        broken = shutil.copytree(whole, tmp_path / file.stem)
        flip_bit(broken / file.name, 8 * file.stat().st_size - 3)
        with pytest.raises(DamagedIndexError, match=rf"{file.name}: its checksum has changed.*`d2vpr verify`.*`d2vpr repair"):
            PlaceIndex.open(broken)
        with pytest.raises(DamagedIndexError, match=re.escape(file.name)):
            PlaceIndex.from_pretrained(broken)
        assert repair_index(broken).shards == 1 and PlaceIndex.open(broken).verify() == []


def test_opening_a_large_index_reads_a_sample_of_its_descriptors(whole, tmp_path, monkeypatch):
    """Some files each time, and others the next time: not all of a large map, and not always the same ones."""
    size = max(file.stat().st_size for file in whole.glob("descriptors-*"))
    monkeypatch.setattr(verification, "SAMPLE_BYTES", 2 * size)
    checked, check = [], verification.check_content
    monkeypatch.setattr(verification, "check_content", lambda folder, file: checked.append(file.name) or check(folder, file))
    for _ in range(40):
        before = len(checked)
        PlaceIndex.open(whole)
        assert len(checked) - before == 2
    assert set(checked) == {file.name for file in whole.glob("descriptors-*")}
    broken = shutil.copytree(whole, tmp_path / "broken")
    flip_bit(broken / "descriptors-000001.safetensors", -8)
    opened = 0
    with pytest.raises(DamagedIndexError, match=r"descriptors-000001\.safetensors"):
        for _ in range(100):
            PlaceIndex.open(broken)
            opened += 1
    assert opened < 100


def test_opening_an_index_reads_no_file_that_is_larger_than_the_sample(whole, monkeypatch):
    """A file of a million rows has gigabytes. The sample does not disturb random numbers of the caller either."""
    monkeypatch.setattr(verification, "SAMPLE_BYTES", 1)
    monkeypatch.setattr(verification, "check_content", lambda folder, file: pytest.fail(f"{file.name} was read"))
    state = random.getstate()
    PlaceIndex.open(whole)
    assert random.getstate() == state


def flip_bit(path, bit):
    content = bytearray(path.read_bytes())
    content[bit >> 3] ^= 1 << (bit & 7)
    path.unlink()  # an opened index keeps the file
    path.write_bytes(content)


def columns_of(places):
    return [places.column(name) for name in ROW_SCHEMA.names]


def test_a_flipped_bit_in_the_footer_of_places_never_gives_other_places(whole, tmp_path):
    """The footer is under no checksum of Parquet: it can turn paths into bytes, or leave rows out.

    Without the checksum of the manifest, types, rows and pages are checked. With it every flip is found, and the file is named.
    """
    broken = shutil.copytree(whole, tmp_path / "broken")
    file = broken / "places-000000.parquet"
    good = file.read_bytes()
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    expected = columns_of(StoredPlaces(file))
    for bit in range(8 * footer, 8 * len(good), 307):
        flip_bit(file, bit)
        with contextlib.suppress(ValueError):
            assert columns_of(StoredPlaces(file)) == expected, bit
        with pytest.raises(DamagedIndexError, match=r"places-000000\.parquet.*`d2vpr verify`.*`d2vpr repair"):
            PlaceIndex.open(broken).places.column("path")
        file.unlink()
        file.write_bytes(good)


def other_types(table):
    return table.set_column(0, "path", table.column("path").cast(pa.binary()))


def other_numbers(table):
    return table.set_column(1, "latitude", table.column("latitude").cast(pa.float32()))


def other_order(table):
    return table.select(table.schema.names[::-1])


@pytest.mark.parametrize("change", [other_types, other_numbers, other_order])
def test_places_of_other_types_are_refused(whole, tmp_path, change):
    """A faulty or foreign program wrote them, with correct checksums in the manifest."""
    broken = shutil.copytree(whole, tmp_path / "broken")
    file = broken / "places-000000.parquet"
    table = change(pq.read_table(file))
    file.unlink()
    pq.write_table(table, file)
    manifest = read_manifest(broken)
    stored = StoredFile.of(file.name, file.read_bytes())
    shards = (dataclasses.replace(manifest.shards[0], places=stored), *manifest.shards[1:])
    (broken / "manifest.json").write_text(dataclasses.replace(manifest, shards=shards).to_text())
    with pytest.raises(DamagedIndexError, match=r"places-000000\.parquet: expected the columns path string, latitude double"):
        PlaceIndex.open(broken)
    assert len(verify_index(broken)) == 1 and "places-000000.parquet" in verify_index(broken)[0]
    done = repair_index(broken)
    assert (done.shards, done.rows, done.paths) == (1, 4, []) and PlaceIndex.open(broken).verify() == []


def test_files_that_cannot_be_parsed_are_named(whole, tmp_path):
    """Parsers of headers raise errors of many types."""
    values = {
        "descriptors-000000.safetensors": b'{"descriptors": {"dtype": "F16", "shape": [1e999, 16], "data_offsets": [0, 0]}}',
        "descriptors-000001.safetensors": b"[" * 100_000,
        "places-000000.parquet": b"PAR1" + b"\xff" * 200 + (200).to_bytes(4, "little") + b"PAR1",
    }
    for name, content in values.items():
        broken = shutil.copytree(whole, tmp_path / name)
        if name.endswith("safetensors"):
            content = len(content).to_bytes(8, "little") + content
        (broken / name).unlink()
        (broken / name).write_bytes(content)
        manifest = read_manifest(broken)
        kind = "places" if name.startswith("places") else "descriptors"
        shards = [
            dataclasses.replace(shard, **{kind: StoredFile.of(name, content)}) if getattr(shard, kind).name == name else shard
            for shard in manifest.shards
        ]
        (broken / "manifest.json").write_text(dataclasses.replace(manifest, shards=tuple(shards)).to_text())
        with pytest.raises(DamagedIndexError, match=re.escape(name)):
            PlaceIndex.open(broken)
        assert len(verify_index(broken)) == 1 and name in verify_index(broken)[0]


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"format_version": 2, "shards": [{"rows": 1e999}]}',
        b'{"format_version": 2, "runtimes": [5], "photos": [], "shards": {}}',
        b"\xff\xfe",
        b"null",
        b"[2]",
    ],
)
def test_a_manifest_that_cannot_be_parsed_is_damaged(whole, tmp_path, text):
    broken = shutil.copytree(whole, tmp_path / "broken")
    (broken / "manifest.json").write_bytes(text)
    with pytest.raises(DamagedIndexError, match=r"manifest\.json is damaged"):
        PlaceIndex.open(broken)


def test_a_manifest_that_names_a_file_twice_is_damaged(whole, tmp_path):
    """The rows of one file would be found twice, and the number of rows would be wrong."""
    broken = shutil.copytree(whole, tmp_path / "broken")
    manifest = read_manifest(broken)
    shards = (*manifest.shards, manifest.shards[0])
    (broken / "manifest.json").write_text(dataclasses.replace(manifest, shards=shards).to_text())
    with pytest.raises(DamagedIndexError, match="a file of two shards"):
        PlaceIndex.open(broken)


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


def test_a_truth_value_is_no_number_of_a_manifest(whole, tmp_path):
    """Python counts `true` as 1: the next shard would replace the files of shard 1."""
    broken = shutil.copytree(whole, tmp_path / "broken")
    values = json.loads((broken / "manifest.json").read_text()) | {"next_shard": True}
    del values["checksum"]
    values["checksum"] = checksum(json.dumps(values, sort_keys=True).encode())
    (broken / "manifest.json").write_text(json.dumps(values, indent=2) + "\n")
    with pytest.raises(DamagedIndexError, match="next_shard of a wrong type"):
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


@pytest.mark.parametrize("name", ["descriptors-000001.safetensors", "places-000001.parquet"])
def test_a_file_that_is_cut_while_it_is_in_use_is_named(whole, tmp_path, name):
    """Reading the missing part of a mapped file ends the process (SIGBUS), without a word."""
    folder = shutil.copytree(whole, tmp_path / "index")
    index = PlaceIndex.open(folder)
    size = (folder / name).stat().st_size
    os.truncate(folder / name, size - 40)
    with pytest.raises(DamagedIndexError, match=rf"{name}: it was cut to {size - 40} of {size} bytes while it was in use"):
        index.search(np.eye(DIM, dtype=np.float32)[:1], 12)


@pytest.mark.parametrize("change", ["removed", "replaced"])
def test_a_file_that_is_removed_while_it_is_in_use_stays_readable(whole, tmp_path, change):
    """As a writer removes files of rows that it stored again; a reader keeps the old rows."""
    folder = shutil.copytree(whole, tmp_path / "index")
    index = PlaceIndex.open(folder)
    query = np.eye(DIM, dtype=np.float32)[:1]
    for file in folder.glob("*-000001.*"):
        file.unlink()
        if change == "replaced":
            file.write_bytes(b"x")
    found, expected = (opened.search(query, 12)[0] for opened in (index, PlaceIndex.open(whole)))
    assert [match.place for match in found] == [match.place for match in expected]
