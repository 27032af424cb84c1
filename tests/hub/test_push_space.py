"""Publishing the Space: one commit has everything that it needs, and no files of earlier commits; no network."""

import hashlib
import re
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from d2vpr_hf.cli import app
from d2vpr_hf.hub import push_space as module
from d2vpr_hf.hub.push_space import build_wheel, find_space_folder, push_space, stage_space
from tests.fake_hub import FakeHub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(module, "HfApi", fake)
    return fake


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "d2vpr_hf-0.1.0-py3-none-any.whl"
    path.write_bytes(b"a wheel")
    return path


def test_folder_and_wheel_are_uploaded_together(fake_hub, wheel):
    (fake_hub.snapshot("user/where", "space")).mkdir(parents=True)
    (fake_hub.snapshot("user/where", "space") / "d2vpr_hf-0.0.9-py3-none-any.whl").write_bytes(b"old")
    assert (
        push_space("user/where", wheel=wheel, private=True, variables={"D2VPR_INDEX": "user/map"}) == "https://hub/user/where"
    )
    assert fake_hub.created["user/where"] == {"repo_type": "space", "private": True, "space_sdk": "gradio"}
    assert fake_hub.variables == {"D2VPR_INDEX": "user/map"}
    pushed = fake_hub.snapshot("user/where", "space")
    sources = {path.name for path in (ROOT / "spaces").iterdir() if path.suffix in {".py", ".css", ".js", ".md", ".txt"}}
    assert {path.name for path in pushed.iterdir()} == sources | {wheel.name}
    assert {"app.py", "README.md", "requirements.txt"} <= sources
    digest = hashlib.sha256(b"a wheel").hexdigest()
    address = f"https://huggingface.co/spaces/user/where/resolve/main/{wheel.name}#sha256={digest}"
    assert f"\nd2vpr-hf[demo] @ {address}\n" in (pushed / "requirements.txt").read_text()


def test_staging_does_not_change_the_folder(wheel, tmp_path):
    before = {path.name: path.read_bytes() for path in find_space_folder().iterdir() if path.is_file()}
    stage_space(tmp_path / "staged", wheel, "user/where")
    assert before == {path.name: path.read_bytes() for path in find_space_folder().iterdir() if path.is_file()}
    assert b"\nd2vpr-hf[demo]\n" in before["requirements.txt"]


def test_push_space_command(fake_hub, wheel, tmp_path, monkeypatch):
    run = CliRunner().invoke
    done = run(app, ["push-space", "user/where", "--wheel", str(wheel), "--index", "user/map", "--public"])
    assert done.output == "https://hub/user/where\n" and fake_hub.created["user/where"]["private"] is False
    done = run(app, ["push-space", "user/where", "--wheel", str(wheel), "--model", str(tmp_path)])
    assert "is a folder on this machine" in str(done.exception)
    done = run(app, ["push-space", "user/where", "--wheel", str(tmp_path / "gone.whl")])
    assert "There is no wheel" in str(done.exception)
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "site-packages" / "d2vpr_hf")
    assert "Give `--wheel FILE`" in str(run(app, ["push-space", "user/where"]).exception)


def test_a_wheel_is_built_from_the_sources_only(tmp_path, monkeypatch):
    """Files in `build/` from earlier builds would get into a wheel that is built in place."""
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "off")  # "off" makes pip build with the installed packages, offline
    built = build_wheel(tmp_path)
    names = zipfile.ZipFile(built).namelist()
    assert {"d2vpr_hf/spaces/app.py", "d2vpr_hf/modeling/modeling_d2vpr.py", "d2vpr_hf/training/distill.py"} <= set(names)
    assert not [name for name in names if name.startswith("build/")]


def test_without_sources_a_wheel_must_be_given(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "site-packages" / "d2vpr_hf")
    with pytest.raises(FileNotFoundError, match=r"Give `wheel=\.\.\.`"):
        build_wheel(tmp_path)


def test_the_folder_is_found_in_the_tree_and_in_an_installation(tmp_path):
    assert find_space_folder() == ROOT / "spaces"
    installed = tmp_path / "d2vpr_hf"
    with pytest.raises(FileNotFoundError, match="Install d2vpr-hf again"):
        find_space_folder(installed)
    (installed / "spaces").mkdir(parents=True)
    (installed / "spaces" / "app.py").touch()
    assert find_space_folder(installed) == installed / "spaces"


def test_the_card_names_the_tested_versions():
    """The Hub installs the Gradio that the card names; these tests run with the same version."""
    head = yaml.safe_load((ROOT / "spaces" / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert f"gradio=={head['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert head["sdk"] == "gradio" and head["app_file"] == "app.py" and len(head["short_description"]) <= 60
    minimum, below = re.search(r">=3\.(\d+)", (ROOT / "pyproject.toml").read_text()).group(1), 14
    assert int(minimum) <= int(head["python_version"].split(".")[1]) < below
