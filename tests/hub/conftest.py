"""A Hub for the tests of this folder, and a graph, which takes seconds to export."""

from pathlib import Path

import pytest

from tests.hub_server import HubServer, running_hub, use_hub


@pytest.fixture
def hub(tmp_path_factory, monkeypatch) -> HubServer:
    """A running Hub that the clients of this process use, logged in as `user`, with an empty cache."""
    with running_hub() as server:
        use_hub(server, tmp_path_factory.mktemp("hub-cache"), monkeypatch)
        yield server


@pytest.fixture(scope="session")
def embedded_graph(tmp_path_factory) -> Path:
    """Folder of the graph of the embedded model; a test copies it before it changes a file."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from d2vpr_hf.export import export

    folder = tmp_path_factory.mktemp("graph") / "embedded"
    export("embedded", folder)
    return folder
