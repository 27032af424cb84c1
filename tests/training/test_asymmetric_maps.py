"""A student in its teacher's space: it searches the teacher's index, and a calibration belongs to the pair of models."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos
from d2vpr_hf.encoders.load_teacher import load_teacher
from d2vpr_hf.evaluation import Evaluation, evaluate
from d2vpr_hf.localization import Calibration, load_calibration, localize_descriptors, localize_photos
from d2vpr_hf.localization.consensus import FEATURES
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.retrieval import search_photos
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.finetune import finetune
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from d2vpr_hf.training.options import DistillOptions, FinetuneOptions
from d2vpr_hf.training.teacher_space import shared_space
from tests.command_line import run
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.photos import save
from tests.training.places import write_places


def options_of(folders, out, **changes):
    return {
        **{"photos": folders["gsv"], "model": folders["initial"], "out": str(out), "image_size": [42, 42]},
        **{"places_per_batch": 4, "images_per_place": 2, "num_workers": 0, "max_steps": 2, "learning_rate": 1e-3},
    } | changes


def train(folders, out, **changes):
    AcceleratorState._reset_state()
    best = distill(DistillOptions(**options_of(folders, out, teacher=folders["teacher"], **changes)))
    AcceleratorState._reset_state()
    return str(best)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A teacher with a narrower space than its student, its index of photos at @ names, and queries."""
    root = tmp_path_factory.mktemp("asymmetric")
    teacher = tiny_cricavpr(hidden_size=96, use_cross_image_encoder=False)
    values = {
        "gsv": str(write_places(root / "gsv")),
        "teacher": str(save_folder(teacher, root / "teacher")),
        "initial": str(save_folder(tiny_model(), root / "initial")),
        "database": str(root / "database"),
        "queries": str(root / "queries"),
    }
    for number in range(4):
        save(root / "database" / f"@{500000 + 100 * number}.0@4000000.0@32@N@{number}@.png", number)
        save(root / "queries" / f"@{500001 + 100 * number}.0@4000000.0@32@N@{number}@.png", number + 10)
    head = {"head": "linear", "head_policy": "keep", "teacher_image_size": [70, 70]}
    values["student"] = train(values, root / "run", **head)
    index_photos(values["database"], root / "index", PlaceEncoder(values["teacher"]))
    return values | {"index": str(root / "index")}


def test_the_teacher_is_written_into_the_student(folders):
    config = load_model(folders["student"]).config
    assert config.compatible_with == [PlaceEncoder(folders["teacher"]).fingerprint]
    assert PlaceEncoder(folders["student"]).compatible_with == tuple(config.compatible_with)
    assert "its queries can search maps of teacher" in (Path(folders["student"]) / "README.md").read_text()


@pytest.mark.parametrize("change", [{}, {"image_mean": [0.5, 0.5, 0.5]}, {"resample": 3}])
def test_a_teacher_that_sees_other_pixels_in_an_index_is_not_stated(folders, tmp_path, caplog, change):
    """A run normalises by the student's mean: an index of this teacher holds other descriptors than the student learns."""
    shutil.copytree(folders["teacher"], tmp_path / "teacher")
    D2VPRImageProcessor(size={"height": 70, "width": 70}, **change).save_pretrained(tmp_path / "teacher")
    options = DistillOptions(**options_of(folders, tmp_path / "run", teacher=str(tmp_path / "teacher"), image_size=[70, 70]))
    with caplog.at_level(logging.INFO):
        stated = shared_space(options, GroupedTeacher(load_teacher(tmp_path / "teacher"), "off", 2, seed=0))
    assert len(stated) == (not change) and all(name.removeprefix("image_") in caplog.text for name in change)


def test_the_student_searches_the_index_of_its_teacher_but_adds_nothing(folders):
    """Rows of two models in one index would be compared with each other."""
    index = PlaceIndex.open(folders["index"])
    student = PlaceEncoder.for_index(index, folders["student"])
    results = search_photos(index, [folders["queries"]], student)
    assert len(results) == 4 and all(len(result.matches) == 4 for result in results)
    with pytest.raises(ValueError, match="can search the index, but not add photos"):
        index_photos(folders["queries"], folders["index"], student)


@pytest.mark.parametrize("change", ["weights", "size", "stage 2"])
def test_a_changed_student_is_compatible_with_none(folders, tmp_path, change):
    """Weights, preprocessing or training that came later leave the space, whatever the configuration still states."""
    index = PlaceIndex.open(folders["index"])
    if change == "weights":
        model, encoder = load_model(folders["student"]), PlaceEncoder(folders["student"])
        model.recovery.norm.weight.data.mul_(1.5)
        encoder = PlaceEncoder(model, encoder.processor)
    elif change == "size":
        encoder = PlaceEncoder(folders["student"], image_size=70)
    else:
        initial = train(folders, tmp_path / "run", teacher_image_size=None, descriptor_weight="0", relational_weight="1")
        assert load_model(initial).config.compatible_with == []
        plain = tiny_model()
        plain.config.compatible_with = [index.settings.fingerprint]
        values = options_of(folders, tmp_path / "tuned", model=str(save_folder(plain, tmp_path / "plain")))
        tuned = finetune(FinetuneOptions(**values))
        AcceleratorState._reset_state()
        assert load_model(tuned).config.compatible_with == []
        encoder = PlaceEncoder(tuned)
    assert encoder.compatible_with == ()
    with pytest.raises(ValueError, match="built with another model"):
        search_photos(index, [folders["queries"]], encoder)


def test_two_models_are_evaluated_both_ways(folders, tmp_path):
    """The recall is that of the student's queries among the teacher's descriptors, computed by hand."""
    teacher, student = PlaceEncoder(folders["teacher"]), PlaceEncoder(folders["student"])
    evaluation = evaluate(folders["database"], folders["queries"], student, database_encoder=teacher)
    paths = [sorted(str(path) for path in (tmp_path / folders[side]).glob("*.png")) for side in ("database", "queries")]
    database, queries = teacher.encode(paths[0]).descriptors, student.encode(paths[1]).descriptors
    nearest = (queries @ database.T).argmax(axis=1)
    assert evaluation.recall()["recall@1"]["recall"] == np.mean(nearest == np.arange(4))
    assert evaluation.model.fingerprint == student.fingerprint
    assert evaluation.database_model.fingerprint == teacher.fingerprint
    evaluation.save(tmp_path / "report.json")
    assert Evaluation.load(tmp_path / "report.json").database_model == evaluation.database_model
    reverse = evaluate(folders["database"], folders["queries"], teacher, database_encoder=student)
    assert reverse.database_model.fingerprint == student.fingerprint
    of_index = evaluate(PlaceIndex.open(folders["index"]), folders["queries"], student)
    assert of_index.database_model.model_name == folders["teacher"]
    assert [query.top_match for query in of_index.queries] == [query.top_match for query in evaluation.queries]
    with pytest.raises(ValueError, match="cannot be compared"):
        evaluate(folders["database"], folders["queries"], PlaceEncoder(), database_encoder=teacher)


def test_the_commands_name_both_models(folders, tmp_path):
    report = tmp_path / "report.json"
    words = ["evaluate", "--database", folders["database"], "--queries", folders["queries"], "--model", folders["student"]]
    status, out, err = run(*words, "--database-model", folders["teacher"], "--json", report)
    assert status == 0 and f"of the database: {folders['teacher']}" in out, err
    assert json.loads(report.read_text())["database"]["model"]["name"] == folders["teacher"]
    status, _, err = run("localize", folders["index"], folders["queries"], "--model", folders["student"])
    assert status == 0 and f"Queries are encoded by {folders['student']}; the index was made by {folders['teacher']}" in err


def test_both_models_take_as_many_numbers(folders, tmp_path, caplog):
    """`--dim` of the queries and of a second model, and of an index that records it for a compatible model."""
    words = ["evaluate", "--database", folders["database"], "--queries", folders["queries"], "--model", folders["student"]]
    status, out, err = run(*words, "--database-model", folders["teacher"], "--dim", "64", "--no-cross-image-encoder")
    assert status == 0 and "of the database" in out, err
    index_photos(folders["database"], tmp_path / "index", PlaceEncoder(folders["teacher"], dim=64))
    index = PlaceIndex.open(tmp_path / "index")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        student = PlaceEncoder.for_index(index, folders["student"])
    assert student.model_options == {"dim": 64} and "was trained for the whole descriptors: the first 64" in caplog.text
    assert len(search_photos(index, [folders["queries"]], student)) == 4


def calibration_of(index, **changes):
    width = len(FEATURES)
    values = {"weights": [1.0] * width, "bias": 0.0, "means": [0.0] * width, "deviations": [1.0] * width}
    values |= {
        "thresholds": [0.5],
        "precision": [1.0],
        "coverage": [1.0],
        "radius_confidence": [0.0, 1.0],
        "radius": [9.0, 1.0],
    }
    return Calibration(**values, fingerprint=index.settings.fingerprint, **changes)


def test_a_calibration_belongs_to_the_pair(folders, tmp_path, caplog):
    """Confidences that were fitted to the teacher's similarities would be wrong for the student's."""
    index = PlaceIndex.open(folders["index"])
    teacher, student = PlaceEncoder(folders["teacher"]), PlaceEncoder(folders["student"])
    of_teacher = calibration_of(index)
    of_student = calibration_of(index, query_fingerprint=student.fingerprint, query_model=folders["student"])
    assert "query_model" not in of_teacher.to_dict() and Calibration.from_dict(of_student.to_dict()) == of_student
    for calibration, right, wrong in ((of_teacher, teacher, student), (of_student, student, teacher)):
        index.store_calibration(calibration.to_dict())
        assert load_calibration(index, right) == calibration == load_calibration(index)
        with caplog.at_level(logging.WARNING):
            assert load_calibration(index, wrong) is None
        assert "was made with queries of" in caplog.text and "neither confidence nor radius" in caplog.text
        caplog.clear()
        np.save(tmp_path / "queries.npy", index.descriptors[:].astype(np.float32))
        with caplog.at_level(logging.WARNING):
            localize_descriptors(index, tmp_path / "queries.npy", calibration)
        assert ("only if that model made the descriptors" in caplog.text) == (calibration is of_student)
        caplog.clear()
        with pytest.raises(ValueError, match="was made with queries of"):
            localize_photos(index, [folders["queries"]], wrong, calibration)
    facts = json.loads(run("info", folders["index"], "--json")[1])
    assert facts["calibrated_for"] == folders["student"]
