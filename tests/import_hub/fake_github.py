"""A GitHub of three kinds of addresses: archives of commits, release files, and the API for the commit of a branch."""

import contextlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEW_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


class FakeGitHub:
    """The files that the server has, by path; requests are recorded."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.url = ""

    def add_archive(
        self, repository: str, files: Mapping[str, bytes | str], commit: str = COMMIT, *, comment: str | None = None
    ) -> None:
        self.files[f"/{repository}/archive/{commit}.zip"] = zip_of(
            {f"{repository.partition('/')[2]}-{commit}/{name}": content for name, content in files.items()},
            commit if comment is None else comment,
        )


def zip_of(files: Mapping[str, bytes | str], comment: str = "", links: Mapping[str, str] | None = None) -> bytes:
    """Return a zip file; `links` are symbolic links by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.comment = comment.encode()
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, target)
    return out.getvalue()


@contextlib.contextmanager
def serve(github: FakeGitHub) -> Iterator[FakeGitHub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            github.requests.append(self.path)
            content = github.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    github.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield github
    finally:
        server.shutdown()
        server.server_close()
