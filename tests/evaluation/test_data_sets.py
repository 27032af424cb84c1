"""Evaluation of data sets: several query sets and parts, an index as the database, and positives by hand."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from d2vpr_hf.cli.options import EncoderOptions
from d2vpr_hf.evaluation import (
    Evaluation,
    PositiveRule,
    compare_evaluations,
    descriptor_evaluation,
    evaluate,
    evaluate_data_set,
    evaluate_query_sets,
    part_evaluation,
)
from d2vpr_hf.evaluation.plots import save_plots
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.readers import read_places
from d2vpr_hf.readers.data_sets import DataSet, DataSetPart, QuerySet
from d2vpr_hf.retrieval.index_photos import index_photos
from tests.command_line import run
from tests.evaluation.colours import ColourEncoder, describe
from tests.photos import at_name, save

SETS = ("queries", "queries_night", "queries_rain", "queries_snow")
CITIES = {"north": (544000.0, "33@U"), "south": (550000.0, "10@S")}


@pytest.fixture
def streets(tmp_path):
    """Five places 100 m apart, and four query sets; the last query of each looks like the first place."""
    root = tmp_path / "streets"
    for i in range(5):
        save(root / "database" / at_name(544000 + 100 * i, 4172000), i)
        for number, name in enumerate(SETS):
            save(root / name / at_name(544003 + 100 * i + number, 4172000), i if i < 4 else 0, quality=90 - number)
    return root


@pytest.fixture
def cities(tmp_path):
    """Two cities of six places; three queries of the second one look like other places, and one of them like the first city."""
    looks = {"north": [0, 1, 2, 3, 4, 5], "south": [10, 11, 12, 10, 11, 1]}
    for number, (name, (east, zone)) in enumerate(CITIES.items()):
        for i in range(6):
            save(tmp_path / name / "database" / at_name(east + 100 * i, 4172000, zone=zone), 10 * number + i)
            save(tmp_path / name / "queries" / at_name(east + 100 * i + 5, 4172000, zone=zone), looks[name][i], quality=80)
    return tmp_path


def read_cities(root, **values):
    parts = [
        DataSetPart(name, read_places(root / name / "database"), (QuerySet("queries", read_places(root / name / "queries")),))
        for name in CITIES
    ]
    return DataSet("cities", "two cities, 12 queries", tuple(parts), **values)


def use_colours(monkeypatch):
    """Let the command line encode colours, and return the encoder."""
    encoder = ColourEncoder()
    monkeypatch.setattr(EncoderOptions, "load", lambda *arguments, **options: encoder)
    return encoder


def recalls(evaluation):
    return [entry["recall"] for entry in evaluation.recall().values()]


def test_query_sets_share_a_pass_over_the_database(streets, monkeypatch):
    """Four sets read a database of 2.8 M rows four times. Mixed up, their matches would be those of other queries."""
    (streets / SETS[1] / at_name(544001, 4172000)).write_bytes(b"not an image")
    sets = [QuerySet(name, read_places(streets / name)) for name in SETS]
    alone = [evaluate_query_sets(streets / "database", [each], ColourEncoder())[0] for each in sets]
    searched, search = [], descriptor_evaluation.exact_search
    monkeypatch.setattr(
        descriptor_evaluation, "exact_search", lambda *arguments: (searched.append(len(arguments[0])), search(*arguments))[1]
    )
    together = evaluate_query_sets(streets / "database", sets, ColourEncoder())
    assert searched == [20]
    assert [evaluation.queries for evaluation in together] == [evaluation.queries for evaluation in alone]
    monkeypatch.setattr(part_evaluation, "_JOINED_QUERIES", 9)
    evaluate_query_sets(streets / "database", sets, ColourEncoder())
    assert searched == [20, 5, 5, 5, 5]


def test_four_query_sets_encode_each_photo_once(streets):
    encoder = ColourEncoder()
    data_set = DataSet(
        "streets",
        "streets",
        (DataSetPart("", read_places(streets / "database"), tuple(QuerySet(s, read_places(streets / s)) for s in SETS)),),
    )
    evaluations = evaluate_data_set(data_set, encoder)
    assert len(encoder.photos) == len(set(encoder.photos)) == 5 * (1 + len(SETS))
    assert [evaluation.data_set["query_set"] for evaluation in evaluations] == list(SETS)
    for name, evaluation in zip(SETS, evaluations, strict=True):
        alone = evaluate(streets / "database", streets / name, ColourEncoder())
        assert evaluation.queries == alone.queries and recalls(evaluation)[0] == 0.8
        assert replace(evaluation, data_set=None).to_dict() == alone.to_dict()


def restated_recall(root, values):
    """City by city: a query counts if a photo of its own city within 25 m is among its N most similar ones of that city."""
    hits, total = np.zeros(len(values)), 0
    for city in CITIES:
        sides = []
        for side in ("database", "queries"):
            photos = sorted((root / city / side).iterdir())
            metres = np.array([[float(number) for number in photo.name.split("@")[1:3]] for photo in photos])
            sides.append((np.stack([describe(photo) for photo in photos]), metres))
        similarities = sides[1][0] @ sides[0][0].T
        near = np.linalg.norm(sides[1][1][:, None] - sides[0][1][None], axis=-1) <= 25
        for row, order in enumerate(np.argsort(-similarities, axis=1)):
            hits += [near[row, order[:value]].any() for value in values]
        total += len(similarities)
    return (hits / total).tolist()


def test_recall_city_by_city_equals_a_restatement(cities):
    evaluation = evaluate_data_set(read_cities(cities), ColourEncoder(), recall_values=(1, 2, 5))[0]
    assert recalls(evaluation) == restated_recall(cities, (1, 2, 5))
    assert recalls(evaluation)[0] == 0.75
    parts = evaluation.parts()
    assert [(part["part"], part["queries"], part["database"], part["recall@1"]) for part in parts] == [
        ("north", 6, 6, 1.0),
        ("south", 6, 6, 0.5),
    ]
    last = evaluation.queries[-1]
    assert last.part == "south" and last.path.startswith("south/queries/@") and last.top_match.startswith("south/database/")


def test_parts_are_merged_into_one_report(cities, tmp_path):
    evaluation = evaluate_data_set(read_cities(cities), ColourEncoder())[0]
    assert (evaluation.database["count"], evaluation.query_set["count"], len(set(evaluation.places.tolist()))) == (12, 12, 12)
    assert evaluation.coordinates == "metres of several frames"
    assert evaluation.distance_error()["within_5_m"] == 0.75
    evaluation.save(tmp_path / "a.json")
    loaded = Evaluation.load(tmp_path / "a.json")
    assert loaded == evaluation and loaded.to_text() == evaluation.to_text()
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["data_set"]["variant"] == "two cities, 12 queries" and report["parts"] == evaluation.parts()
    assert "data set:  two cities, 12 queries (layout cities), query set queries" in evaluation.to_text()
    assert re.search(r"\npart   queries  database +R@1 .*\nnorth +6 +6 +100.0", evaluation.to_text())
    assert [row.won + row.lost for row in compare_evaluations(evaluation, loaded).differences] == [0] * 4
    names = [path.name for path in save_plots(evaluation, tmp_path / "plots")]
    assert names == ["precision_coverage.png", "right.png", "wrong.png"]


def test_parts_keep_skipped_shared_and_saved_photos_apart(cities, tmp_path, caplog):
    """A photo of each city is unreadable, and a query of the second city is a copy of its database."""
    for name in CITIES:
        (cities / name / "queries" / at_name(560000, 4172000, zone=CITIES[name][1])).write_bytes(b"no photo")
    copied = next((cities / "south" / "database").iterdir())
    (cities / "south" / "queries" / at_name(550900, 4172000, zone="10@S")).write_bytes(copied.read_bytes())
    data_set = read_cities(cities)
    evaluation = evaluate_data_set(data_set, ColourEncoder(), save_descriptors=tmp_path / "saved", shuffle_check=True)[0]
    assert {path.partition("/")[0] for path in evaluation.skipped["queries"]} == set(CITIES)
    assert evaluation.shared_photos == 1 and "south/queries: 1 of 8 photos were skipped" in caplog.text
    assert evaluation.shuffled.order_seed == 0 and recalls(evaluation.shuffled) == recalls(evaluation)
    for name, count in (("north/database", 6), ("north/queries", 6), ("south/queries", 7)):
        assert len(PlaceIndex.open(tmp_path / "saved" / name)) == count
    dropped = evaluate_data_set(data_set, ColourEncoder(), drop_shared=True)[0]
    assert (dropped.shared_photos, len(dropped.queries), len(dropped.skipped["queries"])) == (1, 12, 3)
    with pytest.raises(ValueError, match="north/queries: 1 of 7 photos were skipped"):
        evaluate_data_set(data_set, ColourEncoder(), strict=True)


def test_a_data_set_decides_unless_a_rule_is_given(cities):
    data_set = read_cities(cities, positive_dist_threshold=150.0)
    assert evaluate_data_set(data_set, ColourEncoder())[0].rule == PositiveRule(150.0)
    chosen = evaluate_data_set(data_set, ColourEncoder(), PositiveRule(1.0))[0]
    assert chosen.num_without_positives == 12
    assert "positives: within 1 m, instead of within 150 m, the rule of the data set; 12 queries" in chosen.to_text()
    frames = evaluate_data_set(read_cities(cities, frame_tolerance=1), ColourEncoder())[0]
    assert frames.rule.frame_tolerance == 1


def test_positives_of_a_data_set_follow_missing_photos(cities):
    """The first database photo cannot be read: rows of positives move, and its query has none."""
    data_set = read_cities(cities)
    rows = tuple(np.array([row]) for row in range(6))
    parts = [replace(part, query_sets=(replace(part.query_sets[0], positives=rows),)) for part in data_set.parts]
    data_set = replace(data_set, parts=tuple(parts))
    first = sorted((cities / "north" / "database").iterdir())[0]
    first.write_bytes(b"no photo")
    evaluation = evaluate_data_set(data_set, ColourEncoder())[0]
    assert evaluation.num_positives.tolist() == [0, *[1] * 11]
    assert [query.correct for query in evaluation.queries[1:6]] == [True] * 5
    assert (
        evaluation.given_positives == "the data set" and "positives: given by the data set; 1 queries" in evaluation.to_text()
    )
    assert evaluation.to_dict()["positives"]["given"] == "the data set"
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict()))) == evaluation
    assert evaluate_data_set(data_set, ColourEncoder(), PositiveRule(150.0))[0].given_positives is None


# ---- an index as the database


def test_an_index_is_searched_without_encoding_its_photos(streets, tmp_path):
    whole = evaluate(streets / "database", streets / "queries", ColourEncoder(), save_descriptors=tmp_path / "saved")
    encoder = ColourEncoder()
    index = PlaceIndex.open(tmp_path / "saved" / "database")
    sets = [QuerySet(name, read_places(streets / name)) for name in SETS]
    evaluations = evaluate_query_sets(index, sets, encoder, save_descriptors=tmp_path / "more")
    assert len(encoder.photos) == 5 * len(SETS) and not (tmp_path / "more" / "database").exists()
    assert [query.top_match for query in evaluations[0].queries] == [query.top_match for query in whole.queries]
    assert evaluations[0].database | {"path": ""} == whole.database | {"path": ""}
    assert evaluations[1].query_set["name"] == "queries_night"
    with pytest.raises(ValueError, match="is an index, whose photos are not encoded"):
        evaluate(index, streets / "queries", encoder, shuffle_check=True)
    encoder.fingerprint = "d" * 64
    with pytest.raises(ValueError, match="The index was built with another model"):
        evaluate(index, streets / "queries", encoder)


def test_rows_of_an_index_without_a_position_are_skipped(tmp_path):
    """The second row has no position: it cannot be found, although it is the most similar one of a query."""
    for i in range(3):
        save(tmp_path / "database" / f"{i}.png", i)
        save(tmp_path / "queries" / f"{i}.png", i)
    (tmp_path / "database" / "p.csv").write_text("path,latitude,longitude\n0.png,48,11\n1.png,,\n2.png,48,11.1\n")
    (tmp_path / "queries" / "p.csv").write_text("path,latitude,longitude\n0.png,48,11\n1.png,48,11\n2.png,48,11.1\n")
    encoder = ColourEncoder()
    index_photos(tmp_path / "database", tmp_path / "index", encoder)
    evaluation = evaluate(PlaceIndex.open(tmp_path / "index"), tmp_path / "queries", encoder)
    assert evaluation.skipped["database"] == {"1.png": "no position in metres"}
    assert evaluation.database["count"] == 2 and "1.png" not in {query.top_match for query in evaluation.queries}
    assert evaluation.shared_photos == 2
    folder = evaluate(tmp_path / "database", tmp_path / "queries", encoder)
    assert [query.similarity for query in folder.queries] == pytest.approx(
        [query.similarity for query in evaluation.queries], abs=1e-3
    )


# ---- the command line


def test_the_command_line_evaluates_a_data_set(streets, tmp_path, monkeypatch):
    encoder = use_colours(monkeypatch)
    status, out, err = run("evaluate", "--data", streets, "--json", tmp_path / "a.json", "--positive-dist-threshold", 10)
    assert status == 0, err
    assert "(layout folders)" in out and "Correct: within 10 m, instead of within 25 m, the rule of the data set." in out
    assert re.search(r"query set +queries +R@1.*\nqueries +5 +80\.0 ", out)
    assert len(encoder.photos) == 25
    assert sorted(path.name for path in tmp_path.glob("a-*.json")) == sorted(f"a-{name}.json" for name in SETS)
    assert Evaluation.load(tmp_path / "a-queries_rain.json").data_set["query_set"] == "queries_rain"
    status, _, err = run("evaluate", "--data", streets, "--json", tmp_path / "a.json")
    assert status == 1 and "exists already" in err


def test_the_command_line_repeats_queries(streets, tmp_path, monkeypatch):
    encoder = use_colours(monkeypatch)
    queries = [word for name in SETS[:2] for word in ("--queries", streets / name)]
    status, _, err = run("evaluate", "--database", streets / "database", *queries, "--json", tmp_path / "a.json")
    assert status == 0 and len(encoder.photos) == 15, err
    assert {path.name for path in tmp_path.glob("*.json")} == {"a-queries.json", "a-queries_night.json"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Give a data set with `--data`, or photos with `--database` and `--queries`"),
        (["--data", "{root}", "--queries", "a"], "Omit `--queries`"),
        (
            ["--layout", "msls", "--database", "{root}/database", "--queries", "{root}/queries"],
            "`--layout` belongs to `--data`",
        ),
        (["--data", "{root}", "--layout", "unknown"], "There is no layout unknown"),
        (
            ["--database", "{root}/database", "--queries", "{root}/queries", "--queries", "{root}/queries"],
            "the same photos twice",
        ),
        (
            ["--database", "{root}/database", "--queries", "{root}/queries", "--positives", "a.csv", "--positives", "b.csv"],
            "Give `--positives` once for each `--queries`: 2 and 1 are given",
        ),
        (
            ["--database", "{root}/database", "--queries", "{root}/queries", "--positives", "a", "--heading-tolerance", "9"],
            "Give one of them",
        ),
    ],
)
def test_options_that_do_not_belong_together_are_refused(streets, options, message):
    status, _, err = run("evaluate", *(option.format(root=streets) for option in options))
    assert status == 1 and message in err


# ---- positives by hand


@pytest.fixture
def frames(tmp_path):
    """Six photos without positions; the n-th query shows the photo 5 - n, apart from the last one."""
    for i in range(6):
        save(tmp_path / "ref" / f"{i}.png", i)
    for i in range(3):
        save(tmp_path / "query" / f"q{i}.png", 5 - i if i < 2 else 0, compress_level=1)
    return tmp_path


def evaluate_frames(frames, *options):
    status, _, err = run(
        "evaluate",
        "--database",
        frames / "ref",
        "--queries",
        frames / "query",
        *options,
        "--json",
        frames / "a.json",
        "--overwrite",
    )
    return (None, err) if status else (Evaluation.load(frames / "a.json"), err)


@pytest.mark.parametrize("name", ["rows.npy", "objects.npy", "one.npz", "names.csv", "rows.csv", "names.json", "lists.json"])
def test_positives_in_all_forms(frames, monkeypatch, name):
    use_colours(monkeypatch)
    rows = [[5, 4], [4, 3], [3, 2]]
    objects = np.empty(3, object)
    objects[:] = rows
    np.save(frames / "rows.npy", np.array(rows))
    np.save(frames / "objects.npy", objects, allow_pickle=True)
    np.savez(frames / "one.npz", objects)
    pairs = [(query, row) for query in range(3) for row in rows[query]]
    (frames / "names.csv").write_text("query,database\n" + "".join(f"q{query}.png,{row}.png\n" for query, row in pairs))
    (frames / "rows.csv").write_text("database,query\n" + "".join(f"{row},{query}\n" for query, row in pairs))
    (frames / "names.json").write_text(json.dumps({f"q{i}.png": [f"{row}.png" for row in rows[i]] for i in range(3)}))
    (frames / "lists.json").write_text(json.dumps(rows))
    evaluation, err = evaluate_frames(frames, "--positives", frames / name)
    assert evaluation is not None, err
    assert [query.correct for query in evaluation.queries] == [True, True, False]
    assert evaluation.num_positives.tolist() == [2, 2, 2] and evaluation.given_positives == str(frames / name)


def test_lists_give_the_order_of_rows(frames, monkeypatch):
    """The database is listed backwards, with a missing photo first; a photo that is not listed is not searched."""
    use_colours(monkeypatch)
    (frames / "database.txt").write_text("missing.png\n" + "".join(f"{i}.png\n" for i in (5, 4, 3, 2, 1)))
    (frames / "queries.csv").write_text("name,other\nq1.png,x\nq0.png,x\n")
    (frames / "p.json").write_text("[[2], [1]]")
    lists = ["--database-list", frames / "database.txt", "--query-list", frames / "queries.csv"]
    evaluation, err = evaluate_frames(frames, *lists, "--positives", frames / "p.json")
    assert evaluation is not None, err
    assert [(query.path, query.correct) for query in evaluation.queries] == [("q1.png", True), ("q0.png", True)]
    assert evaluation.database["count"] == 5 and evaluation.skipped["database"] == {"missing.png": "no such file"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.json", '{"q0.png": ["9.png"]}', "1 of 1 names are not photos of the database, 9.png first"),
        ("p.json", '{"x.png": ["1.png"]}', "names are not photos of the queries, x.png first. Expected paths such as q0.png"),
        ("p.json", '{"0": [6]}', "row numbers of the database are out of range, 6 first. There are 6 photos"),
        ("p.json", '{"0": [-1]}', "out of range, -1 first"),
        ("p.json", '{"0": [{}]}', "expected a table from each query to a list"),
        ("p.json", "{", "is not a JSON file"),
        ("p.csv", "a,b\n1,2\n", "has the columns a, b. Expected query and database"),
        ("p.csv", "query,database\n1\n", "row 2: expected 2 values, got 1"),
        ("p.txt", "", "is not a file of positives"),
    ],
)
def test_wrong_positives_are_refused(frames, monkeypatch, name, content, message):
    use_colours(monkeypatch)
    (frames / name).write_text(content)
    evaluation, err = evaluate_frames(frames, "--positives", frames / name)
    assert evaluation is None and message in err


def test_queries_without_an_entry_are_counted(frames, monkeypatch):
    use_colours(monkeypatch)
    (frames / "p.csv").write_text("query,database\nq0.png,5.png\nq0.png,5.png\n")
    evaluation, _ = evaluate_frames(frames, "--positives", frames / "p.csv")
    assert evaluation.num_positives.tolist() == [1, 0, 0]
    assert [remark["text"] for remark in evaluation.remarks["queries"]] == [
        "queries without an entry in p.csv, which count as misses"
    ]


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_hostile_file_of_positives_executes_nothing(frames, monkeypatch, suffix):
    use_colours(monkeypatch)
    values = np.empty(1, object)
    values[0] = _Touch(frames / "touched")
    (np.save if suffix == "npy" else np.savez)(frames / f"p.{suffix}", values)
    evaluation, err = evaluate_frames(frames, "--positives", frames / f"p.{suffix}")
    assert evaluation is None and "Files that call functions are not read" in err
    assert not (frames / "touched").exists()


def test_descriptors_of_another_program_with_positives(frames):
    """Descriptors of all sides as files; rows belong to the photos in the order of lists."""
    for side, count in (("ref", 6), ("query", 3)):
        photos = sorted((frames / side).iterdir())
        np.save(frames / f"{side}.npy", np.stack([describe(photo) for photo in photos]))
        (frames / f"{side}.txt").write_text("".join(f"{photo.name}\n" for photo in photos))
        assert len(photos) == count
    (frames / "p.json").write_text("[[5], [4], [3]]")
    options = ["--descriptors", frames / "ref.npy", "--query-descriptors", frames / "query.npy"]
    options += ["--database-list", frames / "ref.txt", "--query-list", frames / "query.txt", "--positives", frames / "p.json"]
    evaluation, err = evaluate_frames(frames, *options)
    assert evaluation is not None, err
    assert recalls(evaluation)[0] == pytest.approx(2 / 3)
