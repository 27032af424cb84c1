"""The pictures of a town are drawn once for all tests, because they depend on the seed only, and drawing takes seconds."""

import functools

import pytest

from d2vpr_hf.gridtown import town


@pytest.fixture(scope="session", autouse=True)
def cache_paintboxes():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(town, "make_paintbox", functools.cache(town.make_paintbox))
        yield
