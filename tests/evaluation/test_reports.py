"""Evaluations of descriptors: writing and loading reports, comparing two reports, and plots."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from d2vpr_hf.evaluation import EncoderInfo, Evaluation, PhotoSet, PositiveRule, compare_evaluations, evaluate_descriptors
from d2vpr_hf.evaluation.plots import plot_map, plot_matches, plot_precision_coverage, save_plots
from d2vpr_hf.evaluation.report import DROPPED

CORRECT, WRONG = "#2e9e4f", "#c8373a"


def evaluate_world(tops, conditions=None, **options):
    """Evaluate queries at four database places 100 m apart; the i-th query has a descriptor near that of place `tops[i]`.

    The descriptors of the database are orthogonal.
    """
    places = PhotoSet(np.arange(4)[:, None] * [100.0, 0.0], paths=list("abcd"))
    queries = PhotoSet(np.arange(len(tops))[:, None] * [100.0, 0.0] + [3, 4], paths="wxyz"[: len(tops)], conditions=conditions)
    cosines = np.linspace(0.9, 0.6, len(tops))  # the first query has the largest similarity
    descriptors = np.stack([_descriptor_near(top, cosine) for top, cosine in zip(tops, cosines, strict=True)])
    return evaluate_descriptors(np.eye(5, dtype=np.float32)[:4], descriptors, places, queries, recall_values=[1, 4], **options)


def _descriptor_near(place, cosine):
    vector = np.zeros(5, np.float32)
    vector[[place, 4]] = cosine, np.sqrt(1 - cosine**2)
    return vector


def test_a_report_by_hand():
    evaluation = evaluate_world([0, 1, 3, 3], conditions=["day", "night", "night", None])
    report = evaluation.to_dict()
    assert [query.correct for query in evaluation.queries] == [True, True, False, True]
    assert report["recall"]["recall@1"]["recall"] == 0.75 and report["recall"]["recall@4"]["recall"] == 1.0
    assert report["num_places"] == 4 and report["num_without_positives"] == 0
    assert report["distance_error"] == {"median": 5.0, "within_5_m": 0.75, "within_25_m": 0.75, "within_100_m": 1.0}
    assert report["recall_at_100_precision"] == 0.5
    assert report["auc_pr"] == pytest.approx(0.25 + 0.25 + 0.25 * 3 / 4)
    assert report["conditions"] == [
        {"condition": None, "count": 1, "recall@1": 1.0, "recall@4": 1.0},
        {"condition": "day", "count": 1, "recall@1": 1.0, "recall@4": 1.0},
        {"condition": "night", "count": 2, "recall@1": 0.5, "recall@4": 1.0},
    ]
    third = report["queries"][2]  # similar to d; a, b and c are orthogonal to it and ranked in the order of their rows
    assert (third["path"], third["top_match"], third["first_positive_rank"], third["num_positives"]) == ("y", "d", 4, 1)
    assert third["distance"] == pytest.approx(np.hypot(97, 4)) and third["similarity"] == pytest.approx(0.7)
    assert third["position"] == [203.0, 4.0] and third["top_match_position"] == [300.0, 0.0]


def test_the_printed_table_has_recalls_rule_and_conditions():
    text = evaluate_world([0, 1, 3, 3], conditions=["day", "night", "night", "night"]).to_text()
    assert re.search(r"R@1 +R@4\nall queries +75\.0 +100\.0\n", text)
    assert "within 25 m; 0 queries have none" in text and re.search(r"\nnight +3 +66\.7 +100\.0$", text)


def test_the_printed_table_has_a_line_for_all_that_was_skipped_or_assumed():
    remarks = {"database": [], "queries": [{"kind": "assumed", "text": "photos without a height", "count": 3, "example": "a"}]}
    skipped = {"database": {"b.jpg": "no position in metres", "c.jpg": "no such file"}, "queries": {"d": f"{DROPPED} a"}}
    text = replace(evaluate_world([0, 1, 3, 3]), remarks=remarks, skipped=skipped).to_text()
    assert "\nskipped:   2 photos of the database, such as b.jpg: no position in metres\n" in text
    assert "\nassumed:   3 photos without a height (queries)\n" in text
    assert "such as d" not in text  # a dropped query has a line of its own


def test_a_saved_report_restores_the_evaluation(tmp_path):
    """A report must restore everything except plots of matches, and equal evaluations must give equal bytes."""
    evaluation = evaluate_world([0, 1, 3, 3], conditions=["é", None, None, None])
    evaluation.save(tmp_path / "new" / "a.json")
    evaluation.save(tmp_path / "b.json")
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    loaded = Evaluation.load(tmp_path / "b.json")
    assert loaded == evaluation and loaded.to_dict() == evaluation.to_dict() and loaded.to_text() == evaluation.to_text()
    with pytest.raises(FileExistsError, match="exists already"):
        evaluation.save(tmp_path / "b.json")
    with pytest.raises(FileExistsError, match="is a folder"):
        evaluation.save(tmp_path, overwrite=True)
    evaluation.save(tmp_path / "b.json", overwrite=True)


def test_a_report_keeps_the_encoder_and_older_reports_can_be_loaded(tmp_path):
    """A report has the keys it always had; missing and unknown keys of an older report must not prevent loading."""
    info = EncoderInfo("m", "f" * 64, 8, None, (70, 140), 4, False, "cpu", "torch", "fp32")
    evaluation = replace(evaluate_world([0, 1, 3, 3]), model=info)
    evaluation.save(tmp_path / "a.json")
    assert Evaluation.load(tmp_path / "a.json").model == info and "70x140" in str(info)
    report = evaluation.to_dict()
    assert list(report["model"])[:5] == ["name", "fingerprint", "descriptor_dim", "projection_dim", "resolution"]
    old = {key: value for key, value in report["model"].items() if key not in ("backend", "precision")} | {"dtype": "float32"}
    assert Evaluation.from_dict(report | {"model": old}).model == replace(info, backend=None, precision=None)
    assert evaluate_world([0, 1, 2, 3]).to_dict()["model"] == {"descriptor_dim": 5}


def test_a_report_keeps_the_options_of_a_model_and_its_licence(tmp_path):
    """A model whose photos keep their shape has no resolution, and its descriptors are not those of the user."""
    info = EncoderInfo("user/dinov2", "f" * 64, 384, batch_size=4, model_options={"pool": "gem"}, license="Apache-2.0")
    evaluation = replace(evaluate_world([0, 1, 3, 3]), model=info)
    evaluation.save(tmp_path / "a.json")
    assert Evaluation.load(tmp_path / "a.json").model == info
    assert (
        evaluation.to_dict()["model"] | {"options": {"pool": "gem"}, "license": "Apache-2.0"} == evaluation.to_dict()["model"]
    )
    assert str(info).startswith("user/dinov2, pool gem, fingerprint ffffffffffff, photos of several sizes, 384 numbers")
    assert "options" not in replace(evaluation, model=replace(info, model_options={}, license=None)).to_dict()["model"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a report"),
        ("[]", "not a report"),
        ('{"format": "other", "format_version": 1}', "has format None"),
        ('{"format": "d2vpr evaluation", "format_version": 9}', "has format 9, this package reads 'd2vpr evaluation' 1"),
        ('{"format": "d2vpr evaluation", "format_version": 1}', "is damaged"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused(tmp_path, text, message):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Evaluation.load(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Evaluation.load(tmp_path / "a.json")


def test_metrics_that_are_undefined_without_positives_are_null_in_json(tmp_path):
    """NaN is not valid JSON."""
    evaluation = evaluate_world([0, 1, 2, 3], rule=PositiveRule(1.0))
    report = evaluation.to_dict()
    assert report["num_without_positives"] == 4 and report["auc_pr"] is None and report["recall_at_100_precision"] is None
    assert report["recall"]["recall@1"] == {"recall": 0.0, "interval_95": [0.0, 0.0], "recall_with_positives": None}
    evaluation.save(tmp_path / "a.json")
    assert "AUC-PR -" in evaluation.to_text()


def test_given_positives_replace_the_rule():
    """A data set's own ground truth; without positions every query is a place, and distances are unknown."""
    rows = np.eye(3, dtype=np.float32)
    evaluation = evaluate_descriptors(
        rows, rows, PhotoSet(), PhotoSet(), positives=[np.array([0]), np.array([0, 1]), np.array([], int)]
    )
    assert [query.correct for query in evaluation.queries] == [True, True, False]
    assert evaluation.num_without_positives == 1 and evaluation.places.tolist() == [0, 1, 2]
    assert evaluation.distance_error() is None and evaluation.queries[2].path == "2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": PhotoSet()}, "need positions of the database photos"),
        ({"queries": PhotoSet(np.zeros((3, 2)))}, "Expected positions of 2 query photos, one for each descriptor, got 3"),
        ({"queries": PhotoSet(np.full((2, 2), np.nan))}, "positions of the query photos are not all finite"),
        ({"queries": PhotoSet(np.zeros((2, 3)))}, "equal numbers of coordinates"),
        ({"query_descriptors": np.zeros((0, 4))}, "at least one query descriptor"),
        ({"positives": [np.array([0])]}, "Expected positives of 2 queries, got those of 1"),
        ({"recall_values": [0]}, "at least 1"),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_refused(change, message):
    photos = PhotoSet(np.zeros((2, 2)))
    arguments = {
        "database_descriptors": np.eye(2, 4),
        "query_descriptors": np.eye(2, 4),
        "database": photos,
        "queries": photos,
    }
    with pytest.raises(ValueError, match=message):
        evaluate_descriptors(**(arguments | change))


# ---- comparison


def test_comparison_by_hand():
    """B finds the third query, which A misses, and misses the first, which A finds."""
    first, second = evaluate_world([0, 1, 3, 3]), evaluate_world([1, 1, 2, 3])
    compared = compare_evaluations(first, second)
    at_1, at_4 = compared.differences
    assert (at_1.first, at_1.second, at_1.won, at_1.lost) == (0.75, 0.75, 1, 1)
    assert at_1.interval_95 == (-0.75, 0.75)
    assert (at_4.won, at_4.lost, at_4.interval_95) == (0, 0, (0.0, 0.0))
    assert "R@1   75.0   75.0   +0.0" in compared.to_text()


def test_a_model_that_wins_all_queries_has_an_interval_of_one():
    compared = compare_evaluations(evaluate_world([1, 0, 3, 2]), evaluate_world([0, 1, 2, 3]))
    row = compared.differences[0]
    assert (row.first, row.second, row.interval_95, row.won, row.lost) == (0.0, 1.0, (1.0, 1.0), 4, 0)


def load_changed(evaluation, path, **changes):
    """Write a report with other values to a file, and load it."""
    report = json.loads(json.dumps(evaluation.to_dict()))
    for key, value in changes.items():
        report[key] = report[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(report))
    return Evaluation.load(path)


def test_reports_with_different_photos_or_positives_are_not_compared(tmp_path):
    first = evaluate_world([0, 1, 2, 3])
    reports = [
        (evaluate_world([0, 1, 2]), "different queries, 4 and 3: 1 are in one report only, z first"),
        (evaluate_world([0, 1, 2, 3], rule=PositiveRule(10.0)), "within 25 m in the first, within 10 m in the second"),
        (load_changed(first, tmp_path / "a", database={"checksum": "0"}), "different databases: 4 photos"),
        (load_changed(first, tmp_path / "b", query_set={"checksum": "0"}), "different queries: 4 photos"),
        (load_changed(first, tmp_path / "c", queries=first.to_dict()["queries"][::-1]), "their order differs"),
        (load_changed(first, tmp_path / "d", recall_values=[2]), "share no N"),
        (evaluate_world([0, 1, 2, 3], positives=[np.array([0, 1])] * 4), "different positives"),
    ]
    for report, message in reports:
        with pytest.raises(ValueError, match=message):
            compare_evaluations(first, report)


def test_notes_name_settings_that_make_recalls_hard_to_compare(tmp_path):
    first = evaluate_world([0, 1, 2, 3])
    second = load_changed(first, tmp_path / "a", model={"cross_image_encoder": True, "batch_size": 8, "resolution": [322, 322]})
    notes = compare_evaluations(first, second).notes
    assert len(notes) == 2 and "resolutions differ: None and [322, 322]" in notes[0] and "cross-image encoder ran" in notes[1]
    assert compare_evaluations(second, second).notes == []


# ---- plots


def test_the_map_shows_correct_and_wrong_queries():
    """One red line from the wrong query to its match, three green points (correct), one red, and four grey ones (database)."""
    axes = plot_map(evaluate_world([0, 1, 3, 3])).axes[0]
    lines, *_ = (artist for artist in axes.collections if type(artist).__name__ == "LineCollection")
    assert [segment.tolist() for segment in lines.get_segments()] == [[[203.0, 4.0], [300.0, 0.0]]]
    points = {
        to_hex(artist.get_facecolor()[0]): len(artist.get_offsets()) for artist in axes.collections if artist is not lines
    }
    assert (points[CORRECT], points[WRONG], points["#a3a3a3"]) == (3, 1, 4)
    assert "R@1: 75.0" in axes.get_title() and axes.get_xlabel().endswith("/ m")


def test_only_plots_of_known_data_are_drawn_and_outdated_plots_removed(tmp_path):
    evaluation = evaluate_world([0, 1, 3, 3])
    (tmp_path / "right.png").write_text("of another run")
    assert [path.name for path in save_plots(evaluation, tmp_path)] == ["map.png", "precision_coverage.png"]
    assert not (tmp_path / "right.png").exists()
    with pytest.raises(ValueError, match="needs the photos"):
        plot_matches(evaluation, correct=True)
    rows = np.eye(2, dtype=np.float32)
    unplaced = evaluate_descriptors(rows, rows, PhotoSet(), PhotoSet(), positives=[np.array([0]), np.array([], int)])
    with pytest.raises(ValueError, match="needs the positions"):
        plot_map(unplaced)
    curve = plot_precision_coverage(unplaced).axes[0].lines[0].get_xydata()
    assert curve.tolist() == [[100.0, 50.0]]
