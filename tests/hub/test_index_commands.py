"""Commands take an index from the Hub where others take a folder, and say so where they cannot."""

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from d2vpr_hf import PlaceEncoder, PlaceIndex, index_photos
from d2vpr_hf.cli import app
from d2vpr_hf.hub.thumbnails import read_thumbnails
from tests.hub_server import TOKEN
from tests.photos import save_row


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def output(*arguments) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, done.exception or done.output
    return done.output


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An index of nine photos, and its photos."""
    folder = tmp_path_factory.mktemp("built")
    photos = save_row(folder / "photos")
    index, _ = index_photos(photos, folder / "index", PlaceEncoder())
    return index.folder, photos


@pytest.fixture
def pushed(hub, built):
    assert output("push", built[0], "user/map", "--thumbnails").startswith(f"{hub.endpoint}/datasets/user/map/commit/")
    return hub


def test_an_index_on_the_hub_is_searched_as_the_folder(pushed, built, tmp_path):
    folder, photos = built
    query = sorted(photos.iterdir())[3]
    for command in (["search"], ["search", "--json", "--top-k", 2], ["search", "--near", "37.7,-122.5,100000"], ["localize"]):
        local, remote = (output(command[0], index, query, *command[1:]) for index in (folder, "user/map"))
        assert remote == local or remote.replace(f"{photos}/", "") == local.replace(f"{photos}/", "")
    assert output("verify", "user/map") == "user/map is undamaged.\n"
    facts = json.loads(output("info", "user/map", "--json"))
    assert (facts["model"], facts["photos"], facts["count"]) == ("embedded", "", 9)
    commit = pushed.repositories["datasets", "user/map"].commits[-1][0]
    assert output("verify", f"user/map@{commit}") == f"user/map@{commit} is undamaged.\n"


def test_a_plot_shows_thumbnails(pushed, built, tmp_path, monkeypatch):
    from d2vpr_hf import figures

    drawn = []
    read = figures._thumbnail
    monkeypatch.setattr(figures, "_thumbnail", lambda photo: drawn.append(photo) or read(photo))
    query = sorted(built[1].iterdir())[3]
    output("search", "user/map", query, "--top-k", "2", "--plot", tmp_path / "plot.png")
    thumbnails = read_thumbnails(PlaceIndex.from_pretrained("user/map", thumbnails=True).folder)
    assert drawn[0] == query and drawn[1] == thumbnails[query.name] and len(drawn) == 3


def test_an_index_on_the_hub_is_not_changed(pushed, built):
    photo = next(built[1].iterdir())
    for command in (["add", photo], ["remove", photo], ["repair"], ["compact"], ["calibrate", "--queries", built[1]]):
        done = run(command[0], "user/map", *command[1:])
        assert "an index on the Hub cannot be changed there. Copy it with `hf download user/map" in str(done.exception)


def test_a_missing_index_is_named(hub, tmp_path):
    assert "There is no index folder user/none, and the Hub gave no data set" in str(run("info", "user/none").exception)
    assert "is not an index" in str(run("info", tmp_path / "none").exception)
    assert "is not an index" in str(run("info", "none").exception)
    assert not [request for request in hub.requests if "/none" in request and "user" not in request]


def test_damage_of_a_downloaded_index(pushed):
    fetched = PlaceIndex.from_pretrained("user/map").folder
    file = next(fetched.glob("descriptors-*")).resolve()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert "`hf download user/map --repo-type dataset --force-download`" in str(run("verify", "user/map").exception)


def test_a_copy_is_updated_with_the_photos(pushed, built, tmp_path):
    """The photos are not encoded again: the index has their hashes."""
    copy = shutil.copytree(PlaceIndex.from_pretrained("user/map").folder, tmp_path / "copy")
    assert "0 added, 0 changed, 0 removed, 9 kept." in output("index", built[1], "--out", copy)
    assert PlaceIndex.open(copy).settings.photo_folder == built[1]


def test_push_names_flags(hub, built, tiny_folder, tmp_path):
    index, _ = index_photos(built[1], tmp_path / "index", PlaceEncoder(tiny_folder))
    message = str(run("push", index.folder, "user/map").exception)
    assert "`--model user/model`" in message and "`--push-model user/model`" in message
    assert "Give either `--model` or `--push-model`" in str(
        run("push", index.folder, "user/map", "--model", "user/a", "--push-model", "user/b").exception
    )
    assert "`--thumbnail-size` needs `--thumbnails`" in str(run("push", built[0], "user/map", "--thumbnail-size", 9).exception)
    message = str(run("push", "embedded", "user/model", "--thumbnails", "--model", "user/other").exception)
    assert "embedded is not an index. Omit `--model`, `--thumbnails`." in message
    assert not hub.repositories
    done = json.loads(output("push", index.folder, "user/map", "--push-model", "user/model", "--private", "--json"))
    assert done["kind"] == "index" and hub.repositories["models", "user/model"].private
    assert json.loads(output("info", "user/map", "--json"))["model"] == "user/model"


@pytest.mark.slow  # tests/hub/test_walk.py asks more
def test_another_person_gets_the_same_answers(hub, tiny_folder, tmp_path):
    """Another process with an empty cache and without the folders of the first: only the private repositories and a token."""
    model = shutil.copytree(tiny_folder, tmp_path / "first" / "model")
    photos = save_row(tmp_path / "first" / "photos")
    index, _ = index_photos(photos, tmp_path / "first" / "index", PlaceEncoder(model))
    query = shutil.copy(sorted(photos.iterdir())[3], tmp_path / "query.jpg")
    answers = json.loads(output("search", index.folder, query, "--json"))
    output("push", index.folder, "user/map", "--push-model", "user/model", "--private", "--thumbnails")
    shutil.rmtree(tmp_path / "first")
    arguments = ["search", "user/map", query, "--json", "--plot", str(tmp_path / "plot.png")]
    environment = {"PATH": "/usr/bin:/bin"} | hub.environment(tmp_path / "home", TOKEN)
    command = [sys.executable, "-m", "d2vpr_hf", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace('"path": "', f'"path": "{photos}/') == json.dumps(answers, indent=2) + "\n"
    assert (tmp_path / "plot.png").is_file() and set(hub.unknown_requests) <= {"GET /api/agent-harnesses"}
