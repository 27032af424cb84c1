"""A published Space starts: its files alone, in a process without an installation of this package, answer a request."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import gradio
import pytest
from gradio_client import Client, handle_file

from d2vpr_hf.hub.push_space import push_space
from tests.hub.spaces import put_index


def test_a_pushed_space_answers(hub, tmp_path):
    _, photos = put_index(hub, tmp_path, private=True)
    push_space("user/where", index="user/map", secrets={"HF_TOKEN": os.environ["HF_TOKEN"]})
    folder = tmp_path / "app"
    for path, content in hub.files("user/where", "spaces").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    space = hub.repositories["spaces", "user/where"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*", "GRADIO_SERVER_PORT": str(port)}
    environment |= {"PYTHONPATH": str(Path(gradio.__file__).parents[1]), **hub.environment(tmp_path / "home")}
    # without `site` Python does not see an editable installation of this package
    command = [sys.executable, "-S", "app.py"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment | space.variables | space.secrets, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        photo = sorted(photos.glob("*.jpg"))[0]
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        assert client.predict(handle_file(photo), api_name="/search")["matches"][0]["photo"] == photo.name
        with pytest.raises(Exception, match="its photo is not here"):
            client.predict(handle_file(photo), api_name="/explain")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=60) as answer:
            components = {part["props"].get("elem_id"): part["props"] for part in json.load(answer)["components"]}
        assert "photos of user/map with the small embedded model. It came without photos" in components["title"]["value"]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
