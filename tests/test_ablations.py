"""The table of the ablations: differences that can be counted by hand, and rows that say what they compare."""

import json

import pytest
import torch

from benchmarks.ablations.report import compare, gate, offsets_table, recall_at_1, table, teachers_table
from benchmarks.ablations.rows import ROWS, STEPS
from benchmarks.ablations.run import asked_seeds, cost_of, missing_seeds
from benchmarks.ablations.students import make_student
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.training.model_setup import load_or_make
from d2vpr_hf.training.options import CONFIGS
from tests.conftest import save_folder


def record(row, seed, found, queries=(5, 5, 5, 5)):
    places = {f"9001-{number}": [asked, hit, hit, hit] for number, (asked, hit) in enumerate(zip(queries, found, strict=True))}
    stages = [
        {"run": name, "steps": 1, "images": images, "seconds": 90.0} for name, images in (("student0", 480), ("0-finetune", 96))
    ]
    return {
        "row": row,
        "seed": seed,
        "stages": stages,
        "parameters": 1e6,
        "offsets": None,
        "places": {"standard": places, "all": places},
    }


def test_recall_is_that_of_all_queries():
    assert recall_at_1([record("full", 0, [5, 0, 1, 2]), record("full", 1, [5, 5, 5, 5])], "all") == pytest.approx(70)


def test_seeds_are_compared_with_their_own():
    """Seed 1 of the reference is much better than seed 0; against the other's, the row would seem worse."""
    reference = [record("full", 0, [1, 1, 1, 1]), record("full", 1, [4, 4, 4, 4])]
    row = [record("finetuned", seed, [hits] * 4) for seed, hits in ((1, 5), (7, 0), (0, 3))]
    found = compare(row, reference, "standard")
    assert (found.mean, found.low, found.high, found.pairs) == pytest.approx((30, 30, 30, 2))
    assert found.deviation == pytest.approx(200**0.5)  # 20 and 40 points
    assert found.verdict() == "better"


def test_one_seed_decides_nothing():
    found = compare([record("finetuned", 0, [5] * 4)], [record("full", 0, [0] * 4)], "standard")
    assert (found.low, found.deviation, found.verdict()) == (100, 0, "one seed, not decided")


def test_places_are_resampled_and_not_queries():
    """One place has it all: a quarter of the resamples of 4 places and more leave it out, so 0 lies in the interval."""
    row, reference = (
        [record(name, seed, hits) for seed in (0, 1)] for name, hits in (("a", [5, 1, 1, 1]), ("full", [0, 1, 1, 1]))
    )
    found = compare(row, reference, "all")
    assert (found.mean, found.low) == pytest.approx((25, 0)) and found.high >= 50
    assert found.verdict() == "not significant"


def test_a_small_difference_is_called_small():
    queries = (100,) * 4
    row, reference = ([record(name, seed, [hits] * 4, queries) for seed in (0, 1)] for name, hits in (("a", 51), ("full", 50)))
    found = compare(row, reference, "all")
    assert found.verdict() == "better, too small to matter"


def test_a_table_has_a_line_for_each_row_that_was_run():
    records = {name: [record(name, seed, [1, 2, 3, 4]) for seed in (0, 1)] for name in ("full", "finetuned")}
    lines = table(records).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| distilled, then fine-tuned | 2 | 1.00 | 480 + 96 | 3 | 50.0 |  |")
    assert "+0.0 (+0.0 to +0.0; ±0.0 over seeds): not significant" in lines[3]


def test_the_gate_needs_a_teacher_that_is_five_points_ahead():
    """20 queries: a query is 5 points."""
    students = [record("finetuned", 0, [2, 2, 2, 2]), record("finetuned", 1, [2, 2, 2, 2])]
    assert "+5.0 points" in gate({"teacher": [record("teacher", 0, [2, 2, 2, 3])], "finetuned": students})
    assert "nothing is claimed" in gate({"teacher": [record("teacher", 0, [2, 2, 2, 2])], "finetuned": students})
    assert "not decided" in gate({"finetuned": students})


def test_each_teacher_is_set_against_the_students_of_its_seeds():
    """20 queries: a query is 5 points. The second teacher, from seed 2 on, is no better than its students: the gate is its."""
    records = {
        "teacher": [record("teacher", 2, [2] * 4), record("teacher", 0, [5] * 4)],
        "full": [record("full", seed, [seed] * 4) for seed in (0, 1, 2, 3)],
        "finetuned": [record("finetuned", seed, [hits] * 4) for seed, hits in ((0, 1), (1, 2), (2, 1), (3, 3))],
    }
    assert "+70.0 and +0.0 points" in gate(records) and "nothing is claimed" in gate(records)
    lines = teachers_table(records).splitlines()
    assert lines[0] == "| row | teacher of 100.0 %: 2 seeds | teacher of 40.0 %: 2 seeds |"
    assert lines[2:] == [
        "| distilled, then fine-tuned | 10.0 | 50.0 |",
        "| fine-tuned only | +20.0 (+20.0 to +20.0) | -10.0 (-10.0 to -10.0) |",
    ]
    assert teachers_table(records | {"teacher": records["teacher"][:1]}) == ""


def test_offsets_are_averaged_over_seeds_and_left_out_where_there_are_none():
    moved = [{"mean_offset": part, "clamped": 0.5, "mean_scale": 1.0, "scale_deviation": 0.0} for part in (0.1, 0.3)]
    full = [record("full", seed, [1] * 4) | {"offsets": numbers} for seed, numbers in enumerate(moved)]
    lines = offsets_table({"full": full, "teacher": [record("teacher", 0, [1] * 4)]}).splitlines()
    assert lines[2:] == ["| distilled, then fine-tuned | 0.200 | 0.500 | 1.000 | 0.000 |"]
    still = {"no_offsets": [record("no_offsets", 0, [1] * 4) | {"offsets": moved[0]}]}
    assert offsets_table(still).splitlines()[2:] == ["| offsets off | off | off | 1.000 | 0.000 |"]


def test_the_cost_of_a_run_is_read_from_its_progress(tmp_path):
    """192 photos at 96 a second and 96 at 48: 4 s, validation left out."""
    lines = [{"step": 0, "recall@1": 0.1}]
    lines += [
        {"step": 2, "images_seen": 192, "images_per_second": 96.0},
        {"step": 3, "images_seen": 288, "images_per_second": 48.0},
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"step": 3, "recall@1": 0.2}])))
    assert cost_of(tmp_path) == {"run": tmp_path.name, "steps": 3, "images": 288, "seconds": 4.0}


def test_rows_see_as_many_photos_and_differ():
    assert {sum(stage.steps for stage in row.stages) for row in ROWS if row.name != "teacher"} == {2 * STEPS}
    meanings = {json.dumps([row.student, str(row.stages), row.teacher]) for row in ROWS}
    assert len({row.name for row in ROWS}) == len(ROWS) == len(meanings)


def test_a_row_with_another_seed_in_place_of_one_lacks_nothing(tmp_path):
    """Of seeds 0 to 4: a run of seed 7 spares one of them, and of the teacher, whatever the seed, one run is enough."""
    teacher, full, *_ = ROWS
    assert (missing_seeds(teacher, tmp_path), missing_seeds(full, tmp_path)) == ([0], [0, 1, 2, 3, 4])
    for name in ("full-0", "full-7", "full_other-1", "teacher-3"):
        (tmp_path / f"{name}.json").touch()
    assert (missing_seeds(teacher, tmp_path), missing_seeds(full, tmp_path)) == ([], [1, 2, 3])


def test_a_teacher_is_measured_with_the_first_of_the_seeds_that_are_asked_for():
    """With each of them it would seem to be as many teachers, of one seed each."""
    teacher, full, *_ = ROWS
    assert (asked_seeds(teacher, [7, 6]), asked_seeds(full, [7, 6])) == ([6], [7, 6])


def test_students_of_a_seed_share_the_vit(tmp_path):
    """All rows start from one pretrained ViT, and a seed draws what comes after it."""
    rows = {row.name: row for row in ROWS}
    pretrained = save_folder(load_or_make(str(CONFIGS / "student_small.json"), 9), tmp_path / "pretrained")
    students = {}
    for name, seed in (("full", 0), ("no_fusion", 0), ("full", 1)):
        make_student(rows[name], seed, pretrained, tmp_path / f"{name}-{seed}")
        students[name, seed] = load_model(tmp_path / f"{name}-{seed}").state_dict()
    vit, head = "encoder.layers.0.attention.qkv.weight", "recovery.projection.weight"
    wanted = load_model(pretrained).state_dict()[vit]
    assert all(torch.equal(student[vit], wanted) for student in students.values())
    assert torch.equal(students["full", 0][head], students["no_fusion", 0][head])
    assert not torch.equal(students["full", 0][head], students["full", 1][head])
    assert not any("fusion" in name for name in students["no_fusion", 0])
