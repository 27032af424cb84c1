"""Folders of database and queries, as VPR-datasets-downloader writes them."""

import pytest
from PIL import Image

from d2vpr_hf.readers.data_sets import read_data_set


def write_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def at_name(row, note=""):
    return f"@{550000 + 100 * row}.00@{4180000.0}@10@S@@@p{row}@@@@@@@{note}@.jpg"


@pytest.mark.parametrize("inner", ["", "images/test", "processed/test"])
@pytest.mark.parametrize("database", ["database", "gallery", "ref", "Database"])
def test_a_tree_is_read_from_every_usual_folder(tmp_path, inner, database):
    for row in range(3):
        write_photo(tmp_path / inner / database / at_name(row))
        write_photo(tmp_path / inner / "queries" / at_name(row))
        write_photo(tmp_path / inner / "queries_night" / at_name(row))
    data_set = read_data_set(tmp_path)
    assert data_set.query_set_names == ("queries", "queries_night")
    assert data_set.num_database == data_set.num_queries("queries_night") == 3
    assert data_set.parts[0].database.places[1].utm_east == 550100.0


def test_query_sets_are_chosen_by_name(tmp_path):
    write_photo(tmp_path / "database" / at_name(0))
    for name in ("queries_a", "queries_b"):
        write_photo(tmp_path / name / at_name(0))
    data_set = read_data_set(tmp_path)
    assert data_set.choose_queries(["queries_b"]).query_set_names == ("queries_b",)
    with pytest.raises(ValueError, match=r"no query set night\. There are queries_a, queries_b"):
        data_set.choose_queries(["night"])


def test_a_folder_without_a_layout_is_an_error_that_names_all_layouts(tmp_path):
    write_photo(tmp_path / "photos" / "a.jpg")
    with pytest.raises(ValueError, match="none of the known layouts"):
        read_data_set(tmp_path)
    with pytest.raises(ValueError, match=r"There is no layout unknown\. Expected one of msls, .*, folders"):
        read_data_set(tmp_path, "unknown")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        read_data_set(tmp_path / "missing")
