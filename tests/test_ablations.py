"""The table of the ablations: differences that can be computed by hand, and the rows that it compares."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks.ablations.report import compare, gate, offsets_table, recall_at_1, table, teachers_table, teaching_table
from benchmarks.ablations.report_real import real_table
from benchmarks.ablations.rows import REAL_ROWS, REAL_STEPS, ROWS, STEPS, TEACHING_ROWS
from benchmarks.ablations.run import HERE, QUEUE, cost_of, missing_seeds, seeds_to_run, stage_flags
from benchmarks.ablations.run_real import RealSetup, runs_of, training_flags
from benchmarks.ablations.students import make_student
from d2vpr_hf import PlaceEncoder
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.projection import fit_projection
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.model_setup import load_or_make
from d2vpr_hf.training.options import CONFIGS, DistillOptions, parse_options
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.training.places import write_places


def record(row, seed, hits, queries=(5, 5, 5, 5)):
    places = {f"9001-{number}": [count, hit, hit, hit] for number, (count, hit) in enumerate(zip(queries, hits, strict=True))}
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


def test_recall_is_over_all_queries():
    assert recall_at_1([record("full", 0, [5, 0, 1, 2]), record("full", 1, [5, 5, 5, 5])], "all") == pytest.approx(70)


def test_records_are_compared_by_seed():
    """Seed 1 of the reference is much better than seed 0; compared with the wrong seed, the row would seem worse."""
    reference = [record("full", 0, [1, 1, 1, 1]), record("full", 1, [4, 4, 4, 4])]
    row = [record("finetuned", seed, [hits] * 4) for seed, hits in ((1, 5), (7, 0), (0, 3))]
    difference = compare(row, reference, "standard")
    assert (difference.mean, difference.low, difference.high, difference.pairs) == pytest.approx((30, 30, 30, 2))
    assert difference.deviation == pytest.approx(200**0.5)  # 20 and 40 points
    assert difference.verdict() == "better"


def test_one_seed_gives_no_verdict():
    difference = compare([record("finetuned", 0, [5] * 4)], [record("full", 0, [0] * 4)], "standard")
    assert (difference.low, difference.deviation, difference.verdict()) == (100, 0, "one seed, not decided")


def test_places_are_resampled_and_not_queries():
    """One place makes the whole difference: over a quarter of the resamples of 4 places lack it, so the interval holds 0."""
    row, reference = (
        [record(name, seed, hits) for seed in (0, 1)] for name, hits in (("a", [5, 1, 1, 1]), ("full", [0, 1, 1, 1]))
    )
    difference = compare(row, reference, "all")
    assert (difference.mean, difference.low) == pytest.approx((25, 0)) and difference.high >= 50
    assert difference.verdict() == "not significant"


def test_a_small_difference_is_called_small():
    queries = (100,) * 4
    row, reference = ([record(name, seed, [hits] * 4, queries) for seed in (0, 1)] for name, hits in (("a", 51), ("full", 50)))
    assert compare(row, reference, "all").verdict() == "better, too small to matter"


def test_a_table_has_a_line_for_each_row_with_records():
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


def test_each_teacher_is_compared_with_the_students_of_its_seeds():
    """20 queries: a query is 5 points. The second teacher, from seed 2 on, equals its students, and so decides the gate."""
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


def test_offsets_are_averaged_over_seeds_and_models_without_offsets_omitted():
    moved = [{"mean_offset": part, "clamped": 0.5, "mean_scale": 1.0, "scale_deviation": 0.0} for part in (0.1, 0.3)]
    full = [record("full", seed, [1] * 4) | {"offsets": numbers} for seed, numbers in enumerate(moved)]
    lines = offsets_table({"full": full, "teacher": [record("teacher", 0, [1] * 4)]}).splitlines()
    assert lines[2:] == ["| distilled, then fine-tuned | 0.200 | 0.500 | 1.000 | 0.000 |"]
    still = {"no_offsets": [record("no_offsets", 0, [1] * 4) | {"offsets": moved[0]}]}
    assert offsets_table(still).splitlines()[2:] == ["| offsets off | off | off | 1.000 | 0.000 |"]


@pytest.mark.parametrize("row", TEACHING_ROWS, ids=lambda row: row.name)
def test_rows_of_the_queue_are_options_of_a_run(tmp_path, row):
    """A row whose options contradict each other would stop the queue after hours."""
    (stage,) = row.stages
    flags = stage_flags(tmp_path, tmp_path / "out", tmp_path / "model", row, stage, 6)
    options = parse_options(DistillOptions, [str(HERE / "stage.yaml"), *flags])
    teacher = tmp_path / ("teacher" if row.teacher == "plain" else "projected-teacher") / "best"
    assert options.max_steps == 2 * STEPS and options.teachers == [str(teacher)]
    assert row in QUEUE and row.runs == 3


@pytest.mark.slow
def test_rows_of_the_queue_take_a_step(tmp_path):
    """Tiny models in place of the teachers and the student; all else is that of the queue."""
    write_places(tmp_path / "places", places_per_city=12)
    (tmp_path / "towns").mkdir()
    teacher = save_folder(tiny_cricavpr(use_cross_image_encoder=False), tmp_path / "teacher" / "best")
    fit_projection(tmp_path / "places", tmp_path / "projected-teacher" / "best", PlaceEncoder(str(teacher)), 8)
    student = save_folder(tiny_model(), tmp_path / "student")
    for row in TEACHING_ROWS:
        (stage,) = row.stages
        flags = stage_flags(tmp_path, tmp_path / row.name, student, row, replace(stage, steps=1), 6)
        AcceleratorState._reset_state()
        best = distill(parse_options(DistillOptions, [str(HERE / "stage.yaml"), *flags, "--num-workers", "0"]))
        assert (best / "model.safetensors").is_file(), row.name
    AcceleratorState._reset_state()


def test_rows_on_teaching_are_compared_with_distillation_alone():
    records = {
        name: [record(name, seed, [hits] * 4) for seed in (6, 7)] for name, hits in (("distilled", 1), ("relational", 2))
    }
    lines = teaching_table(records).splitlines()
    assert lines[2].startswith("| distilled only |") and "+20.0 (+20.0 to +20.0; ±0.0 over seeds): better" in lines[3]
    assert teaching_table({"distilled": records["distilled"]}) == ""


def test_the_cost_of_a_run_is_read_from_its_progress(tmp_path):
    """192 photos at 96 a second and 96 at 48: 4 s, without validation."""
    lines = [{"step": 0, "recall@1": 0.1}]
    lines += [
        {"step": 2, "images_seen": 192, "images_per_second": 96.0},
        {"step": 3, "images_seen": 288, "images_per_second": 48.0},
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"step": 3, "recall@1": 0.2}])))
    assert cost_of(tmp_path) == {"run": tmp_path.name, "steps": 3, "images": 288, "seconds": 4.0}


def test_rows_have_the_same_number_of_photos_and_differ():
    assert {sum(stage.steps for stage in row.stages) for row in ROWS if row.name != "teacher"} == {2 * STEPS}
    meanings = {json.dumps([row.student, str(row.stages), row.teacher]) for row in ROWS}
    assert len({row.name for row in ROWS}) == len(ROWS) == len(meanings)


def test_runs_with_other_seeds_count_for_a_row(tmp_path):
    """A run with seed 7 replaces one of the seeds 0 to 4; for the teacher, one run with any seed is enough."""
    teacher, full, *_ = ROWS
    assert (missing_seeds(teacher, tmp_path), missing_seeds(full, tmp_path)) == ([0], [0, 1, 2, 3, 4])
    for name in ("full-0", "full-7", "full_other-1", "teacher-3"):
        (tmp_path / f"{name}.json").touch()
    assert (missing_seeds(teacher, tmp_path), missing_seeds(full, tmp_path)) == ([], [1, 2, 3])


def test_a_teacher_is_measured_with_the_first_of_the_given_seeds():
    """With each of the seeds, it would seem to be several teachers, each with one seed."""
    teacher, full, *_ = ROWS
    assert (seeds_to_run(teacher, [7, 6]), seeds_to_run(full, [7, 6])) == ([6], [7, 6])


def test_students_of_a_seed_share_the_vit(tmp_path):
    """All rows start from one pretrained ViT, and a seed draws the modules after it."""
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


def real_record(row, seed, **hits):
    """Make a record of four places of five queries in each set."""
    stages = [{"run": "0-distill", "steps": 1, "images": 96, "seconds": 120.0}] if row != "teacher" else []
    places = {name: record(row, seed, set_hits)["places"]["all"] for name, set_hits in hits.items()}
    return record(row, seed, [0] * 4) | {"stages": stages, "places": places, "student": "small", "vit": "abc"}


def test_sets_count_equally_in_a_mean():
    """+20 points in one set of four queries and -10 in one of 40 are +5 on average."""
    row, reference = ([{"seed": 0, "places": {"a": {"p": [10, 2 + gain]}, "b": {"p": [40, 20 - 2 * gain]}}}] for gain in (2, 0))
    assert compare(row, reference, "a", "b").mean == pytest.approx(5)
    assert compare(row, reference, "b").mean == pytest.approx(-10)


def test_the_mean_of_sets_resamples_the_places_of_each():
    """All places of both sets gain alike, so that every draw gives the same mean."""
    full, better = (
        [real_record(name, seed, walks=[hits] * 4, views=[hits + 1] * 4, light=[hits] * 4) for seed in (0, 1)]
        for name, hits in (("full", 2), ("better", 3))
    )
    difference = compare(better, full, "walks", "views", "light")
    assert (difference.mean, difference.low, difference.high) == pytest.approx((20, 20, 20))


def test_the_table_of_real_photos_has_a_line_for_each_row():
    sets = {"walks": [1, 2, 3, 4], "views": [5] * 4, "light": [0] * 4}
    records = {
        "teacher": [real_record("teacher", 0, **sets, corridor=[4] * 4)],
        "full": [real_record("full", seed, **sets, corridor=[4] * 4) for seed in (0, 1)],
        "no_offsets": [real_record("no_offsets", seed, **sets | {"light": [3] * 4}, corridor=[0] * 4) for seed in (0, 1)],
    }
    lines = real_table(records).splitlines()
    assert lines[0].split(" | ")[5:9] == ["walks", "views", "light", "corridor"]
    assert lines[2] == "| the teacher, frozen | 1 | 1.00 | 0 | 0 | 50.0 | 100.0 | 0.0 | 80.0 | 50.0 |  |"
    assert lines[3] == "| four taps, offsets, scales, fusion | 2 | 1.00 | 96 | 2 | 50.0 | 100.0 | 0.0 | 80.0 | 50.0 |  |"
    assert lines[4].endswith("| 60.0 | 0.0 | 70.0 | +20.0 (+20.0 to +20.0; ±0.0 over seeds): better |")
    records["full"][0]["vit"] = "another"
    with pytest.raises(ValueError, match="Remove those of all but one"):
        real_table(records)


def test_rows_on_real_photos_differ_in_one_respect_and_see_the_same_photos():
    full = next(row for row in REAL_ROWS if row.name == "full")
    for row in REAL_ROWS[2:]:
        changes = len(row.student) + sum(value != full.stages[0].options[name] for name, value in row.stages[0].options.items())
        assert changes == 1 and [stage.steps for stage in row.stages] == [REAL_STEPS]
    assert len({row.name for row in REAL_ROWS}) == len(REAL_ROWS)


def test_the_frozen_teacher_is_measured_once():
    teacher, full, *_ = REAL_ROWS
    assert runs_of([teacher, full], [3, 4]) == [(teacher, 3), (full, 3), (full, 4)]


def test_a_run_on_real_photos_has_the_options_of_its_recipe_and_row(tmp_path):
    setup = RealSetup(tmp_path, tmp_path / "work", "teacher", "vit", "student_small")
    row = next(row for row in REAL_ROWS if row.name == "descriptors_only")
    recipe, *flags = training_flags(setup, row, row.stages[0], 2, tmp_path / "run" / "0-distill")
    options = parse_options(DistillOptions, [recipe, *flags])
    assert (options.seed, options.token_cosine_weight, options.teacher_view) == (2, 0, "clean")
    assert options.max_steps * options.places_per_batch * options.images_per_place == 24576
    assert sum(options.source_weights) == options.places_per_batch
    assert options.model == str(tmp_path / "run" / "start") and options.learning_rate_factors == ["aggregator.sampler.*=0.01"]
