"""Times and memory of the Space: start-up, first result, and load by many clients, which must get their own answers.

    python benchmarks/space_load.py --cache build/space --json build/space.json

The script starts `spaces/app.py` with the embedded model and its town: once to make the map, unless it is cached, and once with
the cached map. The time to the first result is measured in Chromium, from the click on an example to the answer on the page, if
Playwright and Chromium are installed (`make browser`). Then clients of `gradio_client`, each a thread, locate photos of the
town; each compares every answer with that for the same photo without load. Clients and server share the machine.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file

APP = Path(__file__).parents[1] / "spaces" / "app.py"
_PATIENCE = 120  # seconds that clients wait for an upload or an answer, on a busy machine


@dataclass
class Load:
    """Result of a load.

    Attributes:
        seconds: Duration of each answered request.
        errors: Errors of the other requests.
        wrong: Number of answers that belong to another client's photo.
        megabytes: Memory of the server in MB, with the number of answers before.
    """

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: int = 0
    megabytes: list[tuple[int, float]] = field(default_factory=list)


class Server:
    """A running Space.

    Attributes:
        url: Address of its page.
        seconds: Seconds from its start until its page answered.
    """

    def __init__(self, cache: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = os.environ | {"D2VPR_CACHE": str(cache), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
        started = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, str(APP)], env=environment, stdout=subprocess.DEVNULL)
        while not self._answers():
            if self.process.poll() is not None:
                raise RuntimeError("The Space ended before its page answered.")
            time.sleep(0.05)
        self.seconds = time.perf_counter() - started

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(self.url, timeout=30).status == 200)
        except OSError:
            return False

    def megabytes(self) -> float:
        """Return the server's resident memory; Linux only."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """Stop the Space."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


@contextmanager
def serving(cache: Path) -> Iterator[Server]:
    """Run a Space inside a `with` block."""
    server = Server(cache)
    try:
        yield server
    finally:
        server.stop()


def first_results(url: str, pages: int) -> list[float] | None:
    """Return the seconds from the click to the answer, each on a fresh page; `None` without a browser."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        seconds = [_click(browser.new_page(), url, number) for number in range(pages)]
        browser.close()
    return seconds


def _click(page: Any, url: str, number: int) -> float:
    page.goto(url)
    page.wait_for_selector(".strip button img")
    time.sleep(1)  # visitors look at the page before they click
    started = time.perf_counter()
    page.locator(".strip button").nth(number % 8).click()
    page.wait_for_selector(".verdict")
    seconds = time.perf_counter() - started
    page.close()
    return seconds


def run_load(server: Server, photos: list[Path], clients: int, requests: int) -> Load:
    """Let clients locate photos at the same time, and compare their answers with those of a single client."""
    alone = Client(server.url, verbose=False, httpx_kwargs={"timeout": _PATIENCE})
    expected = {photo: _ask(alone, photo) for photo in photos}
    load = Load()
    load.megabytes.append((0, server.megabytes()))
    crowd = [Client(server.url, verbose=False, httpx_kwargs={"timeout": _PATIENCE}) for _ in range(clients)]

    def work(number: int) -> None:
        for step in range(requests):
            photo = photos[(7 * number + step) % len(photos)]
            started = time.perf_counter()
            try:
                answer = _ask(crowd[number], photo)
            except Exception as error:  # any error is a result of the load
                load.errors.append(repr(error))
                continue
            load.seconds.append(time.perf_counter() - started)
            load.wrong += answer != expected[photo]
            if len(load.seconds) % (clients * requests // 10) == 0:
                load.megabytes.append((len(load.seconds), server.megabytes()))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))
    return load


def _ask(client: Client, photo: Path) -> list[str]:
    return [match["photo"] for match in client.predict(handle_file(photo), top_k=3, api_name="/localize")["matches"]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("build/space"), help="Folder of the town and its index.")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=20, help="Requests of each client.")
    parser.add_argument("--pages", type=int, default=5, help="Clicks in the browser.")
    parser.add_argument("--json", type=Path, help="File for the numbers.")
    options = parser.parse_args()
    if not list(options.cache.glob("index-*.json")):
        with serving(options.cache) as first:
            print(f"first start, with drawing and indexing the town: {first.seconds:.1f} s", flush=True)
    with serving(options.cache) as server:
        print(f"start with a cached index: {server.seconds:.1f} s", flush=True)
        clicks = first_results(server.url, options.pages)
        if clicks is not None:
            print(f"from click to answer: first {clicks[0]:.2f} s, median {statistics.median(clicks):.2f} s", flush=True)
        photos = sorted((next(options.cache.glob("town-*")) / "images" / "test" / "queries").iterdir())[:40]
        started = time.perf_counter()
        load = run_load(server, photos, options.clients, options.requests)
        seconds = time.perf_counter() - started
    ordered = sorted(load.seconds)
    print(f"{len(ordered)} answers to {options.clients} clients at once, {len(ordered) / seconds:.1f} a second")
    print(f"errors {len(load.errors)}, answers for another client's photo {load.wrong}")
    print(f"seconds of a request: median {statistics.median(ordered):.2f}, p95 {ordered[int(0.95 * len(ordered))]:.2f}")
    print("server's memory in MB: " + ", ".join(f"{memory:.0f} after {count}" for count, memory in load.megabytes))
    if options.json is not None:
        report = {"start": server.seconds, "clicks": clicks, **asdict(load)}
        options.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
