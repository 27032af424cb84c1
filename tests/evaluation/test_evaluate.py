"""Evaluation of folders of photos, from Python and from the command line."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.cli import app
from d2vpr_hf.encoders import EncodedPhotos
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import Evaluation, PositiveRule, compare_evaluations, evaluate
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.modeling import D2VPRImageProcessor
from tests.command_line import run, run_program
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.photos import at_name, save, save_bad_files


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return PlaceEncoder(tiny_folder, batch_size=4)


@pytest.fixture
def world(tmp_path):
    """Six places 100 m apart in a folder with an @ in its name, and queries that are the same photos 3 m away.

    The last query is 1.5 km away from the whole database.
    """
    for i in range(6):
        save(tmp_path / "@home@" / "database" / at_name(544000 + 100 * i, 4172000), i)
        east = 544003 + 100 * i if i < 5 else 546000
        save(tmp_path / "@home@" / "queries" / at_name(east, 4172000).replace("@@.jpg", f"@{['day', 'night'][i % 2]}@.jpg"), i)
    return tmp_path / "@home@"


class MeanColours:
    """An encoder of another program, with no more than the attributes of `Encoder`."""

    descriptor_dim, projection_dim = 12, None
    model_name, fingerprint = "mean-colours", "c" * 64
    batch_size, depends_on_batch = 1, False
    runtime = Runtime("torch", "fp32")

    def encode(self, photos, progress=None, *, order=None):
        rows = []
        for photo in photos:
            image = Image.open(photo() if callable(photo) else photo).convert("RGB").resize((2, 2))
            rows.append(np.asarray(image, np.float32).ravel() + 1)
            if progress is not None:
                progress(1)
        descriptors = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
        return EncodedPhotos(descriptors.astype(np.float32), np.arange(len(rows)), {})


def test_an_encoder_of_another_program_is_evaluated_and_compared(world, encoder, tmp_path):
    evaluation = evaluate(
        world / "database", world / "queries", MeanColours(), shuffle_check=True, save_descriptors=tmp_path / "d"
    )
    assert evaluation.recall() == evaluation.shuffled.recall()
    assert evaluation.recall()["recall@1"]["recall"] == pytest.approx(5 / 6)
    assert evaluation.model.to_dict() | {"name": "mean-colours", "resolution": None} == evaluation.model.to_dict()
    assert "mean-colours" in str(evaluation.model) and "given by the user" not in evaluation.to_text()
    evaluation.save(tmp_path / "a.json")
    other = evaluate(world / "database", world / "queries", encoder)
    notes = compare_evaluations(Evaluation.load(tmp_path / "a.json"), other).notes
    assert notes == ["The models' resolutions differ: None and [70, 70]."]


def test_without_the_cross_image_encoder_the_order_does_not_matter(world, tmp_path):
    save_folder(tiny_cricavpr(), tmp_path / "model")
    command = ["evaluate", "--database", str(world / "database"), "--queries", str(world / "queries"), "--shuffle-check"]
    command += ["--model", str(tmp_path / "model"), "--json", str(tmp_path / "a.json"), "--no-cross-image-encoder"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["model"]["cross_image_encoder"] is False
    assert report["recall"] == report["shuffled"]["recall"]
    with pytest.raises(ValueError, match="has no cross-image encoder to use"):
        PlaceEncoder(cross_image_encoder=True)


def test_recall_of_six_places_by_hand(encoder, world):
    """Each query's top match is the equal photo: five queries are found, the sixth has no positive."""
    evaluation = evaluate(world / "database", world / "queries", encoder, recall_values=[10, 1])
    recall = evaluation.recall()["recall@1"]
    assert recall["recall"] == pytest.approx(5 / 6) and recall["recall_with_positives"] == 1.0
    assert evaluation.num_without_positives == 1 and evaluation.rule.positive_dist_threshold == 25
    assert [query.distance for query in evaluation.queries[:5]] == pytest.approx([3.0] * 5)
    assert evaluation.queries[5].first_positive_rank is None and not evaluation.queries[5].correct
    assert [entry["condition"] for entry in evaluation.conditions()] == ["day", "night"]
    assert evaluation.model.to_dict() == {
        "name": encoder.model_name,
        "fingerprint": encoder.fingerprint,
        "descriptor_dim": encoder.descriptor_dim,
        "projection_dim": None,
        "resolution": [70, 70],
        "batch_size": 4,
        "cross_image_encoder": False,
        "device": encoder.device.type,
        "backend": "torch",
        "precision": "fp32",
    }


def test_shuffling_changes_similarities_only_with_a_cross_image_encoder(tiny_folder, world):
    """Descriptors must be assigned to their photos after shuffling; only a cross-image encoder may change them."""
    for model, stays_the_same in ((tiny_model(), True), (tiny_model(use_cross_image_encoder=True), False)):
        encoder = PlaceEncoder(model, D2VPRImageProcessor.from_pretrained(tiny_folder), batch_size=3)
        evaluation = evaluate(world / "database", world / "queries", encoder, shuffle_check=True)
        assert (evaluation.order_seed, evaluation.shuffled.order_seed) == (None, 0)
        assert evaluation.model.cross_image_encoder is not stays_the_same
        similarities, shuffled_similarities = (
            [query.similarity for query in run.queries] for run in (evaluation, evaluation.shuffled)
        )
        assert np.allclose(similarities, shuffled_similarities, atol=1e-5) is stays_the_same
        assert [query.path for query in evaluation.queries] == [query.path for query in evaluation.shuffled.queries]
        assert "shuffled (seed 0): recall@1" in evaluation.to_text()
        assert evaluation.to_dict()["shuffled"]["recall"].keys() == evaluation.recall().keys()


def test_photos_of_two_utm_zones_are_compared_on_the_sphere(encoder, world, caplog):
    """Eastings of two UTM zones cannot be subtracted; zone letters within a hemisphere do not matter."""
    save(world / "queries" / at_name(544000, 4172000, zone="10@T"), 1)
    assert evaluate(world / "database", world / "queries", encoder).coordinates == "metres"
    save(world / "queries" / at_name(544000, 4172000, zone="11@S"), 1)
    evaluation = evaluate(world / "database", world / "queries", encoder)
    assert evaluation.coordinates == "degrees"
    distances = [query.distance for query in evaluation.queries if "@10@S@" in query.path][:5]
    assert distances == pytest.approx([3.0] * 5, abs=0.01)
    far = next(query for query in evaluation.queries if "@11@S@" in query.path)
    assert far.num_positives == 0
    assert far.distance == pytest.approx(529_000, rel=0.01)  # six degrees at 37.7 degrees north
    assert evaluation.distance_error()["median"] == pytest.approx(3, abs=0.01)
    assert "on the sphere" in evaluation.to_text()


def test_positions_are_compared_within_one_local_frame_only(encoder, tmp_path):
    """Positions of a robot: photos on different floors are different places, and local frames are not mixed."""
    for side in ("database", "queries"):
        for i in range(2):
            save(tmp_path / side / f"{i}.png", i)
    (tmp_path / "database" / "p.csv").write_text("path,x,y,z,frame,yaw\n0.png,0,0,0,hall,0\n1.png,0,0,30,hall,180\n")
    table = tmp_path / "queries" / "p.csv"
    table.write_text("path,x,y,z,frame,yaw\n0.png,1,0,0,hall,350\n1.png,1,0,30,hall,350\n")
    evaluation = evaluate(tmp_path / "database", tmp_path / "queries", encoder)
    assert evaluation.num_positives.tolist() == [1, 1] and evaluation.queries[1].position == [1.0, 0.0, 30.0]
    facing = evaluate(tmp_path / "database", tmp_path / "queries", encoder, PositiveRule(heading_tolerance=20))
    assert facing.num_positives.tolist() == [1, 0]
    table.write_text("path,x,y,frame\n0.png,1,0,roof\n1.png,1,0,roof\n")
    with pytest.raises(ValueError, match=r"the local frame hall, 0\.png in the local frame roof"):
        evaluate(tmp_path / "database", tmp_path / "queries", encoder)
    table.write_text("path,x,y,frame\n0.png,1,0,hall\n1.png,1,0,hall\n")
    with pytest.raises(ValueError, match=r"2 of 2 in the queries have none, 0\.png first"):
        evaluate(tmp_path / "database", tmp_path / "queries", encoder, PositiveRule(heading_tolerance=20))


def test_frame_numbers_follow_the_order_of_names(encoder, tmp_path):
    """A data set without positions, such as Nordland: 9.png comes before 10.png, and an unreadable photo counts as a frame."""
    for side in ("database", "queries"):
        for i in range(8, 13):
            save(tmp_path / side / f"{i}.png", i)
    (tmp_path / "database" / "9.png").write_bytes(b"")
    rule = PositiveRule(frame_tolerance=1)
    evaluation = evaluate(tmp_path / "database", tmp_path / "queries", encoder, rule)
    counts = {query.path: (query.num_positives, query.correct) for query in evaluation.queries}
    assert counts["8.png"] == (1, True) and counts["9.png"][0] == 2 and counts["10.png"] == (2, True)
    assert counts["12.png"] == (2, True) and evaluation.rule.to_dict()["positive_dist_threshold"] is None
    assert evaluation.distance_error() is None and "within 1 frames" in evaluation.to_text()
    (tmp_path / "queries" / "8.png").unlink()
    fewer = evaluate(tmp_path / "database", tmp_path / "queries", encoder, rule)
    assert [query.num_positives for query in fewer.queries] == [counts[query.path][0] for query in fewer.queries]
    (tmp_path / "queries" / "9.png").rename(tmp_path / "queries" / "night.png")
    with pytest.raises(ValueError, match="both need the same number of photos; got 5 and 4"):
        evaluate(tmp_path / "database", tmp_path / "queries", encoder, rule)


def test_photos_without_position_or_pixels_are_skipped_and_listed(encoder, tmp_path, world, caplog):
    with pytest.raises(ValueError, match=r"None of the 1 photos in .* has a position"):
        evaluate(world / "database", save(tmp_path / "plain" / "a.jpg", 0).parent, encoder)
    table = tmp_path / "plain" / "p.csv"
    bad = save_bad_files(tmp_path / "plain")
    table.write_text("path,x,y\na.jpg,0,0\nb.jpg,,\n" + "".join(f"{name},0,0\n" for name in bad))
    evaluation = evaluate(table.parent, table, encoder)
    assert (
        evaluation.skipped["database"].keys() == {"b.jpg", *bad}
        and evaluation.skipped["queries"]["b.jpg"] == "no position in metres"
    )
    assert evaluation.database["count"] == evaluation.query_set["count"] == len(evaluation.queries) == 1
    assert "5 of 6 photos were skipped" in caplog.text
    with pytest.raises(ValueError, match="5 of 6 photos were skipped"):
        evaluate(table.parent, table, encoder, strict=True)


def test_descriptors_are_saved_as_indexes(encoder, world, tmp_path):
    evaluation = evaluate(world / "database", world / "queries", encoder, save_descriptors=tmp_path / "saved")
    index = PlaceIndex.open(tmp_path / "saved" / "database")
    queries = PlaceIndex.open(tmp_path / "saved" / "queries")
    tops = [matches[0].place.path for matches in index.search(queries.descriptors[:], 1)]
    assert tops == [query.top_match for query in evaluation.queries] and index.settings.fingerprint == encoder.fingerprint
    with pytest.raises(FileExistsError, match="exists already"):
        evaluate(world / "database", world / "queries", encoder, save_descriptors=tmp_path / "saved")
    evaluate(world / "database", world / "queries", encoder, save_descriptors=tmp_path / "saved", overwrite=True)


def test_the_command_line_writes_equal_reports_plots_and_a_comparison(world, tmp_path):
    """The embedded model gives the same bytes twice, plots, and a comparison with itself."""
    sides = ("--database", world / "database", "--queries", world / "queries")
    options = ("--recall-values", "5,1", "--recall-values", "3", "--shuffle-check")
    status, out, err = run_program("evaluate", *sides, *options, "--json", tmp_path / "a.json", "--plots", tmp_path / "plots")
    assert status == 0, err
    assert re.search("R@5 +R@1 +R@3\n", out) and "1 queries have none and count as misses" in out
    for name in ("map.png", "precision_coverage.png", "right.png", "wrong.png"):
        assert Image.open(tmp_path / "plots" / name).width > 500
    status, out, err = run("evaluate", *sides, *options, "--json", tmp_path / "b.json")
    assert status == 0, err
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["recall_values"] == [5, 1, 3] and report["shuffled"]["order_seed"] == 0
    assert report["database"]["path"] == str(world / "database") and report["model"]["name"] == "embedded"
    status, out, err = run("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert status == 0 and "+0.0" in out, err
    report_of_10_m = Evaluation.load(tmp_path / "a.json").to_dict() | {"positives": PositiveRule(10.0).to_dict()}
    (tmp_path / "c.json").write_text(json.dumps(report_of_10_m))
    status, out, err = run("compare", tmp_path / "a.json", tmp_path / "c.json")
    assert status == 1 and "within 25 m in the first, within 10 m in the second" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recall-values", "1,x"], "Expected `--recall-values 1,5,10`, whole numbers from 1, got '1,x'"),
        (["--recall-values", "0"], "got '0'"),
        (["--positive-dist-threshold", "5", "--frame-tolerance", "1"], "Give either --positive-dist-threshold or"),
        (["--positive-dist-threshold", "-5"], "above 0 metres, got -5"),
        (["--json", "{world}/queries"], "is a folder"),
        (["--plots", "{world}/queries/plots"], "is in a folder of photos"),
        (["--plots", "{world}/file/plots"], "is a file, so that"),
        (["--json", "{world}/file/a.json"], "is a file, so that"),
    ],
)
def test_errors_are_reported_before_photos_are_encoded(world, options, message, monkeypatch):
    monkeypatch.setattr(
        PlaceEncoder, "encode", lambda *arguments, **options: pytest.fail("photos were encoded before the check")
    )
    (world / "file").touch()
    filled = [option.format(world=world) for option in options]
    arguments = ["evaluate", "--database", str(world / "database"), "--queries", str(world / "queries"), *filled]
    status, _, err = run(*arguments)
    assert status == 1 and message in err


def test_reports_of_a_moved_copy_can_be_compared(encoder, world, tmp_path):
    """Paths are relative to their folders, so that a report from another machine can be compared."""
    from d2vpr_hf import compare_evaluations

    moved = shutil.copytree(world, tmp_path / "moved")
    first, second = (evaluate(folder / "database", folder / "queries", encoder) for folder in (world, moved))
    assert [row.won + row.lost for row in compare_evaluations(first, second).differences] == [0] * 4


@pytest.fixture
def copies(tmp_path):
    """Queries of which one is a copy of a database photo, one a hard link, one an equally large file, and two are others."""
    for i in range(4):
        save(tmp_path / "database" / at_name(544000 + 100 * i, 4172000), i)
    database = sorted((tmp_path / "database").iterdir())
    (tmp_path / "queries").mkdir()
    names = [at_name(544001 + 100 * i, 4172000) for i in range(5)]
    shutil.copy(database[0], tmp_path / "queries" / names[0])
    (tmp_path / "queries" / names[1]).hardlink_to(database[1])
    content = database[2].read_bytes()
    (tmp_path / "queries" / names[2]).write_bytes(content + b"0")
    with database[2].open("ab") as file:
        file.write(b"1")
    save(tmp_path / "queries" / names[3], 8)
    save(tmp_path / "queries" / names[4], 9)
    return tmp_path / "database", tmp_path / "queries", names


def test_photos_on_both_sides_are_counted_and_warned_of(encoder, copies, tmp_path, caplog):
    database, queries, names = copies
    evaluation = evaluate(database, queries, encoder)
    assert (evaluation.shared_photos, len(evaluation.queries)) == (2, 5)
    assert f"2 of 5 queries are also photos of the database, such as {names[0]} (there: @544000" in caplog.text
    assert "shared:    2 queries are photos of the database too and recall is too high" in evaluation.to_text()
    evaluation.save(tmp_path / "a.json")
    assert Evaluation.load(tmp_path / "a.json") == evaluation
    caplog.clear()
    dropped = evaluate(database, queries, encoder, drop_shared=True, strict=True)
    assert (dropped.shared_photos, [query.path for query in dropped.queries]) == (2, names[2:])
    assert dropped.database["count"] == 4
    assert dropped.skipped["queries"].keys() == set(names[:2])
    assert "2 of 5 queries are dropped" in caplog.text and "too high" not in caplog.text
    assert "2 queries are photos of the database too and are dropped" in dropped.to_text()


@pytest.mark.parametrize("copy", [False, True])
def test_a_folder_against_itself_is_warned_of(encoder, copies, tmp_path, caplog, copy):
    database = copies[0]
    queries = shutil.copytree(database, tmp_path / "copy") if copy else database
    assert evaluate(database, queries, encoder).shared_photos == 4
    assert "4 of 4 queries are also photos of the database" in caplog.text
    with pytest.raises(ValueError, match=r"All 4 queries in .* are photos of the database too"):
        evaluate(database, queries, encoder, drop_shared=True)


def test_the_command_line_drops_shared_photos(copies, tmp_path, tiny_folder):
    database, queries, _ = copies
    command = ["evaluate", "--database", str(database), "--queries", str(queries), "--model", str(tiny_folder)]
    report = json.loads((run(*command, "--json", str(tmp_path / "a.json")), tmp_path / "a.json")[1].read_text())
    assert (report["shared_photos"], report["query_set"]["count"]) == (2, 5)
    run(*command, "--drop-shared", "--json", str(tmp_path / "b.json"))
    report = json.loads((tmp_path / "b.json").read_text())
    assert (report["shared_photos"], report["query_set"]["count"], report["remarks"]) == (2, 3, {"database": [], "queries": []})


def test_remarks_of_readers_are_in_the_report(encoder, copies, caplog):
    database, queries, _ = copies
    save(database / "@eaDir" / "thumbnail.jpg", 1)
    remarks = evaluate(database, queries, encoder).to_dict()["remarks"]
    assert [remark["count"] for remark in remarks["database"]] == [1]
    assert remarks["queries"] == []
    assert "Skipped: 1 photos that are thumbnails" in caplog.text
