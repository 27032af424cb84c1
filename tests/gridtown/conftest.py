"""The pictures of a town are drawn once for all tests: they depend on the seed alone, and drawing them takes seconds."""

import functools

import pytest

from d2vpr_hf.gridtown import town


@pytest.fixture(scope="session", autouse=True)
def paintbox_of_a_seed_is_kept():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(town, "make_paintbox", functools.cache(town.make_paintbox))
        yield
