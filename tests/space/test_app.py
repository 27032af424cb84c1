"""The Space through its endpoints: programs, tools for agents, refused requests; no browser."""

import ast
import asyncio
import base64
import json
import re
import shutil
import signal
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from gradio_client import Client, handle_file
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation import explain_match
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import distance_in_metres
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.space.visitors import COOKIE
from tests.photos import draw, gps_exif
from tests.space.running import running_space


@pytest.fixture(scope="module")
def client(space):
    return Client(space.url, verbose=False)


@pytest.fixture(scope="module")
def encoder():
    return PlaceEncoder()


@pytest.fixture(scope="module")
def expected(space, encoder):
    """Return the paths of the matches that the command line finds, by the name of the query."""
    results = search_photos(PlaceIndex.open(space.folder / "index"), space.queries, encoder, top_k=3)
    return {result.query.name: [match.place.path for match in result.matches] for result in results}


def paths(answer):
    return [match["photo"] for match in answer["matches"]]


def test_the_three_endpoints_and_their_arguments(client):
    """A renamed endpoint or argument would break the programs that call it."""
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/localize", "/search", "/explain"}
    assert [argument["parameter_name"] for argument in endpoints["/localize"]["parameters"]] == [
        "photo", "top_k", "precision", "near", "heading", "since", "until", "rerank",
    ]  # fmt: skip
    assert [argument["parameter_name"] for argument in endpoints["/explain"]["parameters"]] == ["photo", "rank"]


def test_endpoints_answer_as_the_command_line(client, space, expected):
    for photo in space.queries[:3]:
        answer = client.predict(handle_file(photo), top_k=3, api_name="/search")
        assert paths(answer) == expected[photo.name] and set(answer) == {"matches"}
        located = client.predict(handle_file(photo), top_k=3, api_name="/localize")
        assert located["matches"] == answer["matches"] and located["latitude"] == pytest.approx(46.35, abs=0.01)
        assert located["confidence"] is None and "not calibrated" in located["note"] and located["reranked"] is False
    assert client.predict(handle_file(photo), rerank=True, api_name="/localize")["reranked"] is True


def test_filters_reach_the_search(client, space):
    photo = space.queries[0]
    places = PlaceIndex.open(space.folder / "index").places
    near = f"{places[5].latitude},{places[5].longitude},5"
    around = {place.path for place in places if distance_in_metres(place, places[5]) <= 5}
    assert len(around) < len(places)
    assert set(paths(client.predict(handle_file(photo), near=near, top_k=12, api_name="/localize"))) == around
    between = (places[0].heading + 45) % 360  # the headings of the town's photos are 90 degrees apart
    assert client.predict(handle_file(photo), heading=f"{between},10", api_name="/localize")["matches"] == []


def test_explanations_add_up_and_agree_with_the_library(client, space, encoder, expected):
    photo = space.queries[1]
    answer = client.predict(handle_file(photo), rank=2, api_name="/explain")
    assert answer["photo"] == expected[photo.name][1]
    explanation = explain_match(encoder, photo, space.folder / "database" / answer["photo"])
    shares = [region["share"] for region in answer["regions"]]
    assert answer["cosine"] == pytest.approx(explanation.cosine, abs=1e-5)
    assert shares == pytest.approx(explanation.shares.tolist(), abs=1e-5)
    assert sum(shares) == pytest.approx(answer["cosine"], abs=1e-9)
    assert len(answer["query"]["points"]) == len(answer["query"]["region_of_point"]) == len(explanation.query.points)


def test_errors_are_sentences(client, space, tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    assert client.predict(handle_file(tmp_path / "notes.jpg"), api_name="/localize") == {
        "error": "This photo cannot be used: not an image."
    }
    photo = handle_file(space.queries[0])
    assert "Expected 1 to 20 matches" in client.predict(photo, top_k=0, api_name="/search")["error"]
    assert "LAT,LON,METRES" in client.predict(photo, near="here", api_name="/localize")["error"]
    with pytest.raises(Exception, match="no match of rank 13"):
        client.predict(photo, rank=13, api_name="/explain")


def test_many_clients_get_their_own_answers(space, expected):
    """Requests are answered in batches: a client must not get the answer to another client's photo."""

    def ask(number):
        client = Client(space.url, verbose=False)
        photos = [space.queries[(number + step) % 12] for step in range(4)]
        jobs = [client.submit(handle_file(photo), top_k=1 + number % 3, api_name="/search") for photo in photos]
        return [(photo, paths(job.result())) for photo, job in zip(photos, jobs, strict=True)]

    with ThreadPoolExecutor(6) as pool:
        for number, answers in enumerate(pool.map(ask, range(6))):
            for photo, matches in answers:
                assert matches == expected[photo.name][: 1 + number % 3]


def post(url, values, cookie=None):
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    headers |= {"Cookie": f"{COOKIE}={cookie}"} if cookie else {}
    request = urllib.request.Request(url, json.dumps(values).encode(), headers)
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


def upload(space, photo, cookie):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="p.jpg"\r\n\r\n' + photo + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Cookie": f"{COOKIE}={cookie}"}
    answer = urllib.request.urlopen(urllib.request.Request(f"{space.url}/gradio_api/upload", body, headers), timeout=60)
    return json.loads(answer.read())[0]


def fetch(url, cookie):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers={"Cookie": f"{COOKIE}={cookie}"}), timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


def test_other_visitors_cannot_reach_uploads(space):
    """The real server refuses them on every route that names a file."""
    file = upload(space, space.queries[0].read_bytes(), "alice")
    assert fetch(f"{space.url}/gradio_api/file={file}", "alice") == 200
    assert fetch(f"{space.url}/gradio_api/file={file}", "bob") == 403
    secret = space.folder / "database" / PlaceIndex.open(space.folder / "index").places[11].path  # not an example
    for path, cookie, status in [(file, "alice", 200), (file, "bob", 403), (str(secret), "bob", 403), (str(secret), "", 403)]:
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert post(f"{space.url}/gradio_api/call/search", {"data": [data, 3]}, cookie) == status
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {"photo": data}}}
        assert post(f"{space.url}/gradio_api/mcp/", call, cookie) == 403
    assert fetch(f"{space.url}/gradio_api/file={space.folder / 'index' / 'manifest.json'}", "bob") == 403
    assert fetch(f"{space.url}/gradio_api/file=/etc/passwd", "bob") == 403


def test_agents_have_the_three_endpoints_as_tools(space, expected):
    photo = space.queries[2]
    data = "data:image/jpeg;base64," + base64.b64encode(photo.read_bytes()).decode()

    async def talk():
        async with (
            streamablehttp_client(f"{space.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as agent,
        ):
            await agent.initialize()
            tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
            answer = await agent.call_tool(next(name for name in tools if name.endswith("search")), {"photo": data, "top_k": 3})
            refused = await agent.call_tool(next(name for name in tools if name.endswith("search")), {"photo": "/etc/passwd"})
            return tools, answer, refused

    tools, answer, refused = asyncio.run(talk())
    assert sorted(re.sub(r"^.*_", "", name) for name in tools) == ["explain", "localize", "search"]
    assert all("photo" in tool.inputSchema["properties"] for tool in tools.values())
    assert not answer.isError and paths(ast.literal_eval(answer.content[0].text)) == expected[photo.name]
    assert refused.isError


def test_positions_of_photos_are_not_logged(client, space, tmp_path):
    draw(5).save(tmp_path / "phone.jpg", exif=gps_exif(12.345678, 98.765432))
    answer = client.predict(handle_file(tmp_path / "phone.jpg"), api_name="/localize")
    assert answer["matches"] and "12.34" not in json.dumps(answer)
    assert "12.34" not in space.log and "98.76" not in space.log and "phone" not in space.log
    assert "Traceback" not in space.log


def test_stopping_the_space_deletes_the_files_of_visitors(space, tmp_path):
    for name in ("index", "database", "queries"):
        shutil.copytree(space.folder / name, tmp_path / name)
    with running_space(tmp_path) as served:
        upload(served, served.queries[0].read_bytes(), "alice")
        assert len(served.visitors_files()) == 1
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(180)
        assert served.visitors_files() == []
