"""One running Space serves all tests that need one."""

import pytest

from tests.space.running import make_map, running_space


@pytest.fixture(scope="session")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    make_map(folder)
    with running_space(folder) as served:
        yield served
