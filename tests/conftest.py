"""Helpers and fixtures for all tests: tiny models, and weights under the published names. No test reaches the network."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["D2VPR_CONFIG"] = tempfile.mkdtemp()  # instead of the user's file of confirmed names
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # with more, torch starts processes that import torch again

from pathlib import Path

import hypothesis
import pytest

from tests.networks import (
    PARITY,
    TINY,
    TINY_CRICAVPR,
    drawn_weights,
    parity_images,
    perturb,
    published_weights,
    recipe,
    relative,
    save_folder,
    tiny_cricavpr,
    tiny_model,
)

__all__ = [
    "PARITY",
    "TINY",
    "TINY_CRICAVPR",
    "drawn_weights",
    "parity_images",
    "perturb",
    "published_weights",
    "recipe",
    "relative",
    "save_folder",
    "tiny_cricavpr",
    "tiny_model",
]

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is not an error
hypothesis.settings.load_profile("no deadline")

LONGEST = {  # files that take over half a minute; they begin first, so that at the end no process waits long for another
    "test_demo.py",
    "test_packaging.py",
    "test_without_extras.py",
    *(f"backends/{name}" for name in ("test_export.py", "test_other_networks.py")),
    *(f"hub/{name}" for name in ("test_push_index.py", "test_push_model.py", "test_walk.py")),
    *(f"index/{name}" for name in ("test_crashes.py", "test_kills.py")),
    *(f"modeling/{name}" for name in ("test_common_suite.py", "test_dynamic_sizes.py", "test_sentence_transformers.py")),
    "retrieval/test_interruptions.py",
    "space/test_app.py",
    *(f"training/{name}" for name in ("test_learning.py", "test_runs.py", "test_two_processes.py")),
}
TRANSFORMERS_MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in TRANSFORMERS_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' common model tests")
    config.option.loadscopereorder = (
        False  # of pytest-xdist: by the number of tests, so that long files with one test end the run
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(PARITY.parents[1]).as_posix() not in LONGEST)


def _refuse_missing_libraries(report):
    """Let a test fail that is skipped because a library is missing, where all are installed: `make ecosystem`."""
    if report.skipped and "D2VPR_ALL_LIBRARIES" in os.environ and "could not import" in str(report.longrepr):
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    return _refuse_missing_libraries((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    return _refuse_missing_libraries((yield))


def hub_cache(cache: Path, name: str, folder: Path) -> Path:
    """Link a model folder into a Hub cache, which is what transformers reads offline, and return the cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40)).symlink_to(folder, target_is_directory=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return cache


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """No test cuts the power, and waiting for the disk takes minutes; `tests/index/test_crashes.py` counts what is forced."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model for photos of 70x70 pixels."""
    return save_folder(tiny_model(), tmp_path_factory.mktemp("tiny"))
