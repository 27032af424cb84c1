"""Tables and lists of photos, names, positives, and the files of data sets."""

from pathlib import Path

from tests.fuzz.mutations import Mutation, mutate_json, mutate_text
from tests.fuzz.targets.registry import Prepared, check, check_places, file_target, target

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
