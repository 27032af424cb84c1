"""Descriptors of another program become an index that is searched, extended and evaluated without the photos or a model."""

import json
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import evaluate_descriptor_files
from d2vpr_hf.hub.index_models import check_model_to_push, find_public_model
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.retrieval import index_descriptors, search_descriptors, search_photos
from tests.command_line import run
from tests.readers.test_descriptor_files import unit_rows, write_table


def _paths(start: int, stop: int) -> list[str]:
    return [f"{number}.jpg" for number in range(start, stop)]


def _write(folder: Path, rows: np.ndarray, start: int = 0, name: str = "d") -> tuple[Path, Path]:
    """Write a file of descriptors and the table of their places."""
    np.save(folder / f"{name}.npy", rows)
    return folder / f"{name}.npy", write_table(folder, _paths(start, start + len(rows)), f"{name}.csv")


def test_an_index_is_built_and_searched_as_by_a_product(tmp_path: Path) -> None:
    rows, queries = unit_rows(40), unit_rows(5, seed=1)
    file, table = _write(tmp_path, rows)
    index, report = index_descriptors(file, table, tmp_path / "index", name="megaloc-322", dtype="float32")
    assert (report.added, report.replaced, report.kept) == (40, 0, 0)
    settings = index.settings
    assert (settings.model_name, settings.descriptor_name, settings.descriptor_dim) == (None, "megaloc-322", 5)
    np.save(tmp_path / "q.npy", queries)
    results = search_descriptors(PlaceIndex.open(tmp_path / "index"), tmp_path / "q.npy", top_k=3)
    similarities = queries @ rows.T
    for row, result in enumerate(results):
        best = np.argsort(-similarities[row])[:3]
        assert [match.place.path for match in result.matches] == [f"{number}.jpg" for number in best]
        np.testing.assert_allclose([match.similarity for match in result.matches], similarities[row, best], atol=1e-5)
    assert [str(result.query) for result in results] == [f"q.npy[{row}]" for row in range(5)]


def test_later_rows_of_the_same_name_are_added_and_others_refused(tmp_path: Path) -> None:
    out = tmp_path / "index"
    index_descriptors(*_write(tmp_path, unit_rows(6)), out, name="megaloc-322")
    later = _write(tmp_path, unit_rows(4, seed=2), 4, "later")
    index, report = index_descriptors(*later, out)
    assert (report.added, report.replaced, report.kept) == (2, 2, 4)
    assert sorted(index.places.column("path")) == sorted(_paths(0, 8))
    fingerprint = index.settings.fingerprint
    index_descriptors(*later, out, name="megaloc-322")
    assert PlaceIndex.open(out).settings.fingerprint == fingerprint
    with pytest.raises(ValueError, match="holds the descriptors 'megaloc-322', not 'boq'"):
        index_descriptors(*later, out, name="boq")
    with pytest.raises(ValueError, match="descriptors of 5 numbers, the file of 7"):
        index_descriptors(*_write(tmp_path, unit_rows(2, 7), 0, "wide"), out)
    index, _ = index_descriptors(*later, out, name="boq", overwrite=True)
    assert len(index) == 4
    assert PlaceIndex.open(out).settings.fingerprint != fingerprint


def test_rows_are_stored_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2vpr_hf.retrieval.given_descriptors.SHARD_SIZE", 3)
    rows, counts = unit_rows(8), []
    index, _ = index_descriptors(*_write(tmp_path, rows), tmp_path / "index", dtype="float32", progress=counts.append)
    assert counts == [3, 3, 2]
    np.testing.assert_array_equal(np.asarray(index.descriptors), rows)
    assert index.places.column("path") == _paths(0, 8)


def test_an_interrupted_build_is_completed_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2vpr_hf.retrieval.given_descriptors.SHARD_SIZE", 3)
    files = _write(tmp_path, unit_rows(8))

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_descriptors(*files, tmp_path / "index", progress=interrupt)
    begun = PlaceIndex.open(tmp_path / "index")
    assert (len(begun), begun.complete) == (3, False)
    index, report = index_descriptors(*files, tmp_path / "index")
    assert (report.added, report.replaced, index.complete) == (5, 3, True)
    assert sorted(index.places.column("path")) == _paths(0, 8)


def test_an_index_of_photos_takes_no_descriptors(tmp_path: Path) -> None:
    from d2vpr_hf.index import IndexSettings

    PlaceIndex.create(tmp_path / "index", IndexSettings("user/model", "0" * 64, 5)).flush()
    with pytest.raises(ValueError, match="were encoded by the model user/model"):
        index_descriptors(*_write(tmp_path, unit_rows(2)), tmp_path / "index")


def test_photos_cannot_search_it(tmp_path: Path) -> None:
    index, _ = index_descriptors(*_write(tmp_path, unit_rows(3)), tmp_path / "index", name="megaloc-322")
    message = "under the name 'megaloc-322', and no model of photos is recorded"
    with pytest.raises(ValueError, match=message):
        PlaceEncoder.for_index(index)

    class Other:
        fingerprint = "1" * 64

    with pytest.raises(ValueError, match=message):
        search_photos(index, [tmp_path / "a.jpg"], Other())  # type: ignore[arg-type]
    for arguments in (["search"], ["localize"], ["add"]):
        status, _, error = run(*arguments, tmp_path / "index", tmp_path / "a.jpg")
        assert (status, message in error, "embedded" in error) == (1, True, False)
    with pytest.raises(ValueError, match="An index is uploaded with the name of the model"):
        find_public_model(index.settings, None, None)
    with pytest.raises(ValueError, match="An index is uploaded with the name of the model"):
        check_model_to_push(index.settings, "user/model")


def test_queries_of_another_width_are_refused(tmp_path: Path) -> None:
    index, _ = index_descriptors(*_write(tmp_path, unit_rows(3)), tmp_path / "index")
    np.save(tmp_path / "q.npy", unit_rows(2, 4))
    with pytest.raises(ValueError, match=r"has descriptors of 4 numbers, the index .* of 5"):
        search_descriptors(index, tmp_path / "q.npy")


def test_recall_is_that_of_known_neighbours(tmp_path: Path) -> None:
    """Three queries lie at photos 0, 1 and 2 and have their descriptors; the third one has that of photo 9 instead."""
    rows = unit_rows(10)
    database = _write(tmp_path, rows, 0, "database")
    np.save(tmp_path / "queries.npy", rows[[0, 1, 9]] * 3)
    queries = tmp_path / "queries.npy", write_table(tmp_path, ["q0.jpg", "q1.jpg", "q2.jpg"], "queries.csv")
    evaluation = evaluate_descriptor_files(database, queries, recall_values=(1, 10), normalize=True)
    assert evaluation.recall()["recall@1"]["recall"] == pytest.approx(2 / 3)
    assert evaluation.recall()["recall@10"]["recall"] == 1
    assert evaluation.database["path"] == str(tmp_path)
    with pytest.raises(ValueError, match="database have 5 numbers, those of the queries 4"):
        wide = _write(tmp_path, unit_rows(3, 4), 0, "wide")
        evaluate_descriptor_files(database, wide, recall_values=(1,))


def test_places_without_a_position_are_skipped_with_their_descriptors(tmp_path: Path) -> None:
    rows = unit_rows(4)
    np.save(tmp_path / "d.npy", rows)
    (tmp_path / "d.csv").write_text("path,latitude,longitude\n0.jpg,45,7\n1.jpg,,\n2.jpg,45.01,7\n3.jpg,45.02,7\n")
    np.save(tmp_path / "q.npy", rows[[2]])
    (tmp_path / "q.csv").write_text("path,latitude,longitude\nq.jpg,45.01,7\n")
    evaluation = evaluate_descriptor_files(
        (tmp_path / "d.npy", tmp_path / "d.csv"), (tmp_path / "q.npy", tmp_path / "q.csv"), recall_values=(1,)
    )
    assert evaluation.recall()["recall@1"]["recall"] == 1
    assert list(evaluation.skipped["database"]) == ["1.jpg"]


def test_the_command_line_indexes_searches_localizes_and_evaluates(tmp_path: Path) -> None:
    rows = unit_rows(30)
    file, table = _write(tmp_path, rows)
    out = tmp_path / "index"
    status, text, error = run("index", "--descriptors", file, "--places", table, "--out", out)
    assert (status, error) == (0, "")
    assert "30 added, 0 replaced, 0 kept" in text and "under the name 'own'" in text
    status, text, _ = run("index", "--descriptors", file, "--places", table, "--out", out, "--json")
    facts = json.loads(text)
    assert (facts["replaced"], facts["descriptor_name"], facts["positions"]) == (30, "own", 30)
    np.save(tmp_path / "q.npy", rows[[7]])
    status, text, _ = run("search", out, "--descriptors", tmp_path / "q.npy", "--json")
    assert json.loads(text)[0]["matches"][0]["path"].endswith("7.jpg")
    status, text, _ = run("localize", out, "--descriptors", tmp_path / "q.npy")
    assert (status, text.startswith("q.npy[0]")) == (0, True)
    assert "none: descriptors of another program" in run("info", out)[1]
    report = tmp_path / "report.json"
    queries = ["--queries", table, "--query-descriptors", file]
    status, text, _ = run("evaluate", "--database", table, "--descriptors", file, *queries, "--json", report)
    assert status == 0
    assert json.loads(report.read_text())["model"] == {"descriptor_dim": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "--descriptors", "d.npy", "--out", "INDEX"], "--places CSV"),
        (["index", "photos", "--descriptors", "d.npy", "--places", "d.csv", "--out", "INDEX"], "Omit PHOTOS"),
        (["index", "photos", "--places", "d.csv", "--out", "INDEX"], "need `--descriptors FILE`"),
        (["search", "INDEX"], "Give either QUERY or `--descriptors FILE`"),
        (["search", "INDEX", "a.jpg", "--descriptors", "d.npy"], "Give either QUERY or `--descriptors FILE`"),
        (["localize", "INDEX", "a.jpg", "--normalize"], "belong to `--descriptors FILE`"),
        (["evaluate", "--database", "d.csv", "--queries", "d.csv", "--descriptors", "d.npy"], "--query-descriptors"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, unit_rows(2))
    status, _, error = run(*arguments)
    assert (status, message in error) == (1, True), error


def test_lengths_are_an_error_that_names_the_flag(tmp_path: Path) -> None:
    file, table = _write(tmp_path, unit_rows(2) * 2)
    status, _, error = run("index", "--descriptors", file, "--places", table, "--out", tmp_path / "index")
    assert (status, "`--normalize` divides each" in error) == (1, True)
    assert run("index", "--descriptors", file, "--places", table, "--out", tmp_path / "index", "--normalize")[0] == 0


@pytest.mark.parametrize("command", ["search", "localize"])
def test_options_of_a_model_are_refused_with_descriptors(tmp_path: Path, command: str) -> None:
    file, table = _write(tmp_path, unit_rows(3, 8))
    assert run("index", "--descriptors", file, "--places", table, "--out", tmp_path / "index")[0] == 0
    status, _, err = run(command, tmp_path / "index", "--descriptors", file, "--pool", "gem", "--model", "x")
    assert status == 1 and "Omit --model, --pool" in err
