"""Every layout gives its known recall: in each tree the last query looks like the first place, so 100 % is wrong too."""

import numpy as np
import pytest
from scipy.io import savemat

from d2vpr_hf import evaluate_data_set
from d2vpr_hf.readers.data_sets import read_data_set
from tests.index.workers import BytesEncoder
from tests.readers.data_sets.trees import at_name, object_array, save_objects, write_csv

CITIES = {"cph": (55.67, 12.56), "sf": (37.77, -122.42)}


def photo(path, place):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"photo of place {place}".encode())


def looks(row, count):
    return 0 if row == count - 1 else row


def write_sides(database, queries, name, count=5, first=0):
    """Write photos of `count` places, 111 m apart, and a query of each."""
    for row in range(count):
        photo(database / name(row, "d"), first + row)
        photo(queries / name(row, "q"), first + looks(row, count))


def write_at_names(root, position, sides=("database", "queries"), **values):
    write_sides(root / sides[0], root / sides[1], lambda row, side: at_name(*position(row), f"{side}{row}", **values))
    return root


def pitts(root):
    return write_at_names(root / "pitts30k" / "images" / "test", lambda row: (40.44 + row / 1000, -80.0), note="pitch1_yaw4")


def two_cities(root):
    return write_at_names(
        root / "msls" / "val", lambda row: (CITIES["cph"][0] + row / 1000, 12.56) if row < 3 else (37.77 + row / 1000, -122.42)
    )


def zone_border(root):
    return write_at_names(root / "border", lambda row: (52.0, 11.9979 + row * 0.0007))


def sf_xl(root):
    return write_at_names(
        root / "sf_xl" / "processed" / "test",
        lambda row: (37.75 + row / 1000, -122.42),
        ("database", "queries_v1"),
        heading=210,
    )


def svox(root):
    return write_at_names(
        root / "svox" / "images" / "test", lambda row: (51.75 + row / 1000, -1.25), ("gallery", "queries_rain")
    )


def short_names(root):
    write_sides(root / "database", root / "queries", lambda row, side: f"@{500000 + 100 * row}.5@{4_000_000}@{side}@.jpg")
    return root


def baidu(root):
    name = "@{}@3.250@@@@@{}@@{}@@@@@@.jpg"
    write_sides(root / "baidu/database", root / "baidu/queries", lambda row, side: name.format(row * 12 - 12.5, row, row * 90))
    return root / "baidu"


def nordland(root):
    """Photos of ten frames before and after are correct, so the planted one must be further away."""
    folder = root / "nordland" / "images" / "test"
    write_sides(
        folder / "database", folder / "queries", lambda row, side: f"@0@{row * 2.5:.1f}@@@@@{row}@@@@@@@@.jpg", count=20
    )
    return folder


def msls(root):
    for number, (city, (latitude, longitude)) in enumerate(CITIES.items()):
        folder = root / "train_val" / city
        write_sides(
            folder / "database/images",
            folder / "query/images",
            lambda row, side, city=city: f"{city}{side}{row}.jpg",
            5,
            10 * number,
        )
        for side in ("database", "query"):
            keys = [f"{city}{side[0]}{row}" for row in range(5)]
            raw = [[row, key, longitude, latitude + row / 1000, 90.0, "2018-04-01", "False"] for row, key in enumerate(keys)]
            write_csv(folder / side / "raw.csv", ["", "key", "lon", "lat", "ca", "captured_at", "pano"], raw)
            post = [[row, key, 500_000.0, 111 * row, "False", "Forward"] for row, key in enumerate(keys)]
            write_csv(folder / side / "postprocessed.csv", ["", "key", "easting", "northing", "night", "view_direction"], post)
            write_csv(folder / side / "subtask_index.csv", ["", "all"], [[row, True] for row in range(5)])
    return root


def array_lists(root):
    write_sides(root / "ref", root / "queries_real", lambda row, side: f"00{row}/{side}.jpg")
    np.save(root / "pitts30k_val_dbImages.npy", [f"ref/00{row}/d.jpg" for row in range(5)])
    np.save(root / "pitts30k_val_qImages.npy", [f"queries_real/00{row}/q.jpg" for row in range(5)])
    save_objects(root / "pitts30k_val_gt_25m.npy", [[row] for row in range(5)])
    return root


def vpr_bench(root):
    write_sides(root / "ref", root / "query", lambda row, side: f"{row:03d}.jpg")
    save_objects(root / "ground_truth_new.npy", [[row, [row]] for row in range(5)], columns=2)
    return root


def amstertime(root):
    write_sides(root / "new", root / "old", lambda row, side: f"{row}.{'png' if side == 'd' else 'jpg'}")
    return root


def sped(root):
    write_sides(root / "SPEDTEST/ref", root / "SPEDTEST/query", lambda row, side: f"{row:03d}.jpg")
    return root / "SPEDTEST"


def netvlad(root):
    write_sides(root / "000", root / "queries_real" / "000", lambda row, side: f"{side}{row}.jpg")
    metres = np.array([[100.0 * row for row in range(5)], [0.0] * 5])
    names = {side: object_array([[f"000/{side}{row}.jpg"] for row in range(5)]) for side in "dq"}
    struct = {
        "whichSet": "test",
        "dbImage": names["d"],
        "utmDb": metres,
        "qImage": names["q"],
        "utmQ": metres,
        "posDistThr": 25.0,
    }
    savemat(root / "pitts30k_test.mat", {"dbStruct": struct})
    return root


@pytest.mark.parametrize(
    ("write", "layout", "recall", "count"),
    [
        *((write, "folders", 0.8, 5) for write in (pitts, two_cities, zone_border, svox, short_names, baidu)),
        (nordland, "folders", 0.95, 20),
        (sf_xl, "sf-xl", 0.8, 5),
        (msls, "msls", 0.8, 10),
        (array_lists, "npy", 0.8, 5),
        (vpr_bench, "vpr-bench", 0.8, 5),
        (amstertime, "amstertime", 0.8, 5),
        (sped, "pairs", 0.8, 5),
        (netvlad, "netvlad-mat", 0.8, 5),
    ],
)
def test_a_layout_gives_its_known_recall(tmp_path, write, layout, recall, count):
    data_set = read_data_set(write(tmp_path))
    assert data_set.layout == layout
    evaluations = evaluate_data_set(data_set, BytesEncoder(1), recall_values=[1])
    assert [evaluation.recall()["recall@1"]["recall"] for evaluation in evaluations] == [pytest.approx(recall)]
    assert evaluations[0].query_set["count"] == count
    assert evaluations[0].data_set["variant"] == data_set.variant
