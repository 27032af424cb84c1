"""`d2vpr localize` with sequences, from photos to all formats of answers."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.command_line import run


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A road of 12 spots 300 m apart, a drive along them with an unreadable frame, and labelled photos."""
    folder = tmp_path_factory.mktemp("town")
    rng = np.random.default_rng(0)
    spots = [rng.integers(0, 255, (7, 7, 3)) for _ in range(12)]
    for name in ("database", "labelled", "drive"):
        (folder / name).mkdir()
    rows = {"database": [], "labelled": []}
    for spot, pixels in enumerate(spots):
        _save(folder / "database" / f"{spot}.png", pixels)
        rows["database"].append((f"{spot}.png", 300 * spot))
        _save(folder / "drive" / f"frame{spot + 1}.png", pixels + rng.normal(0, 12, (7, 7, 3)))
    for query in range(130):
        noise = rng.normal(0, 12, (7, 7, 3))
        _save(folder / "labelled" / f"{query}.png", spots[query % 12] + noise if query % 3 else rng.integers(0, 255, (7, 7, 3)))
        rows["labelled"].append((f"{query}.png", 300 * (query % 12) if query % 3 else 150_000 + 300 * (query % 2)))
    for name, lines in rows.items():
        text = "".join(f"{path},{60 + x / 111_195:.8f},5\n" for path, x in lines)
        (folder / name / "places.csv").write_text("path,latitude,longitude\n" + text)
    (folder / "drive" / "frame5.png").write_bytes(b"not an image")
    assert run("index", folder / "database", "--out", folder / "index")[0] == 0
    assert run("calibrate", folder / "index", "--queries", folder / "labelled")[0] == 0
    return folder


def _save(path, pixels):
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.resize((56, 56), Image.Resampling.BICUBIC).save(path)


def test_a_folder_of_frames_is_localized_in_the_order_of_names(town, caplog):
    status, out, err = run("localize", town / "index", "--sequence-folder", town / "drive", "--json", "--frame-interval", 20)
    assert status == 0, err
    assert "12 frames, in the natural order of names." in err
    assert "1 of 12 photos were skipped" in caplog.text
    answers = json.loads(out)
    assert [answer["query"].rsplit("/", 1)[1] for answer in answers] == [f"frame{number}.png" for number in range(1, 13)]
    assert answers[4]["error"] == "not an image"
    others = [answer for number, answer in enumerate(answers) if number != 4]
    assert [answer["seconds"] for answer in others] == [20 * number for number in range(12) if number != 4]  # time continues
    metres = [(answer["latitude"] - 60) * 111_195 for answer in others if answer["latitude"] is not None]
    assert len(metres) >= 9 and np.all(np.diff(metres) > 0)
    assert all(answer["changed"] in (True, False) and answer["confidence_alone"] is not None for answer in others)


@pytest.mark.parametrize("answer_format", ["csv", "geojson", "gpx", "jsonl", "table"])
def test_all_formats_have_a_line_for_each_frame(town, answer_format):
    photos = sorted((town / "drive").glob("frame1*.png"))
    status, out, err = run("localize", town / "index", *photos, "--sequence", "--online", "--format", answer_format)
    assert status == 0, err
    assert "4 frames, in the " in err
    if answer_format == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert len(rows) == 4 and {row["changed"] for row in rows} <= {"true", "false"}
    elif answer_format == "geojson":
        assert len(json.loads(out)["features"]) == 4
    elif answer_format == "jsonl":
        assert [json.loads(line)["seconds"] for line in out.splitlines()] == [0, 1, 2, 3]
    else:
        assert out.count("frame1") == 4 or answer_format == "gpx"


def test_odometry_and_speed_reach_the_model(town, tmp_path):
    table = tmp_path / "odometry.csv"
    lines = [f"{town}/drive/frame{number}.png,{300 if number > 1 else 0},0" for number in range(1, 13)]
    table.write_text("path,metres,turn\n" + "\n".join(lines) + "\n")
    folder = ("localize", town / "index", "--sequence-folder", town / "drive", "--json", "--frame-interval", 20)
    with_odometry = json.loads(run(*folder, "--odometry", table, "--max-speed", 30)[1])
    without = json.loads(run(*folder, "--max-speed", 0.001)[1])
    assert sum(answer["latitude"] is not None for answer in with_odometry) > 8
    assert [answer["confidence"] for answer in with_odometry if "error" not in answer] != [
        answer["confidence"] for answer in without if "error" not in answer
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "--online"], "`--online` belongs to a sequence. Give `--sequence` or `--sequence-folder DIR` too."),
        (["a.png", "--max-speed", "0"], "`--max-speed` belongs to a sequence."),
        (["a.png", "--sequence-folder", "b"], "Give either queries or `--sequence-folder DIR`"),
        (["--sequence"], "Give either QUERY or `--descriptors FILE`"),
        (["--sequence", "--descriptors", "a.npy"], "A sequence needs photos. Omit `--descriptors`"),
        (["a.png", "--sequence", "--max-speed", "0"], "Expected `--max-speed` above 0 metres a second, got 0.0."),
        (["a.png", "--sequence", "--outside-share", "2"], "Expected `--outside-share` between 0 and 1"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(town, arguments, message):
    status, _, err = run("localize", town / "index", *arguments)
    assert status == 1 and message in err, err
