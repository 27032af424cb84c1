"""Requests to the service, in this process: answers equal to the library's, limits, keys, reloads and errors."""

import asyncio
import base64
import dataclasses
import json
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization import localize_photos
from d2vpr_hf.places.place import PLACE_COLUMNS
from d2vpr_hf.retrieval.index_photos import add_photos, index_photos, remove_photos
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.service import answers, schemas
from d2vpr_hf.service.api_keys import ApiKeys
from d2vpr_hf.service.app import make_app
from d2vpr_hf.service.generations import ServedIndex
from d2vpr_hf.service.limits import ServiceLimits
from d2vpr_hf.service.photo_service import PhotoService
from tests.photos import jpeg, save
from tests.service.serving import KEY, ServedEncoder, big_png, descriptor_of, make_index, open_served

FORM = "multipart/form-data; charset={}; boundary=b"
LIMITS = ServiceLimits(photos=3, photo_bytes=200_000, pixels=1_000_000, request_bytes=400_000, pending_photos=6, top_k=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    make_index(folder)
    save(folder / "query.jpg", 4)
    return folder


@pytest.fixture(scope="module")
def service(folder):
    service = PhotoService(open_served(folder / "index"), LIMITS)
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service):
    return TestClient(make_app(service, ApiKeys([KEY])), headers={"X-API-Key": KEY}, raise_server_exceptions=False)


def post(client, path, *contents, **options):
    files = [("photos", (f"{number}.jpg", content)) for number, content in enumerate(contents)]
    return client.post(path, files=files, data=options)


def post_json(client, text):
    return client.post("/search", content=text, headers={"Content-Type": "application/json"})


def post_text(client, content_type, disposition):
    body = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\nx\r\n--b--\r\n"
    return client.post("/search", content=body, headers={"Content-Type": content_type})


async def call(app, content_type, messages, send):
    """Call the application as a server does, with the messages of a request's body."""

    async def receive():
        return messages.pop(0)

    headers = [(b"content-type", content_type.encode()), (b"x-api-key", KEY.encode())]
    scope = {"type": "http", "method": "POST", "path": "/search", "query_string": b"", "headers": headers}
    await app(scope, receive, send)


def named(matches, folder):
    """Return matches as JSON values with the names of photos in the index."""
    prefix = str(folder / "photos") + "/"
    return [match | {"path": match["path"].removeprefix(prefix)} for match in matches]


def test_search_answers_as_the_library(client, folder):
    query = folder / "query.jpg"
    expected = search_photos(PlaceIndex.open(folder / "index"), [query], ServedEncoder(), top_k=3)[0].to_dict()
    response = client.post("/search", files={"photos": ("query.jpg", query.read_bytes())}, data={"top_k": "3"})
    assert response.status_code == 200 and response.headers["X-Index-Generation"] == "1"
    [result] = response.json()["results"]
    assert result == {"query": "query.jpg", "matches": named(expected["matches"], folder)}
    assert result["matches"][0]["heading"] == 40.0 and len(result["matches"]) == 3


def test_localize_answers_as_the_library(client, folder):
    query = folder / "query.jpg"
    expected = localize_photos(PlaceIndex.open(folder / "index"), [query], ServedEncoder())[0].to_dict()
    [result] = post(client, "/localize", query.read_bytes()).json()["results"]
    expected |= {"query": "0.jpg", "matches": named(expected["matches"], folder)}
    assert result == expected and result["utm_east"] == 544400.0


def test_json_bodies_and_descriptors_give_the_same_answers(client, folder):
    content = (folder / "query.jpg").read_bytes()
    by_form = post(client, "/search", content, top_k=2, near="37.7,-122.5,1e6").json()["results"]
    body = {
        "photos": [{"name": "0.jpg", "content": base64.b64encode(content).decode()}],
        "top_k": 2,
        "near": [37.7, -122.5, 1e6],
    }
    assert client.post("/search", json=body).json()["results"] == by_form
    descriptors = [descriptor_of(folder / "query.jpg").tolist()]
    [by_descriptor] = client.post("/search", json={"descriptors": descriptors, "top_k": 2}).json()["results"]
    assert by_descriptor["query"] == "descriptor-1"
    [unfiltered] = post(client, "/search", content, top_k=2).json()["results"]
    assert by_descriptor["matches"] == unfiltered["matches"]
    [located] = client.post("/localize", json={"descriptors": descriptors}).json()["results"]
    assert located["utm_east"] == 544400.0


def test_encode_gives_descriptors(client, folder):
    content, expected = (folder / "query.jpg").read_bytes(), descriptor_of(folder / "query.jpg")
    answer = post(client, "/encode", content).json()
    assert (answer["descriptor_dim"], answer["fingerprint"]) == (18, "c" * 64)
    assert np.array_equal(np.array(answer["results"][0]["descriptor"], np.float32), expected)
    text = post(client, "/encode", content, encoding="base64", role="database").json()["results"][0]["descriptor"]
    assert np.array_equal(np.frombuffer(base64.b64decode(text), "<f4"), expected)


def test_filters_leave_out_photos(client, folder):
    content = (folder / "query.jpg").read_bytes()
    [result] = post(client, "/search", content, heading="0,15", top_k=7).json()["results"]
    assert sorted(match["heading"] for match in result["matches"]) == [0.0, 10.0]


def test_a_photo_that_cannot_be_read_spares_the_others(client):
    response = post(client, "/search", jpeg(4), b"no photo", jpeg(5))
    first, bad, last = response.json()["results"]
    assert response.status_code == 200 and first["matches"] and last["matches"]
    assert bad == {"query": "1.jpg", "matches": [], "error": "not an image"}
    alone = post(client, "/localize", b"no photo")
    assert alone.status_code == 422 and alone.json()["results"][0]["error"] == "not an image"
    large = post(client, "/encode", big_png(1001))
    assert "1.0 megapixels" in large.json()["results"][0]["error"]


@pytest.mark.parametrize(
    ("send", "status", "message"),
    [
        (lambda c: post(c, "/search", *[jpeg()] * 4), 413, "1 to 3 photos"),
        (lambda c: post(c, "/search", bytes(450_000)), 413, "at most 400,000 bytes"),
        (
            lambda c: c.post("/search", content=(bytes(9000) for _ in range(99)), headers={"content-type": "application/json"}),
            413,
            "at most",
        ),
        (lambda c: post(c, "/search", bytes(300_000)), 422, "larger than 0.2 MB"),
        (lambda c: post(c, "/search"), 415, "multipart/form-data or application/json"),
        (lambda c: c.post("/search", data={"top_k": "3"}, files={"image": b"x"}), 422, "`photos`"),
        (lambda c: post(c, "/search", jpeg(), top_k="many"), 422, "top_k"),
        (lambda c: post(c, "/search", jpeg(), top_k="8"), 422, "at most 7"),
        (lambda c: post(c, "/search", jpeg(), k="3"), 422, "k: Extra inputs"),
        (lambda c: post(c, "/search", jpeg(), top_k=["3", "4"]), 422, "top_k is given 2 times"),
        (lambda c: post_text(c, FORM.format("unicode_escape"), b'name="photos"; filename="\\\\ud800"'), 415, "UTF-8"),
        (lambda c: post_text(c, FORM.format("punycode"), b'name="a-9a-9"'), 415, "'punycode'"),
        (lambda c: post_json(c, b'{"descriptors": [[' + b"0," * 5000 + b"0]]}"), 413, "got 5,000 values"),
        (lambda c: post_json(c, b"{" + b'"a":1,' * 60_000 + b'"a":1}'), 413, "got 60,000 values"),
        (lambda c: post(c, "/search", jpeg(), near="1,2"), 422, "LAT,LON,METRES"),
        (lambda c: post(c, "/search", jpeg(), near="91,2,3"), 422, "latitude within 90"),
        (lambda c: post(c, "/localize", jpeg(), since="01/05/2024"), 422, "Expected a time"),
        (lambda c: post(c, "/localize", jpeg(), precision="2"), 422, "precision"),
        (lambda c: c.post("/search", json={"photos": [{"content": "%%%"}]}), 422, "photo 1 is not base64"),
        (lambda c: c.post("/search", json={}), 422, "either `photos` or `descriptors`"),
        (lambda c: c.post("/search", json={"descriptors": [[1.0]]}), 422, "has 1 numbers"),
        (lambda c: c.post("/search", json={"descriptors": [[0.5] * 18]}), 422, "expected 1"),
        (lambda c: post_json(c, b'{"descriptors": [[NaN]]}'), 422, "numbers"),
        (lambda c: c.post("/encode", json={"descriptors": [[1.0]]}), 422, "Extra inputs|Field required"),
        (lambda c: post_json(c, b"{"), 422, "JSON"),
        (lambda c: c.post("/search", content=b"--x", headers={"content-type": "multipart/form-data"}), 400, "boundary"),
        (lambda c: c.get("/search"), 405, "Method Not Allowed"),
        (lambda c: c.get("/../etc/passwd"), 404, "Not Found"),
    ],
)
def test_wrong_requests(client, service, folder, send, status, message):
    response = send(client)
    assert response.status_code == status
    text = json.dumps(response.json(), ensure_ascii=False)
    assert any(part in text for part in message.split("|")), text
    assert str(folder) not in text and "/tmp" not in text
    assert (service.admissions.photos, service.admissions.num_bytes) == (0, 0)


def test_a_client_that_leaves_is_no_failure_of_the_service(client, service, caplog):
    """Each would be a 500 and a traceback in the log: a stranger could fill the disk."""

    messages = [{"type": "http.request", "body": b"--b", "more_body": True}, {"type": "http.disconnect"}]
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(call(client.app, FORM.format("utf-8"), messages, send))
    assert sent[0]["status"] == 400
    assert not caplog.records and service.admissions.photos == 0


def test_a_client_that_does_not_read_its_answer_holds_no_room(client, service, folder):
    """A few of them would fill the queue for ever: no time limit ends the sending of an answer."""
    pending = []

    async def send(message):
        pending.append((service.admissions.photos, service.admissions.num_bytes))

    text = json.dumps({"descriptors": [descriptor_of(folder / "query.jpg").tolist()] * 3}).encode()
    asyncio.run(call(client.app, "application/json", [{"type": "http.request", "body": text}], send))
    assert pending == [(0, 0), (0, 0)]


def test_a_full_service_refuses_with_a_time(client, service):
    assert service.admissions.add(5)
    try:
        assert post(client, "/search", jpeg()).status_code == 200
        response = post(client, "/search", jpeg(), jpeg())
        assert response.status_code == 503 and int(response.headers["Retry-After"]) >= 1
        assert service.admissions.add(1)
        assert post(client, "/search", jpeg()).status_code == 503
        assert client.get("/ready").status_code == 200
        service.admissions.remove(1, 0)
    finally:
        service.admissions.remove(5, 0)
    assert post(client, "/search", jpeg(), jpeg()).status_code == 200


def test_a_request_ends_with_its_time(client, service, monkeypatch):
    """A batch that hangs must not hold its clients, nor their room."""
    go = threading.Event()
    monkeypatch.setattr(service, "limits", dataclasses.replace(LIMITS, seconds=0.3))
    monkeypatch.setattr(service._worker, "_process", lambda questions: [go.wait(30)] * len(questions))
    response = post(client, "/search", jpeg())
    go.set()
    assert response.status_code == 504 and "0.3 seconds" in response.json()["error"]
    assert service.admissions.photos == 0


def test_errors_show_no_files(client, service, monkeypatch, caplog):
    def fail(questions):
        raise OSError("/secret/folder/index is gone")

    monkeypatch.setattr(service._worker, "_process", fail)
    response = post(client, "/search", jpeg())
    assert response.status_code == 500 and "secret" not in response.text and "log" in response.json()["error"]
    assert "/secret/folder" in caplog.text


def test_keys_are_asked_for(client, service):
    open_client = TestClient(client.app)
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic abc"}):
        for response in (open_client.post("/search", headers=headers), open_client.get("/metrics", headers=headers)):
            assert response.status_code == 401 and "X-API-Key" in response.json()["error"]
    assert open_client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert [open_client.get(path).status_code for path in ("/health", "/ready", "/openapi.json")] == [200] * 3


def test_without_keys_only_own_names_are_served(service):
    """A page of a stranger can make its name point to this machine; its browser then sends that name."""
    app = make_app(service, ApiKeys(), frozenset({"localhost", "maps.lan"}))
    for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("maps.lan", 200), ("evil.example", 421)):
        assert TestClient(app, base_url=f"http://{host}").get("/ready").status_code == status
    client = TestClient(app, base_url="http://localhost:8000")
    for origin, status in (("http://localhost:8000", 200), ("http://localhost:9", 403), ("https://evil.example", 403)):
        assert client.get("/ready", headers={"Origin": origin}).status_code == status


def test_the_description_has_both_forms_of_bodies_and_the_key(client):
    description = client.get("/openapi.json").json()
    assert description["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"
    for path in ("/localize", "/search", "/encode"):
        operation = description["paths"][path]["post"]
        content = operation["requestBody"]["content"]
        assert set(content) == {"multipart/form-data", "application/json"} and content["application/json"]["examples"]
        assert "$ref" not in json.dumps(content)
        assert operation["security"] and "200" in operation["responses"] and "503" in operation["responses"]
    assert description["paths"]["/health"]["get"]["security"] == []


def test_examples_of_the_description_are_accepted():
    from d2vpr_hf.service.app import _ROUTES

    for route in _ROUTES.values():
        for example in route.examples.values():
            route.body.model_validate(example)


def test_models_of_answers_have_the_keys_of_the_library(client):
    """One schema: a program that reads `d2vpr search --json` reads the service's answers too."""
    assert set(schemas.PlaceValues.model_fields) == set(PLACE_COLUMNS)
    [searched] = post(client, "/search", jpeg(4)).json()["results"]
    [located] = post(client, "/localize", jpeg(4)).json()["results"]
    for values, model in (
        (searched["matches"][0], schemas.MatchValues),
        (searched, schemas.SearchValues),
        (located, schemas.LocalizationValues),
    ):
        assert set(values) | {"x", "y", "z", "note", "error"} >= set(model.model_fields) >= set(values)
        model.model_validate(values)


def test_metrics_count_what_happened(client):
    before = client.get("/metrics").text
    post(client, "/encode", jpeg(4), b"no photo")
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    old = dict(line.rsplit(" ", 1) for line in before.splitlines() if not line.startswith("#"))
    for name in ('d2vpr_photos_total{result="answered"}', 'd2vpr_photos_total{result="refused"}'):
        assert int(lines[name]) == int(old.get(name, 0)) + 1
    assert lines["d2vpr_index_photos"] == "9" and lines["d2vpr_pending_photos"] == "0"


def test_several_clients_share_a_batch(client, service):
    """While the encoder is busy, photos of other requests wait together."""
    encoder = service.generation.encoder
    go, encode = threading.Event(), ServedEncoder.encode
    begun = threading.Event()

    def slow(self, photos, progress=None, *, order=None):
        begun.set()
        go.wait(30)
        return encode(self, photos, progress)

    encoder.encode = slow.__get__(encoder)
    encoder.batches.clear()
    statuses = []
    threads = [
        threading.Thread(target=lambda seed=seed: statuses.append(post(client, "/search", jpeg(seed)).status_code))
        for seed in range(5)
    ]
    try:
        threads[0].start()
        begun.wait(30)
        for thread in threads[1:]:
            thread.start()
        until = threading.Event()
        while len(service._worker._waiting) < 4 and not until.wait(0.01):
            pass
    finally:
        go.set()
        for thread in threads:
            thread.join(30)
        del encoder.encode
    assert statuses == [200] * 5 and encoder.batches == [1, 4]


def test_a_changed_index_is_loaded_and_running_requests_keep_the_old_one(tmp_path):
    index = make_index(tmp_path)
    service = PhotoService(open_served(index), LIMITS)
    served = service.served
    client = TestClient(make_app(service, ApiKeys([KEY])), headers={"X-API-Key": KEY})
    old = service.generation
    assert not served.reload_if_changed()
    save(tmp_path / "new.jpg", 77)
    add_photos(index, [tmp_path / "new.jpg"], ServedEncoder())
    assert served.reload_if_changed() and not served.reload_if_changed()
    response = post(client, "/search", (tmp_path / "new.jpg").read_bytes(), top_k=1)
    assert response.headers["X-Index-Generation"] == "2"
    assert response.json()["results"][0]["matches"][0]["path"].endswith("new.jpg")
    with PlaceIndex.open(index) as opened:
        opened.compact()  # removes the files of the old state
    question = answers.Question(old, "search", "q", descriptor_of(tmp_path / "new.jpg"), top_k=1)
    [answer] = answers.answer_batch([question])  # a request that began before the change
    assert not str(answer.matches[0].photo).endswith("new.jpg")
    remove_photos(index, [tmp_path / "new.jpg"])
    assert served.reload_if_changed() and service.generation.number == 3 and len(service.generation.index) == 9
    service.close()


def test_a_damaged_index_leaves_the_old_one(tmp_path, caplog):
    """An index that is being copied is damaged for a while."""
    index = make_index(tmp_path)
    served = open_served(index)
    manifest = index / "manifest.json"
    content = manifest.read_bytes()
    manifest.write_bytes(content[:100])
    assert not served.reload_if_changed() and not served.reload_if_changed()
    assert served.failed == 2 and caplog.text.count("cannot be opened") == 1
    manifest.write_bytes(content)
    assert served.reload_if_changed() and served.current.number == 2
    manifest.unlink()
    assert not served.reload_if_changed()


def test_a_build_is_loaded_when_it_is_complete(tmp_path):
    """A service that loads half of an update would answer without the other half of the map."""
    index = make_index(tmp_path)
    served = open_served(index)
    for complete in (False, True):
        with PlaceIndex.open(index) as opened:
            opened.upsert(np.empty((0, 18), np.float32), [], [], complete=complete)
        assert served.reload_if_changed() is complete
    assert served.current.number == 2


def test_an_index_of_another_model_gets_its_encoder(tmp_path):
    class OtherEncoder(ServedEncoder):
        fingerprint = "d" * 64

    index = make_index(tmp_path)
    encoders = {encoder.fingerprint: encoder for encoder in (ServedEncoder(), OtherEncoder())}
    served = ServedIndex(index, lambda: PlaceIndex.open(index), lambda opened: encoders[opened.settings.fingerprint])
    first = served.current
    index_photos(tmp_path / "photos", index, OtherEncoder(), overwrite=True)
    assert served.reload_if_changed()
    assert (first.encoder.fingerprint, served.current.encoder.fingerprint) == ("c" * 64, "d" * 64)


def test_an_index_of_given_descriptors_takes_descriptors_only(tmp_path):
    index = make_index(tmp_path)
    served = open_served(index)
    served.current.encoder = None
    service = PhotoService(served, LIMITS)
    client = TestClient(make_app(service, ApiKeys([KEY])), headers={"X-API-Key": KEY})
    response = post(client, "/search", jpeg())
    assert response.status_code == 422 and "Send `descriptors`" in response.json()["error"]
    save(tmp_path / "q.jpg", 4)
    body = {"descriptors": [descriptor_of(tmp_path / "q.jpg").tolist()], "top_k": 1}
    assert client.post("/search", json=body).json()["results"][0]["matches"][0]["heading"] == 40.0
    service.close()
