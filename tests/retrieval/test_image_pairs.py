"""Pairs and descriptors for hloc and COLMAP, against matrix products and the programs' own ways to read the files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2vpr_hf.index import IndexSettings, PlaceIndex
from d2vpr_hf.places import Place
from d2vpr_hf.readers.descriptor_files import read_descriptors
from d2vpr_hf.retrieval import export_descriptors, image_pairs, index_descriptors, pair_index, pair_queries
from tests.command_line import run


def unit_rows(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_index(
    folder: Path, rows: np.ndarray, names: list[str] | None = None, photos: Path = Path("/maps/photos")
) -> PlaceIndex:
    settings = IndexSettings(
        None, "x", rows.shape[1], dtype="float32", photo_folder=photos, shard_size=7, descriptor_name="own"
    )
    with PlaceIndex.create(folder, settings) as index:
        index.add(rows, [Place(name) for name in names or [f"a/{row:03d}.jpg" for row in range(len(rows))]])
    return PlaceIndex.open(folder)


def hloc_pairs(path: Path) -> list[tuple[str, str]]:
    """Read pairs as `hloc.utils.parsers.parse_retrieval` does: each line is split at white space into two names."""
    pairs = []
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        query, other = line.split()
        pairs.append((query, other))
    return pairs


def colmap_pairs(path: Path, names: list[str]) -> list[tuple[str, str]]:
    """Read pairs as COLMAP does: lines are trimmed, those with # ignored, and cut at blanks; names must exist."""
    pairs = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line.strip() or line.strip()[0] == "#":
            continue
        first, second = line.strip().split(" ")[:2]
        assert first in names and second in names
        pairs.append((first, second))
    return pairs


@pytest.mark.parametrize("compression", ["none", "bits"])
def test_all_pairs_are_those_of_a_product_without_its_diagonal(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(image_pairs, "_ROWS_AT_ONCE", 5)
    monkeypatch.setattr(image_pairs, "_COMPARED_AT_ONCE", 20)
    rows = unit_rows(40)
    index = make_index(tmp_path / "index", rows)
    index.build_store(compression)
    names = index.places.column("path")
    report = pair_index(index, tmp_path / "pairs.txt", top_k=4)
    products = rows @ rows.T
    np.fill_diagonal(products, -2)
    expected = [(names[row], names[other]) for row in range(40) for other in np.argsort(-products[row])[:4]]
    assert hloc_pairs(tmp_path / "pairs.txt") == expected
    assert (report.pairs, report.photos, report.image_root, report.skipped) == (160, 40, Path("/maps/photos"), {})
    report = pair_index(index, tmp_path / "colmap.txt", format="colmap", top_k=4)
    pairs = colmap_pairs(tmp_path / "colmap.txt", names)
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == report.pairs
    assert {frozenset(pair) for pair in pairs} == {frozenset(pair) for pair in expected}


def test_equal_photos_are_never_paired_with_themselves(tmp_path):
    """Of many equal rows a search returns the first ones, so that a later row is not among its own nearest."""
    index = make_index(tmp_path / "index", np.repeat(unit_rows(1), 12, axis=0))
    pair_index(index, tmp_path / "pairs.txt", top_k=3)
    pairs = hloc_pairs(tmp_path / "pairs.txt")
    assert len(pairs) == 36 == len(set(pairs)) and all(first != second for first, second in pairs)
    pair_index(index, tmp_path / "many.txt", top_k=99)
    assert len(hloc_pairs(tmp_path / "many.txt")) == 12 * 11


def test_names_that_lines_cannot_hold_are_skipped_and_counted(tmp_path, caplog):
    """hloc reads no file with such a line, and COLMAP reads another name, or none behind a #."""
    names = ["a b.jpg", "#c.jpg", "d\u00a0e.jpg", "f#.jpg", "\u00fc.jpg", "g.jpg"]
    index = make_index(tmp_path / "index", unit_rows(6), names)
    report = pair_index(index, tmp_path / "pairs.txt", top_k=5)
    assert set(hloc_pairs(tmp_path / "pairs.txt")) == {(a, b) for a in names[3:] for b in names[3:] if a != b}
    assert list(report.skipped) == names[:3]
    assert "Skipped: 3 photos whose names have white space or begin with #" in caplog.text and "such as a b.jpg" in caplog.text
    with pytest.raises(ValueError, match=r"Skipped: 3 photos whose names .* Rename them"):
        pair_index(index, tmp_path / "strict.txt", strict=True)
    allowed = np.array([False] * 5 + [True])
    with pytest.raises(ValueError, match="need at least two photos; 1 of 6 in the index can be used"):
        pair_index(index, tmp_path / "one.txt", allowed=allowed)
    assert not (tmp_path / "one.txt").exists()


def test_filters_apply_to_both_photos(tmp_path):
    index = make_index(tmp_path / "index", unit_rows(20))
    allowed = np.arange(20) % 2 == 0
    pair_index(index, tmp_path / "pairs.txt", top_k=3, allowed=allowed)
    chosen = {name for row, name in enumerate(index.places.column("path")) if allowed[row]}
    pairs = hloc_pairs(tmp_path / "pairs.txt")
    assert len(pairs) == 30 and {name for pair in pairs for name in pair} <= chosen


def test_names_start_at_the_folder_of_all_images(tmp_path):
    names = ["a.jpg", "/maps/other/b.jpg", "c/d.jpg"]
    index = make_index(tmp_path / "index", unit_rows(3), names)
    report = pair_index(index, tmp_path / "pairs.txt")
    assert {name for pair in hloc_pairs(tmp_path / "pairs.txt") for name in pair} == {
        "photos/a.jpg",
        "other/b.jpg",
        "photos/c/d.jpg",
    }
    assert report.image_root == Path("/maps")
    inside = make_index(tmp_path / "inside", unit_rows(2), ["c/d.jpg", "c/e/f.jpg"])
    pair_index(inside, tmp_path / "inside.txt", image_root="/maps/photos/c")
    assert hloc_pairs(tmp_path / "inside.txt") == [("d.jpg", "e/f.jpg"), ("e/f.jpg", "d.jpg")]
    with pytest.raises(ValueError, match=r"/maps/other/b\.jpg is not in /maps/photos\. Give `image_root=\.\.\.`"):
        pair_index(index, tmp_path / "new.txt", image_root="/maps/photos")


def test_an_existing_file_stays(tmp_path):
    index = make_index(tmp_path / "index", unit_rows(3))
    (tmp_path / "pairs.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        pair_index(index, tmp_path / "pairs.txt")
    with pytest.raises(FileExistsError, match="is a folder"):
        pair_index(index, tmp_path, overwrite=True)
    assert (tmp_path / "pairs.txt").read_text() == "mine"
    assert pair_index(index, tmp_path / "pairs.txt", overwrite=True).pairs == 6
    with pytest.raises(ValueError, match="Expected `format` as one of hloc, colmap, got 'opensfm'"):
        pair_index(index, tmp_path / "new.txt", format="opensfm")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A data set with photos in `db`, an index of them, and queries next to them, of which one is a photo of `db`."""
    folder = tmp_path_factory.mktemp("town").resolve()
    rng = np.random.default_rng(0)
    for name in ("db", "query"):
        (folder / name).mkdir()
    for number in range(5):
        image = Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8)).resize((70, 70))
        image.save(folder / "db" / f"@{500_000 + 300 * number}@4649776@32@T@@@{number}@@@@@@@@.png")
        if number < 2:
            image.save(folder / "query" / f"{number}.png")
    assert run("index", folder / "db", "--out", folder / "index", "--model", "embedded")[0] == 0
    return folder


def test_descriptors_of_another_program_are_paired_by_their_names(town, tmp_path):
    """The pairs are those of the encoded photos; rows without names cannot be paired."""
    pytest.importorskip("h5py")
    assert run("index", town / "query", "--out", tmp_path / "queries", "--model", "embedded")[0] == 0
    queries = PlaceIndex.open(tmp_path / "queries")
    export_descriptors(queries, tmp_path / "queries.h5", image_root=town)
    arguments = ["pairs", town / "index", "--top-k", 2, "--image-root", town, "--out"]
    assert run(*arguments, tmp_path / "photos.txt", town / "query", "--model", "embedded")[0] == 0
    status, out, error = run(*arguments, tmp_path / "given.txt", "--descriptors", tmp_path / "queries.h5")
    assert status == 0 and "Wrote 4 pairs of 2 photos for hloc" in out, error
    assert (tmp_path / "given.txt").read_text() == (tmp_path / "photos.txt").read_text()
    np.save(tmp_path / "rows.npy", np.asarray(queries.descriptors[:], np.float32))
    for words, message in (
        (["--descriptors", tmp_path / "rows.npy"], "has no names of photos"),
        (["--descriptors", tmp_path / "queries.h5", "--model", "embedded"], "no photos are encoded. Omit --model"),
        (["--descriptors", tmp_path / "queries.h5", "--all"], "Give one of QUERY, `--all` and `--descriptors FILE`"),
        ([], "Give either QUERY, `--all`, or `--descriptors FILE`"),
    ):
        status, _, error = run(*arguments, tmp_path / "none.txt", *words)
        assert status == 1 and message in error and not (tmp_path / "none.txt").exists()


def test_queries_are_paired_with_their_matches(town, tmp_path):
    arguments = ["pairs", town / "index", town / "query", "--out", tmp_path / "pairs.txt", "--top-k", 2, "--model", "embedded"]
    status, out, _ = run(*arguments)
    assert status == 0 and f"Wrote 4 pairs of 2 photos for hloc: {tmp_path / 'pairs.txt'}. Names are relative to {town}." in out
    matches = json.loads(run("search", town / "index", town / "query", "--top-k", 2, "--json", "--model", "embedded")[1])
    relative = [
        (Path(answer["query"]).relative_to(town).as_posix(), Path(match["path"]).relative_to(town).as_posix())
        for answer in matches
        for match in answer["matches"]
    ]
    assert hloc_pairs(tmp_path / "pairs.txt") == relative
    assert run(*arguments)[0] == 1 and "`--overwrite` to replace it" in run(*arguments)[2]
    report = json.loads(run(*arguments, "--overwrite", "--json", "--image-root", town.parent)[1])
    assert report["pairs"] == 4 and report["image_root"] == str(town.parent)
    assert hloc_pairs(tmp_path / "pairs.txt")[0] == tuple(f"{town.name}/{name}" for name in relative[0])
    status, out, error = run(*arguments, town / "query" / "gone.png", "--overwrite")
    assert status == 1 and "Wrote 4 pairs of 2 photos" in out and "1 of 2 given paths could not be read" in error
    status, _, error = run(*arguments, "--overwrite", "--image-root", town / "db")
    assert status == 1 and "is not in" in error and "`--image-root DIR`" in error


def test_a_query_that_is_in_the_index_is_not_paired_with_itself(town, tmp_path):
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder

    index, encoder = PlaceIndex.open(town / "index"), PlaceEncoder("embedded")
    photo = sorted((town / "db").iterdir())[0]
    report = pair_queries(index, [photo, photo, town / "db"], encoder, tmp_path / "pairs.txt", top_k=4)
    pairs = hloc_pairs(tmp_path / "pairs.txt")
    assert report.image_root == town / "db" and len(pairs) == len(set(pairs)) == 20 and all(a != b for a, b in pairs)
    pair_queries(index, [town / "db"], encoder, tmp_path / "colmap.txt", top_k=4, format="colmap")
    assert len(colmap_pairs(tmp_path / "colmap.txt", index.places.column("path"))) == 10


def test_the_command_for_all_photos_encodes_nothing(town, tmp_path, monkeypatch):
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder

    monkeypatch.setattr(PlaceEncoder, "encode", None)
    status, out, _ = run("pairs", town / "index", "--all", "--out", tmp_path / "p.txt", "--format", "colmap", "--top-k", 4)
    assert status == 0 and "Wrote 10 pairs of 5 photos for colmap" in out
    for wrong, message in (
        (["--all", town / "query"], "Give one of QUERY, `--all` and `--descriptors FILE`."),
        ([], "Give either QUERY, `--all`, or `--descriptors FILE`."),
        (["--all", "--model", "embedded"], "With `--all`, no photos are encoded."),
    ):
        status, _, error = run("pairs", town / "index", "--out", tmp_path / "new.txt", *wrong)
        assert status == 1 and message in error


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_descriptors_in_hdf5_come_back(tmp_path, dtype, caplog):
    h5py = pytest.importorskip("h5py")
    names = ["a.jpg", "b c/d.jpg", "/maps/other/e.jpg"]
    index = make_index(tmp_path / "index", unit_rows(3), names)
    if dtype == "float16":
        settings = IndexSettings(None, "x", 16, photo_folder=Path("/maps/photos"), descriptor_name="own")
        with PlaceIndex.create(tmp_path / "half", settings) as half:
            half.add(unit_rows(3), list(index.places))
        index = half
    assert export_descriptors(index, tmp_path / "d.h5") == 3
    stored = ["photos/a.jpg", "photos/b c/d.jpg", "other/e.jpg"]
    with h5py.File(tmp_path / "d.h5") as file:  # as hloc reads them
        for row, name in enumerate(stored):
            descriptor = file[name]["global_descriptor"].__array__()
            assert descriptor.shape == (16,) and descriptor.dtype == dtype
            np.testing.assert_array_equal(descriptor, index.descriptors[row])
    file = read_descriptors(tmp_path / "d.h5")
    assert sorted(file.names) == sorted(stored)
    table = tmp_path / "places.csv"
    table.write_text("path,latitude,longitude\n" + "".join(f"{name},45,{row}\n" for row, name in enumerate(stored)))
    again, report = index_descriptors(tmp_path / "d.h5", table, tmp_path / "again", dtype=dtype)
    assert report.added == 3
    np.testing.assert_array_equal(again.descriptors[:], index.descriptors[:])
    assert "unit length" not in caplog.text


def test_the_command_writes_hdf5(town, tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    arguments = ["export-descriptors", town / "index", "--out", tmp_path / "d.h5", "--format", "h5"]
    status, out, _ = run(*arguments, "--image-root", town)
    assert status == 0 and "Wrote 5 descriptors of" in out
    assert sorted(read_descriptors(tmp_path / "d.h5").names) == sorted(f"db/{p.name}" for p in (town / "db").iterdir())
    assert run(*arguments)[0] == 1
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    status, _, error = run(*arguments, "--overwrite")
    assert status == 1 and "d2vpr-hf[hdf5]" in error


def test_projected_descriptors_are_exported_with_a_warning(tmp_path, caplog):
    pytest.importorskip("h5py")
    settings = IndexSettings(None, "x", 16, dtype="float32", projection_dim=16)
    with PlaceIndex.create(tmp_path / "index", settings) as index:
        index.add(0.5 * unit_rows(2), [Place("a.jpg"), Place("b.jpg")])
    export_descriptors(index, tmp_path / "d.h5")
    assert "2 of 2 descriptors are not of unit length. hloc compares descriptors by their products" in caplog.text
