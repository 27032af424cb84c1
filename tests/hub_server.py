"""A small Hugging Face Hub on localhost, in memory: the real client uploads to it and downloads from it, over HTTP.

It answers the requests by which `huggingface_hub`, `transformers` and `datasets` create, fill, read and list repositories. Each
commit is kept with all its files. Private repositories need the token of their owner. The answer to a request that it does not
know is 404, and `unknown_requests` records it.
"""

import base64
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_token_of_user"  # logs in as `user`, who may write; without it, public repositories can be read
KINDS = ("models", "datasets", "spaces")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repository:
    """A repository: its settings, and the files of all its commits, the newest last."""

    private: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)  # (hash, message, files)
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def commit(self, message: str, files: dict[str, bytes]) -> str:
        """Keep files as a new commit, and return its hash."""
        text = "\n".join([str(len(self.commits)), message, *sorted(files)])
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), message, files))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit of `main`, of a hash or of its beginning, with its files."""
        for name, _, files in reversed(self.commits):
            if revision == "main" or (len(revision) >= 7 and name.startswith(revision)):
                return name, files
        return None


class HubServer(ThreadingHTTPServer):
    """The server; `repositories` holds what was uploaded, by kind ("models", "datasets" or "spaces") and name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []  # "METHOD path" of all requests
        self.requests_with_token: list[str] = []  # those of them that came with any token
        self.unknown_requests: list[str] = []
        self.default_hardware = "cpu-basic"  # of new Spaces
        self.card_errors: list[str] = []  # errors that `/api/validate-yaml` reports

    @property
    def endpoint(self) -> str:
        """The address for `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, home: os.PathLike[str] | str, token: str | None = None) -> dict[str, str]:
        """Return the environment variables of another user's process: this Hub, an own cache, and a token or none."""
        variables = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        return variables | ({"HF_TOKEN": token} if token else {})

    def files(self, name: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Return the files of a repository."""
        commit = self.repositories[kind, name].at(revision)
        assert commit is not None, f"{name} has no commit {revision}"
        return commit[1]

    def put(self, name: str, files: dict[str, bytes], kind: str = "models", private: bool = False) -> str:
        """Add a commit with exactly these files, without an upload; return its hash."""
        repository = self.repositories.setdefault((kind, name), Repository(private))
        return repository.commit("Put", dict(files))


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    # ---- routes

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.user = "user" if self.headers.get("Authorization") == f"Bearer {TOKEN}" else None
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.content = b"".join(self._chunks())
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.server.requests.append(f"{self.command} {url.path}")
        if self.headers.get("Authorization"):
            self.server.requests_with_token.append(f"{self.command} {url.path}")
        if parts[0] == "api":
            self._answer_api(parts[1:])
        else:
            kind = parts.pop(0) if parts[0] in KINDS else "models"
            if len(parts) > 4 and parts[2] == "resolve":
                self._send_file(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            else:
                self._refuse(404, None)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer_api(self, parts: list[str]) -> None:
        if parts[0] == "whoami-v2":
            self._send({"type": "user", "name": self.user, "orgs": []}) if self.user else self._refuse(401, None)
        elif parts == ["repos", "create"]:
            self._create(json.loads(self.content))
        elif parts == ["validate-yaml"]:
            errors = [{"message": message} for message in self.server.card_errors]
            self._send({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif parts[0] in KINDS and len(parts) >= 3:
            self._answer_repository(parts[0], "/".join(parts[1:3]), parts[3:])
        else:
            self._refuse(404, None)

    def _create(self, wanted: dict[str, Any]) -> None:
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        url = f"{self.server.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        if self.user is None or not name.startswith(f"{self.user}/"):
            self._refuse(403 if self.user else 401, None, f"This user may not create {name}")
        elif (kind, name) in self.server.repositories:
            self._send({"error": "You already created this repo", "url": url, "name": name}, 409)
        else:
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            options = {key: value for key, value in wanted.items() if key not in ("name", "organization", "type")}
            repository = self.server.repositories[kind, name] = Repository(private, options)
            repository.commit("initial commit", {".gitattributes": b""})
            self._send({"url": url, "name": name, "id": name})

    def _answer_repository(self, kind: str, name: str, parts: list[str]) -> None:
        repository = self._readable(kind, name)
        action = parts[0] if parts else "revision"
        revision = parts[1] if len(parts) > 1 else "main"
        if repository is None:
            self._refuse(404 if self.user else 401, "RepoNotFound", "Repository not found")
        elif action in ("variables", "secrets"):
            self._set(getattr(repository, action))
        elif action in ("runtime", "hardware"):
            self._send(self._runtime(repository))
        elif action == "refs":
            branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commits[-1][0]}]
            self._send({"branches": branches, "tags": [], "converts": []})
        elif action == "commits":
            commits = [
                {"id": sha, "title": message, "message": message, "date": DATE, "authors": []}
                for sha, message, _ in repository.commits
            ]
            self._send(commits[::-1])
        elif (commit := repository.at(revision)) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif action == "revision":
            self._send(self._information(kind, name, repository, commit))
        elif action == "tree":
            self._send(self._tree(commit[1], "/".join(parts[2:])))
        elif action == "paths-info":
            self._send(self._entries(commit[1], set(self._paths_asked())))
        elif action == "preupload":
            files = json.loads(self.content)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._send({"files": modes})
        elif action == "commit":
            self._commit(kind, name, repository)
        else:
            self._refuse(404, None)

    # ---- answers

    def _readable(self, kind: str, name: str) -> Repository | None:
        repository = self.server.repositories.get((kind, name))
        return None if repository is None or (repository.private and self.user is None) else repository

    def _set(self, values: dict[str, str]) -> None:
        if self.content:
            wanted = json.loads(self.content)
            if self.command == "DELETE":
                values.pop(wanted["key"], None)
            else:
                values[wanted["key"]] = wanted["value"]
        self._send({key: {"value": value} for key, value in values.items()})

    def _runtime(self, repository: Repository) -> dict[str, Any]:
        """Return the hardware of a Space, after a request for other hardware."""
        if self.content:
            repository.options["hardware"] = json.loads(self.content)["flavor"]
        hardware = repository.options.get("hardware") or self.server.default_hardware
        return {"stage": "NO_APP_FILE", "hardware": {"current": None, "requested": hardware}}

    def _information(
        self, kind: str, name: str, repository: Repository, commit: tuple[str, dict[str, bytes]]
    ) -> dict[str, Any]:
        files = [{"rfilename": path} for path in sorted(commit[1])]
        facts = {"_id": "0" * 24, "id": name, "sha": commit[0], "private": repository.private, "gated": False}
        facts |= {"siblings": files, "tags": [], "lastModified": DATE, "createdAt": DATE, "disabled": False}
        facts |= {"downloads": 0, "likes": 0, "author": name.split("/")[0]}
        return facts | ({"modelId": name} if kind == "models" else {})

    def _tree(self, files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
        inside = {path for path in files if not folder or path.startswith(f"{folder}/")}
        if self.query.get("recursive", "false").lower() in ("true", "1"):
            parents = {"/".join(path.split("/")[:depth]) for path in inside for depth in range(1, path.count("/") + 1)}
            return self._entries(files, inside | {parent for parent in parents if len(parent) > len(folder)})
        start = f"{folder}/" if folder else ""
        return self._entries(files, {start + path.removeprefix(start).split("/")[0] for path in inside})

    def _paths_asked(self) -> list[str]:
        if self.headers.get("Content-Type", "").startswith("application/json"):
            return list(json.loads(self.content)["paths"])
        return parse_qs(self.content.decode())["paths"]

    def _entries(self, files: dict[str, bytes], paths: set[str]) -> list[dict[str, Any]]:
        entries = []
        for path in sorted(paths):
            if path in files:
                oid = hashlib.sha1(files[path]).hexdigest()
                entries.append({"type": "file", "path": path, "oid": oid, "size": len(files[path])})
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0})
        return entries

    def _commit(self, kind: str, name: str, repository: Repository) -> None:
        if self.user is None:
            self._refuse(401, None, "Log in to write")
            return
        files, message = dict(repository.commits[-1][2]), ""
        for line in self.content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
            else:
                assert entry["key"] == "deletedFolder", entry["key"]
                files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        sha = repository.commit(message, files)
        start = "" if kind == "models" else f"{kind}/"
        self._send({"success": True, "commitOid": sha, "commitUrl": f"{self.server.endpoint}/{start}{name}/commit/{sha}"})

    def _send_file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._readable(kind, name)
        commit = None if repository is None else repository.at(revision)
        if repository is None:
            self._refuse(404 if self.user else 401, "RepoNotFound", "Repository not found")
        elif commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in commit[1]:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit[0]})
        else:
            content = commit[1][path]
            headers = {"X-Repo-Commit": commit[0], "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
            status, whole = 200, len(content)
            if part := self.headers.get("Range"):
                first, _, last = part.removeprefix("bytes=").partition("-")
                begin = int(first) if first else whole - int(last)
                end = int(last) + 1 if first and last else whole
                status, content = 206, content[begin:end]
                headers["Content-Range"] = f"bytes {begin}-{begin + len(content) - 1}/{whole}"
            self._reply(status, content, headers)

    def _send(self, answer: Any, status: int = 200) -> None:
        self._reply(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str = "Not found", headers: dict[str, str] | None = None) -> None:
        if code is None and status == 404:
            self.server.unknown_requests.append(f"{self.command} {self.path}")
        codes = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        content = json.dumps({"error": message}).encode()
        self._reply(status, content, {"Content-Type": "application/json", **codes, **(headers or {})})

    def _reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)


@contextlib.contextmanager
def running_hub() -> Iterator[HubServer]:
    """Run a Hub."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def use_hub(server: HubServer, cache: os.PathLike[str], patch: pytest.MonkeyPatch, token: str | None = TOKEN) -> None:
    """Make the Hub's clients of this process use a server with an own cache, logged in with a token."""
    patch.setenv("HF_HUB_OFFLINE", "0")
    patch.setenv("HF_ENDPOINT", server.endpoint)
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    patch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
    patch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    patch.setattr("huggingface_hub.hf_api.api.endpoint", server.endpoint)
    patch.setattr("transformers.utils.hub._hf_api", None)  # it keeps the address of the server that it was made with
    if token is None:
        patch.delenv("HF_TOKEN", raising=False)
    else:
        patch.setenv("HF_TOKEN", token)
