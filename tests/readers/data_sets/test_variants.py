"""Variants have names with their counts, and folders are recognised as data sets."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.io import savemat

from d2vpr_hf.readers.data_sets import LAYOUTS, read_data_set
from d2vpr_hf.readers.data_sets.crop_headings import compass_headings
from d2vpr_hf.readers.data_sets.variants import find_family, variant_name
from tests.readers.data_sets.trees import at_name, object_array, touch


@pytest.mark.parametrize(
    ("folder", "database", "queries", "rule", "name"),
    [
        ("pitts30k/images/test", 10_000, 6_816, "", "Pitts30k test, 6,816 queries; 10,000 database photos"),
        ("pitts30k/images/val", 10_000, 7_608, "", "Pitts30k val, 7,608 queries; 10,000 database photos"),
        ("unnamed", 10_000, 6_816, "", "Pitts30k test, 6,816 queries; 10,000 database photos"),
        (
            *("nordland", 27_592, 27_592, "±10 frames"),
            "Nordland, every frame, 27,592 queries; 27,592 database photos, ±10 frames",
        ),
        (
            *("nordland", 27_592, 2_760, "±1 frame"),
            "Nordland, every tenth query, 2,760 queries; 27,592 database photos, ±1 frame",
        ),
        (
            *("nordland", 27_592, 2_760, "±10 frames"),
            "nordland: 2,760 queries; 27,592 database photos, ±10 frames (no published variant)",
        ),
        ("sped", 6, 6, "", "sped: 6 queries; 6 database photos (no published variant)"),
    ],
)
def test_counts_name_the_variant(tmp_path, folder, database, queries, rule, name):
    """Two variants of a set, points of recall apart, must never have one name."""
    assert variant_name(tmp_path / folder, database, {"queries": queries}, rule) == name


def test_query_sets_are_named_one_by_one(tmp_path):
    name = variant_name(tmp_path / "svox" / "images" / "test", 17_166, {"queries": 14_278, "queries_night": 823, "mine": 3})
    assert name == ("SVOX, 14,278 queries; SVOX night, 823 queries_night; 3 mine; 17,166 database photos")


def test_a_data_set_is_recognised_by_its_nearest_folder(tmp_path):
    assert find_family(tmp_path / "pitts30k" / "Tokyo24-7" / "images") == "tokyo247"
    assert find_family(tmp_path / "sf_xl" / "processed" / "test") == "sf-xl"
    assert find_family(tmp_path / "photos") is None


def test_headings_of_crops_are_those_of_an_independent_statement():
    """Walk along the pixels of the panorama, from the left edge to the middle, each a little further clockwise."""
    per_pixel = 360 / 3328
    for heading in (0.0, 90.0, 210.0, 359.5):
        left_edge = 360 - heading  # 90, west, is the compass angle 270
        middle = left_edge
        for _ in range(512 // 2):
            middle += per_pixel
        assert compass_headings(np.array([heading]))[0] == pytest.approx(middle % 360, abs=1e-6)
    assert compass_headings(np.array([0.0, 90.0])) == pytest.approx([27.6923, 297.6923], abs=1e-4)


def test_sf_xl_has_compass_headings(tmp_path):
    test = tmp_path / "sf_xl" / "processed" / "test"
    touch(test / "database" / at_name(37.75, -122.42, "a", heading=210))
    for name in ("queries_v1", "queries_night"):
        touch(test / name / at_name(37.75, -122.42, "b", heading=90 if name == "queries_v1" else ""))
    for root in (tmp_path / "sf_xl", test):
        data_set = read_data_set(root)
        assert data_set.layout == "sf-xl"
        part = data_set.parts[0]
        assert part.database.places[0].heading == pytest.approx(177.6923, abs=1e-4)
        headings = {queries.name: queries.table.places[0].heading for queries in part.query_sets}
        assert headings == {"queries_v1": pytest.approx(297.6923, abs=1e-4), "queries_night": None}
        assert [remark.count for remark in data_set.remarks if "left edges" in remark.text] == [2]
    assert read_data_set(test, "folders").parts[0].database.places[0].heading == 210.0


def test_notes_of_pittsburgh_are_no_conditions(tmp_path):
    touch(tmp_path / "database" / at_name(40.44, -80.0, note="pitch1_yaw4"))
    touch(tmp_path / "queries" / at_name(40.44, -80.0, note="day_forward_cph"))
    part = read_data_set(tmp_path).parts[0]
    assert (part.database.places[0].condition, part.query_sets[0].table.places[0].condition) == (None, "day_forward_cph")


@pytest.mark.parametrize(
    ("name", "step", "rule"),
    [("nordland", 2.5, "±10 frames"), ("nordland", 2.4, "±10 frames"), ("nordland", 16.67, "±1 frame")],
)
def test_mock_metres_of_nordland_are_frames(tmp_path, name, step, rule):
    for side in ("database", "queries"):
        for row in range(5):
            touch(tmp_path / name / "images" / "test" / side / f"@0@{row * step:.1f}@@@@@{row}@@@@@@@@.jpg")
    assert rule in read_data_set(tmp_path / name).variant


def test_baidu_has_a_threshold_of_its_own(tmp_path):
    for side in ("database", "queries"):
        touch(tmp_path / "baidu" / side / "@-12.5@3.25@@@@@0@@90@@@@@@.jpg")
    data_set = read_data_set(tmp_path / "baidu")
    assert data_set.positive_dist_threshold == 10.0
    assert "within 10 m" in data_set.variant


@pytest.mark.parametrize("root", ["", "pitts30k", "pitts30k/images", "pitts30k/images/test", "pitts30k/images/test/database"])
def test_roots_one_level_too_high_or_low_work(tmp_path, root):
    for part in ("train", "val", "test"):
        for side in ("database", "queries"):
            touch(tmp_path / "pitts30k" / "images" / part / side / at_name(40.44, -80.0, pano=part))
    data_set = read_data_set(tmp_path / root)
    assert "@test@" in data_set.parts[0].database.paths[0]
    is_above = root in ("", "pitts30k", "pitts30k/images")
    assert [remark.count for remark in data_set.remarks] == ([2] if is_above else [])


def test_one_folder_of_queries_is_a_root_too(tmp_path):
    for side in ("gallery", "queries", "queries_night"):
        touch(tmp_path / "svox" / side / at_name(51.75, -1.25))
    assert read_data_set(tmp_path / "svox" / "queries_night").query_set_names == ("queries_night",)


def test_a_structure_of_netvlad_is_read(tmp_path):
    """Photos of database and queries are in different folders; metres have no zone."""
    names = {"database": ["000/a.jpg", "001/b.jpg"], "queries": ["000/q.jpg"]}
    for path in names["database"]:
        touch(tmp_path / "pitts" / path)
    touch(tmp_path / "pitts" / "queries_real" / "000" / "q.jpg")
    struct = {
        "whichSet": "test",
        "dbImageFns": object_array([[name] for name in names["database"]]).reshape(-1, 1),
        "utmDb": np.array([[500.0, 600.0], [10.0, 20.0]]),
        "qImageFns": object_array([names["queries"]]).reshape(-1, 1),
        "utmQ": np.array([[510.0], [11.0]]),
        "numImages": 2.0,
        "numQueries": 1.0,
        "posDistThr": 25.0,
    }
    (tmp_path / "pitts" / "datasets").mkdir()
    savemat(tmp_path / "pitts" / "datasets" / "pitts30k_test.mat", {"dbStruct": struct})
    savemat(tmp_path / "pitts" / "datasets" / "pitts30k_val.mat", {"dbStruct": struct | {"whichSet": "val"}})
    for root in (tmp_path / "pitts", tmp_path / "pitts" / "datasets" / "pitts30k_val.mat"):
        data_set = read_data_set(root)
        part = data_set.parts[0]
        assert (data_set.layout, data_set.positive_dist_threshold) == ("netvlad-mat", 25.0)
        assert [(place.path, place.utm_east, place.utm_north) for place in part.database.places] == [
            ("000/a.jpg", 500.0, 10.0),
            ("001/b.jpg", 600.0, 20.0),
        ]
        query = part.query_sets[0].table.places[0]
        assert (query.utm_east, query.utm_north) == (510.0, 11.0)
        assert part.query_sets[0].table.photo(query).is_file()
    (tmp_path / "bad.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    with pytest.raises(ValueError, match=r"bad\.mat"):
        read_data_set(tmp_path / "bad.mat")


def test_pairs_of_amstertime_have_equal_names(tmp_path):
    for row in range(3):
        touch(tmp_path / "AmsterTime" / "new" / f"{row}.png")
        touch(tmp_path / "AmsterTime" / "old" / f"{row + 1}.jpg")
    for root in (tmp_path, tmp_path / "AmsterTime"):
        query_set = read_data_set(root).parts[0].query_sets[0]
        assert [rows.tolist() for rows in query_set.positives] == [[1], [2], []]


def test_pairs_of_sped_need_no_ground_truth(tmp_path):
    for side in ("ref", "query"):
        for row in range(3):
            touch(tmp_path / "SPEDTEST" / side / f"{row:03d}.jpg")
    data_set = read_data_set(tmp_path / "SPEDTEST")
    assert data_set.layout == "pairs"
    assert [rows.tolist() for rows in data_set.parts[0].query_sets[0].positives] == [[0], [1], [2]]


def test_a_folder_of_data_sets_names_them(tmp_path):
    """The error says which folder to give: one further down or up."""
    for name in ("st_lucia", "eynsham"):
        for side in ("database", "queries"):
            touch(tmp_path / name / "images" / "test" / side / at_name(51.75, -1.25))
    with pytest.raises(ValueError, match=r"Give one of these folders: .*eynsham \(folders\), .*st_lucia \(folders\)"):
        read_data_set(tmp_path)
    (tmp_path / "eynsham" / "images" / "test" / "maps" / "old").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Give one of these folders: .*test \(folders\)"):
        read_data_set(tmp_path / "eynsham" / "images" / "test" / "maps" / "old")


def test_another_mat_file_is_no_data_set(tmp_path):
    savemat(tmp_path / "camera.mat", {"K": np.eye(3)})
    for side in ("database", "queries"):
        touch(tmp_path / side / at_name(51.75, -1.25))
    assert read_data_set(tmp_path).layout == "folders"


def test_several_layouts_are_an_error_that_names_them(tmp_path):
    for folder in ("new", "old"):
        touch(tmp_path / folder / "1.jpg")
    for side in ("database", "queries_v1"):
        touch(tmp_path / side / at_name(37.75, -122.42))
    with pytest.raises(ValueError, match=r"has several layouts: amstertime, sf-xl\. Choose one with `layout`"):
        read_data_set(tmp_path)
    assert read_data_set(tmp_path, "amstertime").layout == "amstertime"


def test_layouts_have_names_of_their_own():
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)


def test_data_sets_are_read_without_torch():
    """The command line recognises a data set before a model is loaded."""
    code = "import json, sys; import d2vpr_hf.readers.data_sets; print(json.dumps('torch' in sys.modules))"
    assert json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) is False
