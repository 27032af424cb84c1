"""The service as a server: the end by a signal loses no accepted request, and the command line refuses open doors."""

import asyncio
import http.client
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip("uvicorn")

from d2vpr_hf.places import Place
from d2vpr_hf.readers import PlaceTable
from d2vpr_hf.retrieval.given_descriptors import index_descriptors
from d2vpr_hf.service.api_keys import ApiKeys
from d2vpr_hf.service.app import make_app
from d2vpr_hf.service.photo_service import PhotoService
from d2vpr_hf.service.running import Server, bind
from tests.command_line import run
from tests.photos import jpeg
from tests.service.serving import ServedEncoder, make_index, open_served

BOUNDARY = "frontier"
BODY = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="q.jpg"\r\n\r\n'.encode()
    + jpeg(4)
    + f"\r\n--{BOUNDARY}--\r\n".encode()
)


def ask(connection):
    connection.request("POST", "/search", BODY, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def answer(connection):
    response = connection.getresponse()
    content = response.read()
    return response.status, response.getheader("connection"), b'"rank":1' in content


def test_the_end_answers_running_requests_and_those_on_their_way(tmp_path):
    service = PhotoService(open_served(make_index(tmp_path)))
    encoder = service.generation.encoder
    encode = encoder.encode
    begun, go = threading.Event(), threading.Event()

    def slow(photos, progress=None):
        begun.set()
        go.wait(30)
        return encode(photos, progress)

    encoder.encode = slow
    listener, ready = bind("127.0.0.1", 0), threading.Event()
    port = listener.getsockname()[1]
    server = Server(make_app(service, ApiKeys(), frozenset({"localhost"})), service, ready.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    assert ready.wait(30)
    running, silent, idle = (http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(3))
    ask(running)
    assert begun.wait(30)
    idle.request("GET", "/ready")
    assert idle.getresponse().read()
    silent.connect()
    server.should_exit = True
    while not service.draining:
        pass
    ask(silent)
    ask(idle)
    go.set()
    for connection in (running, silent, idle):
        assert answer(connection) == (200, "close", True)
    thread.join(30)
    assert not thread.is_alive() and service.answered == 4
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
    service.close()


@pytest.fixture
def index(tmp_path):
    """An index that needs no model, so that its service starts fast."""
    import numpy as np

    np.save(tmp_path / "d.npy", np.eye(3, dtype=np.float32))
    table = PlaceTable(tmp_path, [Place(f"{i}.jpg", 1.0, float(i)) for i in range(3)], "csv")
    index_descriptors(tmp_path / "d.npy", table, tmp_path / "index")
    return tmp_path / "index"


def test_sigterm_ends_the_program_in_two_lines_with_status_0(index):
    command = [sys.executable, "-u", "-m", "d2vpr_hf", "serve", str(index), "--port", "0"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = program.stdout.readline()
    assert line.startswith(f"Serving 3 photos of {index} at http://127.0.0.1:"), line + program.stderr.read()
    port = int(line.partition("; ")[0].rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/search", b'{"descriptors": [[0, 1, 0]]}', {"Content-Type": "application/json"})
    assert b'"path":"1.jpg"' in connection.getresponse().read()
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out, err) == (0, "Ended after 1 requests.\n", "")


def test_an_open_door_needs_a_word(index, tmp_path, monkeypatch):
    monkeypatch.delenv("D2VPR_API_KEY", raising=False)
    status, _, err = run("serve", index, "--host", "0.0.0.0")
    assert status == 1 and "`--api-key-file FILE`" in err and "`--no-api-key`" in err
    (tmp_path / "keys").write_text("k" * 16)
    status, _, err = run("serve", index, "--api-key-file", tmp_path / "keys", "--no-api-key")
    assert status == 1 and "contradict" in err
    monkeypatch.setenv("D2VPR_API_KEY", "short")
    status, _, err = run("serve", index)
    assert status == 1 and "at least 16" in err and "short" not in err


def test_a_used_port_is_one_line(index):
    with bind("127.0.0.1", 0) as listener:
        status, _, err = run("serve", index, "--port", listener.getsockname()[1])
    assert status == 1 and err.startswith("d2vpr: ") and "cannot listen at 127.0.0.1" in err
    assert "Address already in use. Give another `--port PORT`" in err


def test_a_name_without_an_address_is_one_line():
    with pytest.raises(OSError, match=r"at no\.invalid, port 0: (?!Unknown error).*`host=\.\.\.`"):
        bind("no.invalid", 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--queue", 8], "`--max-photos 16` would never find room in `--queue 8`"),
        (["--queue-mb", 10], "`--max-request-mb 64` would never find room in `--queue-mb 10`"),
    ],
)
def test_a_queue_has_room_for_the_largest_request(index, options, message):
    """Or such a request would be told to come back later, for ever."""
    status, _, err = run("serve", index, "--port", 0, *options)
    assert status == 1 and message in err


def test_an_encoder_that_mixes_photos_gets_them_one_by_one(tmp_path):
    """Descriptors of one client must not depend on the photos of another."""
    service = PhotoService(open_served(make_index(tmp_path)))
    encoder = service.generation.encoder
    assert isinstance(encoder, ServedEncoder)
    encoder.depends_on_batch = True
    encoder.batches.clear()
    from d2vpr_hf.service.answers import Question

    photos = sorted((tmp_path / "photos").iterdir())[:3]
    questions = [Question(service.generation, "encode", photo.name, photo) for photo in photos]
    assert all(answer.error is None for answer in asyncio.run(service.ask(questions)))
    assert encoder.batches == [1, 1, 1]
    service.close()
