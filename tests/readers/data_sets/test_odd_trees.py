"""Trees as people have them: empty folders, other spellings, links, two photos of one name, walks without ground truth."""

import shutil
import unicodedata

import numpy as np
import pytest

from d2vpr_hf import PositiveRule, evaluate_data_set
from d2vpr_hf.readers.data_sets import read_data_set
from tests.index.workers import BytesEncoder
from tests.readers.data_sets.test_recalls import array_lists, looks, photo, pitts, write_sides
from tests.readers.data_sets.trees import save_objects, touch


def recalls(data_set, rule=None):
    evaluations = evaluate_data_set(data_set, BytesEncoder(1), rule, recall_values=[1])
    return [round(evaluation.recall()["recall@1"]["recall"], 3) for evaluation in evaluations]


def remarks(data_set):
    return [(remark.kind, remark.count) for remark in data_set.remarks]


def test_an_empty_folder_of_queries_is_counted(tmp_path):
    """A download that is not complete must not stop the evaluation of the other sets; all folders empty is an error."""
    folder = pitts(tmp_path)
    (folder / "queries_night").mkdir()
    data_set = read_data_set(tmp_path)
    assert data_set.query_set_names == ("queries",) and remarks(data_set) == [("skipped", 1)] and recalls(data_set) == [0.8]
    shutil.rmtree(folder / "queries")
    with pytest.raises(FileNotFoundError, match=r"No photo in .*queries_night"):
        read_data_set(folder)


def test_folders_of_macos_are_not_data_sets(tmp_path):
    pitts(tmp_path)
    (tmp_path / "__MACOSX" / "pitts30k").mkdir(parents=True)
    assert read_data_set(tmp_path / "pitts30k").layout == read_data_set(tmp_path).layout == "folders"


def test_links_and_names_that_are_not_ascii(tmp_path):
    """Folders and photos may be links; folders have spaces and umlauts."""
    folder = pitts(tmp_path / "real")
    linked = tmp_path / "Größe 東京" / "val"
    linked.mkdir(parents=True)
    (linked / "database").symlink_to(folder / "database", target_is_directory=True)
    for path in (folder / "queries").iterdir():
        (linked / "queries").mkdir(exist_ok=True)
        (linked / "queries" / path.name).symlink_to(path)
    assert recalls(read_data_set(tmp_path / "Größe 東京")) == [0.8]


def test_listed_photos_in_another_unicode_form_are_found(tmp_path):
    """Archives of macOS have decomposed letters, in folders too; lists do not."""
    write_sides(tmp_path / "ref", tmp_path / "real", lambda row, side: unicodedata.normalize("NFD", f"é{row}/{side}ü.jpg"))
    for name, side in (("dbImages", "ref/é{}/dü.jpg"), ("qImages", "real/é{}/qü.jpg")):
        np.save(tmp_path / f"x_{name}.npy", [side.format(row) for row in range(5)])
    save_objects(tmp_path / "x_gt.npy", [[row] for row in range(5)])
    data_set = read_data_set(tmp_path)
    assert recalls(data_set) == [0.8] and not data_set.parts[0].database.skipped


def test_pairs_are_found_by_path_and_in_any_case(tmp_path):
    """Equal names in several folders were all taken for one photo, the last."""
    write_sides(
        tmp_path / "new", tmp_path / "old", lambda row, side: f"{'XY'[row // 3]}/{row % 3}.{'JPG' if side == 'd' else 'jpg'}"
    )
    (tmp_path / "old" / "X").rename(tmp_path / "old" / "x")
    photo(tmp_path / "old" / "x" / "9.jpg", 9)
    data_set = read_data_set(tmp_path)
    query_set = data_set.parts[0].query_sets[0]
    positives = dict(zip(query_set.table.paths, [rows.tolist() for rows in query_set.positives], strict=True))
    assert positives == {"Y/0.jpg": [3], "Y/1.jpg": [4], "x/0.jpg": [0], "x/1.jpg": [1], "x/2.jpg": [2], "x/9.jpg": []}
    assert [(remark.kind, remark.count, remark.example) for remark in query_set.table.remarks] == [("assumed", 1, "x/9.jpg")]
    assert recalls(data_set) == [round(4 / 6, 3)]
    photo(tmp_path / "new" / "X" / "0.png", 0)
    with pytest.raises(ValueError, match=r"two photos of one name, X/0\.JPG and X/0\.png"):
        read_data_set(tmp_path)


def test_a_data_set_next_to_others_is_not_suggested_for_an_incomplete_one(tmp_path):
    """Lists of a sibling made the folder of both look like the data set."""
    array_lists(tmp_path / "complete")
    touch(tmp_path / "broken" / "database" / "a.jpg")
    with pytest.raises(ValueError, match="has none of the known layouts"):
        read_data_set(tmp_path / "broken")


def walks(root, names):
    for row in range(5):
        photo(root / "day_right" / f"Image{row:03d}.jpg", row)
        for name in names:
            photo(root / name / f"Image{row:03d}.jpg", looks(row, 5))


def test_walks_of_gardens_point_have_positives_of_equal_numbers(tmp_path):
    walks(tmp_path / "GardensPoint", ("night_right", "day_left"))
    data_set = read_data_set(tmp_path)
    assert data_set.layout == "gardens-point" and data_set.query_set_names == ("night_right", "day_left")
    assert data_set.variant.startswith("GardensPoint: 5 night_right; 5 day_left; 5 database photos, photos of equal numbers")
    assert recalls(data_set) == [0.8, 0.8]
    assert recalls(data_set, PositiveRule(frame_tolerance=4)) == [1.0, 1.0]


def test_a_file_of_positives_belongs_to_the_right_walks(tmp_path):
    """AnyLoc writes it for `night_right` in `day_right`; another walk would be compared with the wrong photos."""
    walks(tmp_path, ("night_right", "day_left"))
    save_objects(tmp_path / "gardens_gt.npy", [[row, [max(0, row - 1), row]] for row in range(5)], columns=2)
    data_set = read_data_set(tmp_path)
    assert data_set.query_set_names == ("night_right",) and remarks(data_set) == [("skipped", 1)]
    assert [rows.tolist() for rows in data_set.parts[0].query_sets[0].positives] == [[0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert recalls(data_set) == [0.8]
