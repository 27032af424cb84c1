"""The events of the page through Gradio's queue, as a browser sends them: inputs and outputs must fit the functions."""

import json
import secrets
import urllib.request
from urllib.error import HTTPError

import pytest

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.space.visitors import COOKIE
from tests.photos import draw, gps_exif
from tests.space.test_app import upload

OPTIONS = [5, 0.95, "", "", "", "", False]  # matches, precision, near, heading, since, until, re-ranking


class Page:
    """A visitor's page of the Space."""

    def __init__(self, space):
        self.url = space.url
        self.session = secrets.token_hex(5)
        with self._open("/config") as answer:
            self.events = {event["api_name"]: event["id"] for event in json.load(answer)["dependencies"]}

    def send(self, event, *inputs, number=None):
        """Send an event, with the number of the button that was pressed, and return its outputs or its error."""
        message = {"fn_index": self.events[event], "data": inputs, "session_hash": self.session}
        self._open("/gradio_api/queue/join", message | {"event_data": {"index": number}}).close()
        with self._open(f"/gradio_api/queue/data?session_hash={self.session}") as lines:
            messages = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]
        output = next(message["output"] for message in messages if message["msg"] == "process_completed")
        return output.get("data", output.get("error"))

    def _open(self, path, values=None):
        headers = {"Content-Type": "application/json", "Cookie": f"{COOKIE}=carol"}
        body = None if values is None else json.dumps(values).encode()
        return urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=180)


@pytest.fixture
def page(space):
    return Page(space)


def uploaded(space, photo):
    return {"path": upload(space, photo.read_bytes(), "carol"), "meta": {"_type": "gradio.FileData"}}


def test_a_photo_is_located_with_the_options_of_the_page(page, space):
    """An option in a wrong order would be a filter of another kind, or no filter."""
    photo = uploaded(space, space.queries[0])
    verdict, drawing, cards, *_ = page.send("locate", photo, *OPTIONS)
    assert "Best guess" in verdict and "Map with 5 matches" in drawing and cards.count('class="card ') == 5
    places = PlaceIndex.open(space.folder / "index").places
    near = f"{places[5].latitude}, {places[5].longitude}, 5"
    between = f"{(places[0].heading + 45) % 360}, 10"  # the headings of the town are 90 degrees apart
    assert 1 <= page.send("locate", photo, 3, 0.95, near, "", "", "", False)[2].count('class="card ') <= 3
    assert "No photo passes the filters" in page.send("locate", photo, 5, 0.95, "", between, "", "", False)[2]
    assert "DEGREES,TOLERANCE" in page.send("locate", photo, 5, 0.95, "", "north", "", "", False)
    assert "There is no photo yet" in page.send("locate", None, *OPTIONS)


def test_a_sequence_is_located(page, space):
    photos = [uploaded(space, photo) for photo in space.queries[:3]]
    verdict, drawing, table = page.send("locate_sequence", photos, 1.0, 0.95)
    assert "3 of 3 frames have a position" in verdict and "<svg" in drawing and table.count("<tr>") == 4
    assert "There are no photos yet" in page.send("locate_sequence", None, 1.0, 0.95)
    assert "A sequence has 2 to 60 photos, got 1" in page.send("locate_sequence", photos[:1], 1.0, 0.95)
    stranger = {"path": upload(space, space.queries[0].read_bytes(), "mallory"), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(HTTPError, match="403"):  # a photo of another visitor
        page.send("locate_sequence", [photos[0], stranger], 1.0, 0.95)


def test_an_example_is_located_and_its_match_explained(page):
    photo, verdict, *_ = page.send("choose_example", *OPTIONS, number=1)
    assert photo["path"] and "0.0 m from the true position" in verdict  # the examples are photos of this map
    tabs, _, rank, explanation = page.send("explain_card", None, number=2)
    assert tabs["selected"] == "why" and rank["value"] == 2 and explanation.count('class="sampled"') == 4
    assert page.send("explain_rank", None, 2) == [explanation]
    assert "There is no match 9: the search returned 5" in page.send("explain_rank", None, 9)


def test_an_own_map_is_made_searched_and_deleted(page, space, tmp_path):
    draw(60).save(tmp_path / "plain.jpg")
    for number in range(3):
        draw(number + 50).save(tmp_path / f"{number}.jpg", exif=gps_exif(46.1 + 0.001 * number, 11.0))
    files = [uploaded(space, photo) for photo in sorted(tmp_path.iterdir())]
    assert "There is no map of your photos" in page.send("search_own", files[0])
    summary, drawing, download = page.send("build", files)
    assert "3 photos are in your map" in summary and "1 file was skipped" in summary and 'class="map"' in drawing
    assert download["value"]["orig_name"] == "my-index.zip"
    verdict, *_ = page.send("search_own", files[1])
    assert "46.10100, 11.00000" in verdict
    assert "There is no map of your photos" in Page(space).send("search_own", files[1])
    assert [path for path in space.visitors_files() if "own" in path.parts]
    page.send("leave")
    assert not [path for path in space.visitors_files() if "own" in path.parts or path.name == "my-index.zip"]
