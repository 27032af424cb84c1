"""Evaluation of sequences against a brute force, and as the command line reports it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from d2vpr_hf.evaluation import Evaluation, PositiveRule, SequenceRule, compare_evaluations, evaluate_descriptor_files
from d2vpr_hf.evaluation.evaluate import evaluate_data_set
from d2vpr_hf.evaluation.merged_parts import merge_parts
from d2vpr_hf.evaluation.photo_selection import select_photos
from d2vpr_hf.evaluation.sequence_windows import find_windows
from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.readers.data_sets.data_set import DataSet
from tests.command_line import run

LENGTH = 3


@pytest.fixture
def drives(tmp_path):
    """Two drives of 8 and 5 photos in the database, and one of 6 queries; positions are 10 m apart, descriptors random."""
    rng = np.random.default_rng(0)
    sides = {}
    for name, lengths in (("database", {"one": 8, "two": 5}), ("queries", {"drive": 6})):
        rows = [
            (f"{folder}/frame{number}.jpg", 1000.0 * (folder == "two") + 10.0 * number)
            for folder, count in lengths.items()
            for number in range(count)
        ]
        descriptors = rng.normal(size=(len(rows), 6))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        table = tmp_path / f"{name}.csv"
        table.write_text("path,x,y\n" + "".join(f"{path},{x},0\n" for path, x in rows))
        np.save(tmp_path / f"{name}.npy", descriptors.astype(np.float32))
        sides[name] = tmp_path / f"{name}.npy", table, rows, descriptors
    return sides


def windows_of(rows):
    return [
        list(range(start, start + LENGTH))
        for start in range(len(rows) - LENGTH + 1)
        if rows[start][0].split("/")[0] == rows[start + LENGTH - 1][0].split("/")[0]
    ]


@pytest.mark.parametrize("scores", ["mean", "sum"])
@pytest.mark.parametrize("positives", ["centre", "any"])
def test_sequences_are_ranked_and_judged_as_by_brute_force(drives, scores, positives):
    (file, table, rows, database), (query_file, query_table, query_rows, queries) = drives.values()
    evaluation = evaluate_descriptor_files(
        (file, table),
        (query_file, query_table),
        PositiveRule(10.0),
        recall_values=[1, 2],
        sequence=SequenceRule(LENGTH, scores, positives),
    )
    windows, query_windows = windows_of(rows), windows_of(query_rows)
    assert (len(windows), len(query_windows)) == (9, 4)
    assert [query.path for query in evaluation.queries] == [query_rows[each[1]][0] for each in query_windows]
    for query, asking in zip(evaluation.queries, query_windows, strict=True):
        ranking = []
        for window in windows:
            if scores == "sum":
                similarity = np.mean([queries[i] @ database[j] for i, j in zip(asking, window, strict=True)])
            else:
                means = queries[asking].sum(axis=0), database[window].sum(axis=0)
                similarity = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
            pairs = [(asking[1], window[1])] if positives == "centre" else [(i, j) for i in asking for j in window]
            is_positive = any(abs(query_rows[i][1] - rows[j][1]) <= 10.0 for i, j in pairs)
            ranking.append((similarity, is_positive, rows[window[1]][0]))
        ranking.sort(reverse=True)
        assert query.top_match == ranking[0][2]
        assert query.similarity == pytest.approx(ranking[0][0], abs=1e-5)
        assert query.num_positives == sum(positive for _, positive, _ in ranking)
        ranks = [rank for rank, (_, positive, _) in enumerate(ranking, 1) if positive]
        assert query.first_positive_rank == (ranks[0] if ranks and ranks[0] <= 2 else None)


def test_a_sequence_of_one_photo_is_a_photo(drives):
    sides = [side[:2] for side in drives.values()]
    single = evaluate_descriptor_files(*sides, PositiveRule(10.0))
    of_one = evaluate_descriptor_files(*sides, PositiveRule(10.0), sequence=SequenceRule(1))
    assert [query.to_dict() for query in of_one.queries] == [query.to_dict() for query in single.queries]


def test_reports_state_the_sequences_and_compare_only_equal_lengths(drives, tmp_path):
    (file, table, *_), (query_file, query_table, *_) = drives.values()
    arguments = ["--database", table, "--queries", query_table, "--descriptors", file, "--query-descriptors", query_file]
    reports = {}
    for name, options in {"mean": [], "sum": ["--sequence-scores", "sum"], "any": ["--sequence-positives", "any"]}.items():
        report = tmp_path / f"{name}.json"
        status, out, err = run("evaluate", *arguments, "--sequence-length", 3, *options, "--json", report)
        assert status == 0, err
        assert "9 sequences of" in out and "sequences: 3 consecutive photos" in out and "of 13 and 6 photos" in out
        reports[name] = Evaluation.load(report)
        assert json.loads(report.read_text())["sequences"]["database_sequences"] == 9
    assert any("compared differently" in note for note in compare_evaluations(reports["mean"], reports["sum"]).notes)
    with pytest.raises(ValueError, match="different positives"):
        compare_evaluations(reports["mean"], reports["any"])
    assert run("evaluate", *arguments, "--json", tmp_path / "single.json")[0] == 0
    with pytest.raises(ValueError, match=r"of sequences of 3 and of 1 photos"):
        compare_evaluations(reports["mean"], Evaluation.load(tmp_path / "single.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sequence-length", "7"], "There is no sequence of 7 consecutive photos in a folder of the queries"),
        (["--sequence-scores", "sum"], "belong to `--sequence-length L`. Give it too."),
    ],
)
def test_impossible_sequences_are_refused(drives, options, message):
    (file, table, *_), (query_file, query_table, *_) = drives.values()
    arguments = ["--database", table, "--queries", query_table, "--descriptors", file, "--query-descriptors", query_file]
    status, _, err = run("evaluate", *arguments, *options)
    assert status == 1 and message in err, err


def windows_by_name(tmp_path, *names, skipped=()):
    places = [Place(name, x=10.0 * number, y=0.0) for number, name in enumerate(names)]
    table = PlaceTable(tmp_path, places, "exif", dict.fromkeys(skipped, "not an image"))
    selection, _ = select_photos(table, table, PositiveRule(10.0))
    return [[names[row] for row in window] for window in find_windows(selection, 2).tolist()]


def test_photos_of_a_subfolder_do_not_interrupt_their_folder(tmp_path):
    """In the natural order of all paths, `a/b/1.jpg` is between the photos of `a`."""
    names = ("a/10.jpg", "a/b/1.jpg", "a/b/2.jpg", "a/c.jpg", "a/9.jpg")
    assert windows_by_name(tmp_path, *names) == [["a/9.jpg", "a/10.jpg"], ["a/10.jpg", "a/c.jpg"], ["a/b/1.jpg", "a/b/2.jpg"]]


def test_photos_that_are_skipped_interrupt_a_drive(tmp_path):
    names = [f"a/{number}.jpg" for number in (7, 8, 10, 11)]
    assert windows_by_name(tmp_path, *names, skipped=("a/9.heic",)) == [names[:2], names[2:]]
    assert len(windows_by_name(tmp_path, *names)) == 3


def test_names_without_an_order_of_drives_are_refused(tmp_path):
    with pytest.raises(ValueError, match="begin with @ and a position, so that their order is not that of a drive"):
        windows_by_name(tmp_path, "@5@5@a@.jpg", "@6@5@b@.jpg")
    msls = DataSet("msls-all-queries", "MSLS val", ())
    with pytest.raises(ValueError, match="photos of MSLS are keys without an order"):
        evaluate_data_set(msls, SimpleNamespace(), sequence=SequenceRule(5))


def test_parts_of_a_data_set_sum_their_sequences(drives, tmp_path):
    sides = [side[:2] for side in drives.values()]
    part = evaluate_descriptor_files(*sides, PositiveRule(10.0), sequence=SequenceRule(LENGTH))
    folders = {side: {"path": str(tmp_path / side), "count": 1, "checksum": ""} for side in ("database", "query_set")}
    merged = merge_parts({"one": replace(part, **folders), "two": replace(part, **folders)}, {})
    counts = {"database_photos": 26, "query_photos": 12, "database_sequences": 18, "query_sequences": 8}
    assert merged.sequences == SequenceRule(LENGTH).to_dict() | counts and merged.reranking is None


def test_unknown_scores_are_refused():
    with pytest.raises(ValueError, match="`sequence_scores` as one of mean, sum"):
        SequenceRule(3, "product")
    with pytest.raises(ValueError, match="`sequence_length` of at least 1"):
        SequenceRule(0)
