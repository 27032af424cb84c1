"""Data sets whose photos and positives are listed in .npy files."""

import numpy as np
import pytest

from d2vpr_hf.readers.data_sets import read_data_set
from tests.readers.data_sets.trees import save_objects, touch


def write_lists(folder, photos, name="msls_val", *, places=4, ending="gt_25m"):
    """Query i shows database photo i."""
    database = [f"cph/database/images/d{row}.jpg" for row in range(places)]
    queries = [f"cph/query/images/q{row}.jpg" for row in range(places)]
    for path in (*database, *queries):
        touch(photos / path)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}_dbImages.npy", np.array(database))
    np.save(folder / f"{name}_qImages.npy", np.array(queries))
    save_objects(folder / f"{name}_{ending}.npy", [[row] for row in range(places)])
    return database, queries


def rows(data_set):
    query_set = data_set.parts[0].query_sets[0]
    return [(place.path, each.tolist()) for place, each in zip(query_set.table.places, query_set.positives, strict=True)]


@pytest.mark.parametrize(
    ("lists", "photos", "root"),
    [
        ("set", "set", "set"),
        ("set/datasets", "set", "set"),
        ("set", "set/images", "set"),
        ("set", "set", "set/msls_val_dbImages.npy"),
        ("data/lists", "data/photos", "data"),
        ("data/photos/lists", "data", "data/photos"),
    ],
)
def test_photos_are_found_beside_the_lists_or_in_another_folder(tmp_path, lists, photos, root):
    database, queries = write_lists(tmp_path / lists, tmp_path / photos)
    data_set = read_data_set(tmp_path / root)
    assert data_set.parts[0].database.paths == database
    assert rows(data_set) == [(path, [row]) for row, path in enumerate(queries)]
    assert all(data_set.parts[0].database.photo(place).is_file() for place in data_set.parts[0].database.places)
    assert data_set.variant == "msls_val: 4 queries; 4 database photos (no published variant)"


def test_rows_of_positives_follow_missing_and_doubled_photos(tmp_path):
    """A row that is off by one would compare with the photo of another place."""
    database, _ = write_lists(tmp_path, tmp_path)
    np.save(tmp_path / "msls_val_dbImages.npy", np.array([database[0], "gone.jpg", database[0], *database[1:]]))
    save_objects(tmp_path / "msls_val_gt_25m.npy", [[0, 2], [3], [1, 4], [1]])
    data_set = read_data_set(tmp_path)
    assert data_set.parts[0].database.paths == database
    assert data_set.parts[0].database.skipped == {
        "gone.jpg": "no such file",
        f"{database[0]} (2)": "listed twice; the first is used",
    }
    assert [each for _, each in rows(data_set)] == [[0], [1], [2], []]
    (tmp_path / "cph/query/images/q0.jpg").unlink()
    assert [each for _, each in rows(read_data_set(tmp_path))] == [[1], [2], []]


def test_names_in_another_case_are_found(tmp_path):
    write_lists(tmp_path, tmp_path)
    photo = tmp_path / "cph/database/images/d1.jpg"
    photo.rename(photo.with_suffix(".JPG"))
    table = read_data_set(tmp_path).parts[0].database
    assert table.paths[1] == "cph/database/images/d1.JPG"
    assert [(remark.kind, remark.count) for remark in table.remarks] == [("corrected", 1)]


@pytest.mark.parametrize("length", ["used", "all"])
def test_queries_in_use_are_chosen_by_their_numbers(tmp_path, length):
    """gsv-cities lists all queries, the numbers of those in use, and the positives of these."""
    _, queries = write_lists(tmp_path, tmp_path, ending="pIdx")
    np.save(tmp_path / "msls_val_qIdx.npy", np.array([3, 1]))
    if length == "used":
        save_objects(tmp_path / "msls_val_pIdx.npy", [[3], [1]])
    assert rows(read_data_set(tmp_path)) == [(queries[3], [3]), (queries[1], [1])]


def test_the_names_of_openvprlab_are_known(tmp_path):
    write_lists(tmp_path, tmp_path, ending="ground_truth_25m")
    for old, new in (("dbImages", "ref_image_names"), ("qImages", "query_image_names")):
        (tmp_path / f"msls_val_{old}.npy").rename(tmp_path / f"msls_val_{new}.npy")
    assert read_data_set(tmp_path).num_queries("queries") == 4


def test_several_lists_are_an_error_that_names_the_files(tmp_path):
    for name in ("pitts30k_val", "pitts30k_test"):
        write_lists(tmp_path, tmp_path, name)
    with pytest.raises(ValueError, match="Give one of their files"):
        read_data_set(tmp_path)
    data_set = read_data_set(tmp_path / "pitts30k_test_dbImages.npy")
    assert data_set.variant.startswith("pitts30k_test: 4 queries")


def test_a_data_set_among_others_is_not_taken_for_all(tmp_path):
    write_lists(tmp_path / "msls-val", tmp_path / "msls-val")
    for side in ("ref", "query"):
        touch(tmp_path / "SPEDTEST" / side / "000.jpg")
    with pytest.raises(ValueError, match=r"Give one of these folders: .*SPEDTEST \(pairs\), .*msls-val \(npy\)"):
        read_data_set(tmp_path)


def test_lists_that_do_not_fit_are_an_error(tmp_path):
    write_lists(tmp_path, tmp_path)
    save_objects(tmp_path / "msls_val_gt_25m.npy", [[0], [1], [2], [4]])
    with pytest.raises(ValueError, match=r"refers to row 4 \(from 0\) of 4 database photos"):
        read_data_set(tmp_path)
    save_objects(tmp_path / "msls_val_gt_25m.npy", [[0]])
    with pytest.raises(ValueError, match=r"positives of 1 queries, and .* lists 4"):
        read_data_set(tmp_path)
    np.save(tmp_path / "msls_val_dbImages.npy", np.array(["../outside.jpg"] * 5))
    save_objects(tmp_path / "msls_val_gt_25m.npy", [[0]] * 4)
    with pytest.raises(ValueError, match="expected a path inside"):
        read_data_set(tmp_path)


def test_lists_without_their_photos_name_the_folder(tmp_path):
    write_lists(tmp_path / "lists", tmp_path / "photos" / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"None of the 4 photos that .*msls_val_dbImages\.npy lists exists, such as"):
        read_data_set(tmp_path / "lists")


@pytest.mark.parametrize("name", ["ground_truth_new.npy", "nordland_gt.npy"])
def test_vpr_bench_numbers_photos_in_the_order_of_their_numbers(tmp_path, name):
    """9.jpg is before 10.jpg; lines of the ground truth may be in any order."""
    for row in range(12):
        touch(tmp_path / "ref" / f"{row}.jpg")
    for row in range(2):
        touch(tmp_path / "query" / f"{row}.jpg")
    if name == "ground_truth_new.npy":
        save_objects(tmp_path / name, [[1, [10, 9]], [0, [2]]], columns=2)
    else:
        save_objects(tmp_path / name, [[2], [9, 10]])
    for root in (tmp_path / "ref", tmp_path / "query"):
        assert read_data_set(root).layout == "vpr-bench"
    data_set = read_data_set(tmp_path)
    assert data_set.layout == "vpr-bench"
    photos = data_set.parts[0].database.paths
    assert [[photos[row] for row in each] for _, each in rows(data_set)] == [["2.jpg"], ["9.jpg", "10.jpg"]]


def test_variants_of_nordland_differ_in_their_frames(tmp_path):
    folder = tmp_path / "Nordland"
    for row in range(40):
        touch(folder / "ref" / f"{row:07d}.jpg")
    for row in range(4):
        touch(folder / "query" / f"{row:07d}.jpg")
    save_objects(folder / "nordland_gt.npy", [[max(0, row * 10 - 1), row * 10, row * 10 + 1] for row in range(4)])
    assert read_data_set(folder).variant == "Nordland: 4 queries; 40 database photos, ±1 frame (no published variant)"
