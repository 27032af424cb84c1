"""Attack on the Space by many clients at once: hostile uploads, files of others, forged requests, next to honest searches.

    python -m benchmarks.space_attack --cache build/space --minutes 30 --json build/attack.json

The script starts `spaces/app.py` as `space_load.py` does. Each client is a visitor with a cookie of its own; it sends requests
in rounds until the time is over. Honest answers are compared with those without load. Results are files that another visitor
got, answers with a status of 500, and the growth of memory between a sixth of the time and its end.
"""

import argparse
import io
import json
import random
import secrets
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

from benchmarks.space_load import Server, serving
from tests.readers.photo_bombs import repeated_scans

_POLITE = (503, 507)  # "the queue is full", "no room": sentences and not error pages
_PATIENCE = 300  # seconds
_TOLERANCE = 1e-3  # of similarities: their last digits depend on the other photos of a batch

Answer = list[tuple[str, float]]  # name and similarity of each match, the most similar first


def zip_bomb() -> bytes:
    """Return a zip of 200 MB of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.jpg", bytes(200_000_000))
    return file.getvalue()


def is_same(answer: Answer, expected: Answer) -> bool:
    """Return whether two answers are the same up to rounding, which may exchange photos of nearly the same similarity.

    A photo that is only in one of them must be nearly as similar as the last one.
    """
    if len(answer) != len(expected):
        return False
    by_name, last = dict(expected), expected[-1][1] if expected else 0.0
    by_rank = zip(answer, expected, strict=True)
    if any(abs(found[1] - wanted[1]) > _TOLERANCE for found, wanted in by_rank):
        return False
    return all(abs(similarity - by_name.get(name, last)) <= _TOLERANCE for name, similarity in answer)


class Attack:
    """The requests of all clients, and their results.

    Attributes:
        results: Number of each kind of result.
        foreign: Files that another visitor got.
        errors: Answers that are error pages.
        wrong: Answers to honest requests that are those of another photo.
        expected: Answer for each photo without load.
    """

    def __init__(self, server: Server, photos: list[Path]) -> None:
        self.server = server
        self.photos = [photo.read_bytes() for photo in photos]
        self.hostile = [
            repeated_scans(3000, 150),
            zip_bomb(),
            b"<script>alert(1)</script>",
            self.photos[0][:500],
            b"\xff\xd8" * 5000,
        ]
        self.results: Counter[str] = Counter()
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.wrong: list[str] = []
        self._uploads: list[str] = []
        self._lock = threading.Lock()
        self.expected = [self._search_alone(photo) for photo in self.photos]

    def _search_alone(self, photo: bytes) -> Answer:
        """Return the answer for a photo without load.

        Raises:
            RuntimeError: If there is none.
        """
        answer, reason = self.search("expected", photo)
        if answer is None:
            raise RuntimeError(f"The Space refused a photo of its own town: {reason}")
        return answer

    def run_round(self, requests: int, until: float) -> None:
        """Send requests as a new visitor."""
        visitor = secrets.token_hex(8)
        draws = random.Random(visitor)
        for _ in range(requests):
            if time.monotonic() > until:
                return
            action = draws.choices(
                (self.honest, self.hostile_upload, self.steal, self.forge, self.break_off), weights=(10, 4, 4, 2, 1)
            )[0]
            try:
                action(visitor, draws)
            except OSError as error:
                self.note(f"no answer: {type(error).__name__}")

    def honest(self, visitor: str, draws: random.Random) -> None:
        """Search with a photo."""
        number = draws.randrange(len(self.photos))
        answer, reason = self.search(visitor, self.photos[number])
        if answer is None:  # such as a full queue
            self.note(f"honest request refused: {reason}")
            return
        self.note("honest answer")
        if not is_same(answer, self.expected[number]):
            with self._lock:
                self.wrong.append(f"photo {number}: {answer} instead of {self.expected[number]}")

    def hostile_upload(self, visitor: str, draws: random.Random) -> None:
        """Search with a file that is not a photo, or a bomb."""
        answer, _ = self.search(visitor, draws.choice(self.hostile), draws.choice(("a.jpg", "a.zip", "../../a.jpg", "<b>.png")))
        self.note("hostile upload: " + ("refused" if answer is None else "answered"))

    def steal(self, visitor: str, draws: random.Random) -> None:
        """Ask for a file of another visitor, and use it."""
        with self._lock:
            files = self._uploads[-200:]
        if not files:
            return
        file = draws.choice(files)
        data = json.dumps({"data": [{"path": file, "meta": {"_type": "gradio.FileData"}}, 3]}).encode()
        for path, body in (
            (f"/gradio_api/file={quote(file)}", None),
            ("/gradio_api/call/search", data),
            ("/gradio_api/run/%0Ax", data),
        ):
            status, _ = self.ask(f"thief{visitor}", path, body)
            self.note(f"foreign file: {status}")
            if status == 200:
                self.foreign.append(f"{path} {file}")

    def forge(self, visitor: str, draws: random.Random) -> None:
        """Ask for routes that are refused."""
        path = draws.choice(
            (
                "/gradio_api/file=http://example.org/x.png",
                "/gradio_api/run-history/buckets",
                "/gradio_api/file=/etc/passwd",
                "/monitoring/summary",
                "/gradio_api/queue/data?session_hash=abc%0A",
                "/gradio_api/%2e%2e/config",
            )
        )
        status, _ = self.ask(visitor, path)
        self.note(f"forged: {status}")
        if status == 200:
            self.foreign.append(path)

    def break_off(self, visitor: str, draws: random.Random) -> None:
        """Break an upload off."""
        address = urlsplit(self.server.url)
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 9000000\r\n"
        head += f"Cookie: d2vpr_visitor={visitor}\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
        part = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        with socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=_PATIENCE) as line:
            line.sendall((head + part).encode() + draws.randbytes(1_000_000))
        self.note("upload broken off")

    def search(self, visitor: str, content: bytes, name: str = "a.jpg") -> tuple[Answer | None, str]:
        """Upload a file and search with it; return the matches, or `None` and the reason if it was refused."""
        form = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        status, body = self.ask(
            visitor, "/gradio_api/upload", form + content + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"
        )
        if status != 200:
            return None, f"upload {status}"
        file = json.loads(body)[0]
        with self._lock:
            self._uploads.append(file)
            del self._uploads[:-1000]
        data = json.dumps({"data": [{"path": file, "meta": {"_type": "gradio.FileData"}}, 3]}).encode()
        status, body = self.ask(visitor, "/gradio_api/call/search", data)
        if status != 200:
            return None, f"call {status}"
        _, body = self.ask(visitor, f"/gradio_api/call/search/{json.loads(body)['event_id']}")
        answer = body.rpartition(b"event: complete\ndata: ")[2]
        if answer == body:
            return None, "no complete answer"
        values = json.loads(answer)[0]
        if "matches" not in values:
            return None, str(values.get("error"))[:60]
        return [(match["photo"], match["similarity"]) for match in values["matches"]], ""

    def ask(self, visitor: str, path: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
        """Send a request with a visitor's cookie; return the status and the body of the answer."""
        request = urllib.request.Request(
            self.server.url + path, body, {"Content-Type": kind, "Cookie": f"d2vpr_visitor={visitor}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            content = error.read()
            if error.code >= 500 and error.code not in _POLITE:
                self.errors.append(f"{error.code} {path}")
            return error.code, content

    def note(self, result: str) -> None:
        """Count a result."""
        with self._lock:
            self.results[result] += 1


def main() -> None:
    """Attack, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("build/space"), help="Folder of the town and its index.")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=40, help="Requests of a client in a round.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--json", type=Path, help="File for the numbers.")
    options = parser.parse_args()
    if not list(options.cache.glob("index-*.json")):
        with serving(options.cache):
            print("The town was made.", flush=True)
    with serving(options.cache) as server:
        photos = sorted((next(options.cache.glob("town-*")) / "images" / "test" / "queries").iterdir())[:10]
        attack = Attack(server, photos)
        start = time.monotonic()
        until = start + 60 * options.minutes
        memory: list[tuple[float, float]] = []

        def work(_: int) -> None:
            while time.monotonic() < until:
                attack.run_round(options.requests, until)

        with ThreadPoolExecutor(options.clients + 1) as pool:
            jobs = [pool.submit(work, number) for number in range(options.clients)]
            while not all(job.done() for job in jobs):
                memory.append(((time.monotonic() - start) / 60, server.megabytes()))
                time.sleep(5)
            for job in jobs:
                job.result()
    early = [size for minute, size in memory if minute >= options.minutes / 6][:3]
    late = [size for _, size in memory][-3:]
    growth = 100 * (sum(late) / len(late) / (sum(early) / len(early)) - 1)
    for result, count in sorted(attack.results.items()):
        print(f"{count:7} {result}")
    print(f"foreign files {len(attack.foreign)}, error pages {len(attack.errors)}, wrong answers {len(attack.wrong)}")
    for line in (*attack.foreign[:5], *attack.errors[:5], *attack.wrong[:5]):
        print(line)
    print(f"memory {early[0]:.0f} MB after {options.minutes / 6:.1f} minutes, {late[-1]:.0f} MB at the end: {growth:+.1f} %")
    if options.json is not None:
        report = {
            **{"results": attack.results, "foreign": attack.foreign, "errors": attack.errors, "wrong": attack.wrong},
            "memory": memory,
        }
        options.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if attack.foreign or attack.errors or attack.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
