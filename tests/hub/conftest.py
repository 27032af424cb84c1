"""A Hub for the tests of this folder."""

import pytest

from tests.hub_server import HubServer, running_hub, use_hub


@pytest.fixture
def hub(tmp_path_factory, monkeypatch) -> HubServer:
    """A running Hub that the clients of this process use, logged in as `user`, with an empty cache."""
    with running_hub() as server:
        use_hub(server, tmp_path_factory.mktemp("hub-cache"), monkeypatch)
        yield server
