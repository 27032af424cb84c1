"""Load of `d2vpr serve`: times of requests next to the bare encoder's, a reload and a restart under load.

    python benchmarks/service_load.py --index INDEX --photos QUERIES --clients 50 --requests 40 --json build/service.json

The script copies the index, starts the service on the copy, and lets clients, each a thread with a kept connection, localise
photos at the same time. Each answer must equal that of a single client. Then the load is repeated twice: while photos are
removed from the index and added again, so that the service reloads it, and while SIGTERM ends the service and another one
starts at the same port. A request counts as lost if its connection was accepted and ended without an answer. Clients and
service share the machine.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex

_BOUNDARY = "load"
_PATIENCE = 300  # seconds for an answer


@dataclass
class Load:
    """Result of a load.

    Attributes:
        seconds: Duration of each answered request.
        wrong: Number of answers that differ from that of a single client.
        refused: Connections that were refused while no service listened; the client tried again.
        closed: Kept connections that the service had closed before the client sent its next request; the client tried again.
        busy: Answers 503; the client tried again.
        lost: Accepted requests without an answer, with the error.
        generations: States of the index that answered.
    """

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    refused: int = 0
    closed: int = 0
    busy: int = 0
    lost: list[str] = field(default_factory=list)
    generations: set[str] = field(default_factory=set)

    def to_text(self, duration: float) -> str:
        """Return the numbers as a line."""
        ordered = sorted(self.seconds)
        return (
            f"{len(ordered)} answers, {len(ordered) / duration:.1f} a second; p50 {statistics.median(ordered):.3f} s, "
            f"p95 {ordered[int(0.95 * len(ordered))]:.3f} s; lost {len(self.lost)}, wrong {self.wrong}, busy {self.busy}, "
            f"refused while no service listened {self.refused}, kept connections closed {self.closed}, "
            f"states of the index {len(self.generations)}"
        )


class Client:
    """A client with a kept connection."""

    def __init__(self, port: int, load: Load) -> None:
        self._port, self._load = port, load
        self._connection: http.client.HTTPConnection | None = None

    def localize(self, photo: Path) -> Any:
        """Return the answer for a photo; try again where the request was not accepted."""
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="{photo.name}"\r\n\r\n'.encode()
        body = head + photo.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()
        while True:
            is_new = self._connection is None
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE)
                try:
                    self._connection.connect()
                except OSError:
                    self._load.refused += 1
                    self._connection = None
                    time.sleep(0.2)
                    continue
            try:
                self._connection.request(
                    "POST", "/localize", body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
                )
                response = self._connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection = None
                if is_new:
                    self._load.lost.append(repr(error))
                else:
                    self._load.closed += 1
                continue
            if response.getheader("connection") == "close":
                self._connection = None
            if response.status == 503:
                self._load.busy += 1
                time.sleep(int(response.getheader("retry-after", "1")))
                continue
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {content[:200]!r}")
            self._load.generations.add(response.getheader("x-index-generation", ""))
            return json.loads(content)["results"][0]["matches"][0]["path"]


class Service:
    """A running `d2vpr serve`."""

    def __init__(self, index: Path, port: int) -> None:
        command = [sys.executable, "-m", "d2vpr_hf", "serve", str(index), "--port", str(port), "--reload-seconds", "0.5"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if not self.line.startswith("Serving"):
            raise RuntimeError("The service did not start; its message is above.")

    def stop(self) -> tuple[int, float]:
        """End the service by SIGTERM; return its status and the seconds that it took."""
        start = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(), time.perf_counter() - start


@contextmanager
def meanwhile(action: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run an action in a thread during the block; the event is set at its end."""
    ended = threading.Event()
    thread = threading.Thread(target=action, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_load(port: int, photos: list[Path], expected: dict[Path, Any], clients: int, requests: int) -> tuple[Load, float]:
    """Let clients localise photos at the same time; return the result and its duration."""
    load = Load()

    def work(number: int) -> None:
        client = Client(port, load)
        for step in range(requests):
            photo = photos[(7 * number + step) % len(photos)]
            start = time.perf_counter()
            answer = client.localize(photo)
            load.seconds.append(time.perf_counter() - start)
            load.wrong += answer != expected[photo]

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    return load, time.perf_counter() - start


def bare_seconds(index: PlaceIndex, photos: list[Path]) -> dict[str, float]:
    """Return the seconds of the encoder alone for a photo: one by one, and in batches of 16."""
    encoder = PlaceEncoder.for_index(index)
    encoder.encode(photos[:1])
    start = time.perf_counter()
    for photo in photos:
        encoder.encode([photo])
    alone = (time.perf_counter() - start) / len(photos)
    start = time.perf_counter()
    encoder.encode(photos)
    return {"alone": alone, "in batches": (time.perf_counter() - start) / len(photos)}


def change_index(folder: Path, answers: set[str], ended: threading.Event) -> None:
    """Remove a photo that is not an answer and add it again, until `ended` is set; the service reloads the index each time."""
    while not ended.wait(1.0):
        with PlaceIndex.open(folder) as index:
            row = next(row for row in reversed(range(len(index))) if index.places[row].path not in answers)
            place, descriptor = index.places[row], index.descriptors[row]
            index.remove([place.path])
        time.sleep(1.0)
        with PlaceIndex.open(folder) as index:
            index.add(descriptor, place)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True, help="Index folder; a copy of it is served.")
    parser.add_argument("--photos", type=Path, required=True, help="Folder of queries; the first 40 are used.")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=40, help="Requests of each client.")
    parser.add_argument("--changed-requests", type=int, default=40, help="Requests of each client during reload and restart.")
    parser.add_argument("--json", type=Path, help="File for the numbers.")
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.iterdir() if path.is_file())[:40]
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "index"
        shutil.copytree(options.index, folder)
        index = PlaceIndex.open(folder)
        report["bare"] = bare_seconds(index, photos)
        print(f"bare encoder, seconds a photo: {report['bare']}; index of {len(index)} photos", flush=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        service = Service(folder, port)
        print(service.line.strip(), flush=True)
        alone = Client(port, Load())
        start = time.perf_counter()
        expected = {photo: alone.localize(photo) for photo in photos}
        report["one client"] = (time.perf_counter() - start) / len(photos)
        print(f"one client: {report['one client']:.3f} s a request", flush=True)

        def measure(name: str, requests: int) -> None:
            load, duration = run_load(port, photos, expected, options.clients, requests)
            report[name] = asdict(load) | {"duration": duration, "generations": sorted(load.generations)}
            print(f"{name}: {load.to_text(duration)}", flush=True)

        measure("load", options.requests)
        with meanwhile(lambda ended: change_index(folder, set(expected.values()), ended)):
            measure("reload under load", options.changed_requests)
        services = [service]

        def restart(ended: threading.Event) -> None:
            while not ended.wait(5.0):
                status, seconds = services[-1].stop()
                print(f"SIGTERM under load: status {status} after {seconds:.1f} s", flush=True)
                services.append(Service(folder, port))

        with meanwhile(restart):
            measure("restart under load", options.changed_requests)
        services[-1].stop()
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
