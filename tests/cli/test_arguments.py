"""Arguments and options as people give them: twice, with `~`, of files that are missing, and the report as JSON."""

import json
import os
import re
import shutil

import pytest

from d2vpr_hf.retrieval.index_photos import index_photos
from tests.command_line import run
from tests.index.workers import BytesEncoder
from tests.photos import at_name, save, save_row


@pytest.fixture
def photos(tmp_path):
    return save_row(tmp_path / "photos")


@pytest.fixture
def index(tiny_folder, photos, tmp_path):
    assert run("index", photos, "--model", tiny_folder, "--out", tmp_path / "index")[0] == 0
    return tmp_path / "index"


# ---- options that are given twice


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["evaluate", "--database", "a", "--queries", "b", "--plots", "c", "--plots", "d"], "--plots"),
        (["index", "a", "--out", "b", "--out=c"], "--out"),
        (["index", "a", "--out", "b", "--strict", "--strict"], "--strict"),
        (["search", "a", "b", "--top-k", "3", "--model", "x", "--top-k", "4"], "--top-k"),
        (["localize", "a", "b", "--model", "x", "--model", "y"], "--model"),
        (["push-space", "user/name", "--private", "--public"], "--private/--public"),
        (["convert", "a", "b", "--seed", "1", "--seed", "1"], "--seed"),
    ],
)
def test_an_option_given_twice_is_an_error(arguments, option):
    """The parser would use the last value, and evaluate only the second set of queries."""
    status, _, err = run(*arguments)
    assert status == 2 and f"{option} is given 2 times. Give it once." in err


def test_a_field_given_twice_is_an_error(photos, tmp_path):
    columns = ("--column", "heading=a", "--column", "heading=b")
    status, _, err = run("index", photos, "--out", tmp_path / "i", *columns)
    assert status == 1 and "is given twice for heading: 'a' and 'b'" in err
    status, _, err = run("convert", "a", "b", "--as", "student", "--set", "depth=1", "--set", "depth=2")
    assert status == 1 and "is given twice for depth" in err


# ---- the home folder


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(tmp_path, monkeypatch, tiny_folder):
    """Shells expand `--out ~/x`, but not `--out=~/x`, which would make a folder named ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_row(tmp_path / "photos")
    assert run("index", "~/photos", "--out=~/index", "--model", tiny_folder)[0] == 0
    assert (tmp_path / "index").is_dir() and not (tmp_path / "~").exists()
    assert run("search", "~/index", f"~/photos/{next((tmp_path / 'photos').iterdir()).name}", "--plot=~/a.png")[0] == 0
    assert (tmp_path / "a.png").is_file()
    status, _, err = run("index", "photos", "--out=~unknown-user/index")
    assert status == 2 and "there is no home folder for ~unknown-user/index" in err


# ---- missing paths


@pytest.mark.parametrize("command", ["search", "localize"])
def test_a_missing_query_fails_after_the_others_are_answered(command, index, photos, tmp_path):
    query = next(photos.iterdir())
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("not a photo")
    for unusable in ("gone.jpg", "empty", "text.jpg"):
        status, out, err = run(command, index, query, tmp_path / unusable, photos, "--json")
        assert status == 1 and f"1 of 3 given paths could not be read: {tmp_path / unusable}" in err
        answers = json.loads(out)
        assert len(answers) == 11 and [bool(answer.get("error")) for answer in answers] == [False, True, *[False] * 9]
    (photos / "bad.jpg").write_text("a photo that cannot be read, in a folder of others")
    assert run(command, index, photos, "--json")[0] == 0


def test_a_missing_path_fails_after_the_others_are_added(index, tmp_path):
    extra = save(tmp_path / "more" / at_name(544500, 4172758), 3)
    (tmp_path / "empty").mkdir()
    for unusable in ("gone.jpg", "gone", "gone.csv", "empty"):
        status, out, err = run("add", index, tmp_path / unusable, extra.parent, "--json")
        report = json.loads(out)
        assert status == 1 and f"1 of 2 given paths could not be read: {tmp_path / unusable}" in err
        assert report["added"] + report["kept"] == 1 and list(report["skipped"]) == [str(tmp_path / unusable)]
    (tmp_path / "bad.jpg").write_text("not a photo")
    assert run("add", index, extra, tmp_path / "bad.jpg")[0] == 1
    assert run("add", index, extra, extra.parent, extra)[0] == 0  # given twice, and used
    status, _, err = run("add", index, tmp_path / "gone.jpg")
    assert status == 1 and f"There is no file or folder {tmp_path / 'gone.jpg'}" in err


# ---- the report as JSON


def test_the_report_of_an_index_is_json(tiny_folder, tmp_path, caplog):
    """Only JSON on stdout; a photo that is skipped is in it, with the reason."""
    photos = save_row(tmp_path / "photos")
    (photos / at_name(544900, 4172758)).write_text("not a photo")
    status, out, err = run("index", photos, "--model", tiny_folder, "--out", tmp_path / "index", "--json")
    report = json.loads(out)
    assert status == 0 and "1 of 10 photos were skipped" in caplog.text, err
    assert report.pop("skipped") == {at_name(544900, 4172758): "not an image"}
    assert report.pop("descriptor_dim") > 0
    assert report == {
        "index": str(tmp_path / "index"),
        "source": "names",
        "photos": 9,
        "positions": 9,
        "added": 9,
        "changed": 0,
        "removed": 0,
        "kept": 0,
        "remarks": [],
    }


# ---- sources of positions


def test_columns_of_a_csv_file_can_be_chosen(tiny_folder, tmp_path):
    photos = save_row(tmp_path / "photos")
    names = sorted(path.name for path in photos.iterdir())
    rows = [f"{name},{43 + i / 100},11,{i}" for i, name in enumerate(names)]
    (photos / "list.csv").write_text("\n".join(["path,breite,lon,compass", *rows]))
    options = ("--column", "latitude=breite", "--column", "heading=compass", "--model", tiny_folder)
    assert run("index", photos, "--out", tmp_path / "index", *options)[0] == 0
    status, out, _ = run("search", tmp_path / "index", photos / names[2], "--json", "--top-k", 1)
    assert status == 0 and json.loads(out)[0]["matches"][0]["latitude"] == 43.02
    for column, message in {
        "latitude=gone": "has the columns path, breite, lon, compass, but not gone",
        "breite=lon": "There is no field breite to fill. The fields are path, latitude",
        "latitude=": "but not",
    }.items():
        status, _, err = run("index", photos, "--out", tmp_path / "other", "--column", column)
        assert status == 1 and message in err


def test_positions_can_be_chosen_beside_an_unrelated_table(tiny_folder, tmp_path):
    """A camera's log in the folder of photos is not their table."""
    photos = save_row(tmp_path / "photos")
    (photos / "log.csv").write_text("battery,temperature\n90,21\n")
    assert run("index", photos, "--out", tmp_path / "index", "--model", tiny_folder)[0] == 1
    status, out, err = run("index", photos, "--out", tmp_path / "index", "--model", tiny_folder, "--positions", "names")
    assert status == 0 and "9 photos, 9 with a position (from: names)" in out, err
    status, out, _ = run("index", photos, "--out", tmp_path / "other", "--model", tiny_folder, "--positions", "exif")
    assert status == 0 and "(from: none)" in out
    for positions, folder, message in (
        ("csv", tmp_path / "bare", "has no CSV file to read positions from. Leave `--positions csv` out"),
        ("exif", photos / "log.csv", "log.csv is a CSV file. Leave `--positions exif` out"),
    ):
        save(tmp_path / "bare" / "a.jpg", 0)
        status, _, err = run("index", folder, "--out", tmp_path / "third", "--positions", positions)
        assert status == 1 and message in err
    status, _, err = run("index", tmp_path / "bare", "--out", tmp_path / "third", "--column", "latitude=a")
    assert status == 1 and "Leave `--column FIELD=NAME` out" in err


def test_columns_apply_to_the_side_with_a_table(tiny_folder, tmp_path):
    database, queries = save_row(tmp_path / "database"), save_row(tmp_path / "queries")
    rows = [f"{path.name},{i},0" for i, path in enumerate(sorted(queries.iterdir()))]
    (queries / "list.csv").write_text("\n".join(["path,north,x", *rows]))
    sides = ("--database", database, "--queries", queries, "--column", "y=north", "--model", tiny_folder)
    _, out, err = run("evaluate", *sides)
    assert "Queries: 9 photos, 9 with a position (from: csv)" in out, err


# ---- names of models


def test_embedded_is_a_name_everywhere(photos, tmp_path, monkeypatch):
    """Also where a folder has this name; `info` prints it, and its output is a valid --model."""
    (tmp_path / "embedded").mkdir()
    monkeypatch.chdir(tmp_path)
    for options in ((), ("--model", "embedded")):
        assert run("index", photos, "--out", "index", *options)[0] == 0
    assert "\nmodel: embedded\n" in run("info", "index")[1]
    assert json.loads(run("info", "index", "--json")[1])["model"] == "embedded"
    query = next(photos.iterdir())
    assert run("search", "index", query, "--model", "embedded")[0] == 0
    sides = ("--database", photos, "--queries", photos)
    assert run("evaluate", *sides, "--model", "embedded", "--json", "a.json")[0] == 0
    assert json.loads((tmp_path / "a.json").read_text())["model"]["name"] == "embedded"
    status, _, err = run("fit-projection", "embedded", photos, "--dim", "4", "--out", "small")
    assert (
        status == 0 and "The licence of the model that comes with d2vpr-hf" in (tmp_path / "small" / "README.md").read_text()
    ), err


class Unnamed(BytesEncoder):
    model_name = None


def test_an_index_of_an_earlier_version_may_have_no_name(photos, tmp_path):
    index, _ = index_photos(photos, tmp_path / "index", Unnamed())
    assert "\nmodel: embedded, or one that was never saved\n" in run("info", tmp_path / "index")[1]
    assert index.settings.model_name is None


@pytest.mark.parametrize("name", ["nothing", "d2vpr", "gpt2", "user/", "/nowhere", "a/b/c", "~/nothing"])
def test_a_model_without_a_user_is_not_looked_up(monkeypatch, photos, tmp_path, name):
    """A mistyped folder would wait for the Hub, or load another model."""

    def fail(*arguments, **options):
        raise AssertionError("looked up on the Hub")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    for arguments in (("index", photos, "--out", tmp_path / "i"), ("evaluate", "--database", photos, "--queries", photos)):
        status, _, err = run(*arguments, "--model", name)
        assert status == 1 and "There is no model folder" in err and "`embedded` for the model in this package" in err


def test_a_model_in_the_home_folder(monkeypatch, photos, tiny_folder, tmp_path):
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    assert run("index", photos, f"--model=~/{tiny_folder.name}", "--out", tmp_path / "index")[0] == 0
    assert json.loads(run("info", tmp_path / "index", "--json")[1])["model"] == str(tiny_folder)


def test_columns_apply_to_the_tables_among_the_arguments(index, tmp_path):
    folder, photo = save_row(tmp_path / "more"), save(tmp_path / "alone.jpg", 2)
    (tmp_path / "list.csv").write_text("path,breite,lon\nalone.jpg,43,11\n")
    columns = ("--column", "latitude=breite")
    assert run("add", index, folder, tmp_path / "list.csv", *columns)[0] == 0
    status, _, err = run("add", index, folder, *columns)
    assert status == 1 and "has no CSV file" in err
    status, _, err = run("add", index, photo, *columns)
    assert status == 1 and "alone.jpg is a photo and not a table" in err


def test_the_report_of_places_is_json(tmp_path):
    save_row(tmp_path / "photos")
    (tmp_path / "list.csv").write_text("path,lat,lon\nphotos/a.jpg,0,0\nphotos/b.jpg,0,0\n")
    options = ("--min-photos", "1", "--heading", "360", "--json", "--out", tmp_path / "out" / "places.csv")
    (tmp_path / "out").mkdir()
    status, out, err = run("places", tmp_path / "list.csv", *options)
    report = json.loads(out)
    assert status == 0, err
    assert (report["photos"], report["places"], report["groups"], report["skipped"]) == (2, 1, 1, {})
    assert [(remark["kind"], remark["count"]) for remark in report["remarks"]] == [("assumed", 2)]


def test_a_name_that_is_not_utf8_fails_after_the_others_are_added(index, photos, tmp_path):
    path = tmp_path / os.fsdecode(b"odd-\xff.jpg")
    shutil.copy(next(photos.glob("*.jpg")), path)
    status, _, err = run("add", index, path, next(photos.iterdir()))
    assert status == 1 and "1 of 2 given paths could not be read" in err


def test_a_table_of_photos_that_are_elsewhere_is_an_error(index, photos, tiny_folder, tmp_path):
    """Its paths start from another folder; thousands of skipped photos would hide that."""
    table = tmp_path / "places.csv"
    table.write_text("path,lat,lon\nphotos/a.jpg,1,2\nphotos/b.jpg,1,3\n")
    message = "None of the 2 photos that the CSV file in .* exists, such as .*photos/a.jpg"
    for arguments in (
        ("index", table, "--out", tmp_path / "i", "--model", tiny_folder),
        ("embed", table, "--out", tmp_path / "p", "--model", tiny_folder),
        ("evaluate", "--database", table, "--queries", photos, "--model", tiny_folder),
        ("add", index, table),
    ):
        status, _, err = run(*arguments)
        assert status == 1 and re.search(message, err), arguments


def test_the_reports_of_embed_and_merge_are_json(photos, tiny_folder, tmp_path):
    (photos / "@eaDir").mkdir()
    shutil.copy(next(photos.glob("*.jpg")), photos / "@eaDir" / "small.jpg")
    parts = tmp_path / "parts"
    report = json.loads(run("embed", photos, "--out", parts, "--model", tiny_folder, "--json")[1])
    assert (report["encoded"], report["total"], report["skipped"]) == (1, 1, {})
    assert [(remark["kind"], remark["count"]) for remark in report["remarks"]] == [("skipped", 1)]
    merged = json.loads(run("merge", parts, "--out", tmp_path / "merged", "--json")[1])
    assert merged["photos"] == len(list(photos.glob("*.jpg"))) and merged["skipped"] == {}
