"""Publishing the Space: one commit has everything that it needs, and no files of earlier commits; the Hub is on localhost."""

import logging
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import d2vpr_hf
from d2vpr_hf.cli import app
from d2vpr_hf.hub import space_files as module
from d2vpr_hf.hub.push_space import push_space
from d2vpr_hf.hub.space_files import RUNTIMES, find_space_folder, read_package, space_files
from tests.conftest import save_folder, tiny_model
from tests.hub.spaces import folder_files, put_index

ROOT = Path(__file__).parents[2]
PAGE = {"app.py", "style.css", "behaviour.js", "README.md", "requirements.txt", "LICENSE"}


def metadata(files):
    return yaml.safe_load(files["README.md"].decode().split("---")[1])


def pinned(text):
    return dict(re.findall(r"(?m)^([\w-]+)(?:\[\w+\])?==(\S+)$", text))


@pytest.fixture
def model_commit(hub, tiny_folder):
    return hub.put("user/model", folder_files(tiny_folder))


def test_page_and_package_are_uploaded_together(hub):
    url = push_space("user/where", private=True)
    space = hub.repositories["spaces", "user/where"]
    assert url == f"{hub.endpoint}/spaces/user/where/commit/{space.commits[-1][0]}"
    assert space.private and space.options["sdk"] == "gradio" and len(space.commits) == 2 and space.variables == {}
    files = hub.files("user/where", "spaces")
    assert {path for path in files if "/" not in path} == PAGE | {".gitattributes"}
    assert files["app.py"] == (ROOT / "spaces" / "app.py").read_bytes()
    assert b"USER/NAME" not in files["README.md"] and b'Client("user/where")' in files["README.md"]
    assert files["d2vpr_hf/modeling/modeling_d2vpr.py"] == (ROOT / "modeling" / "modeling_d2vpr.py").read_bytes()
    assert {"d2vpr_hf/__init__.pyi", "d2vpr_hf/assets/d2vpr-tiny/model.safetensors"} <= set(files)
    assert not [path for path in files if path.startswith(("d2vpr_hf/training", "d2vpr_hf/spaces")) or "__pycache__" in path]
    assert hub.unknown_requests == []


def test_files_of_an_earlier_upload_are_removed_and_other_files_stay(hub):
    earlier = {"d2vpr_hf-0.0.9-py3-none-any.whl": b"old", "d2vpr_hf/space/gone.py": b"old", "picture.png": b"mine"}
    hub.put("user/where", earlier, "spaces")
    push_space("user/where")
    space = hub.repositories["spaces", "user/where"]
    assert len(space.commits) == 2 and set(earlier) & set(hub.files("user/where", "spaces")) == {"picture.png"}


@pytest.mark.parametrize(
    ("default", "hardware", "cpu"),
    [
        ("cpu-basic", None, True),
        ("zero-a10g", None, False),
        ("cpu-basic", "t4-small", False),
        ("zero-a10g", "cpu-upgrade", True),
    ],
)
def test_requirements_fit_the_hardware(hub, default, hardware, cpu):
    """On a CPU torch comes without GPU libraries; the Hub may give a new Space ZeroGPU, which refuses such a torch."""
    hub.default_hardware = default
    push_space("user/where", hardware=hardware)
    files = hub.files("user/where", "spaces")
    first = files["requirements.txt"].decode().splitlines()[0]
    assert first.startswith("--extra-index-url https://download.pytorch.org/whl/cpu") is cpu
    assert metadata(files)["suggested_hardware"] == (hardware or default)
    push_space("user/where", hardware="t4-small")  # of a Space that exists
    assert hub.repositories["spaces", "user/where"].options["hardware"] == "t4-small"
    assert "--extra-index-url" not in hub.files("user/where", "spaces")["requirements.txt"].decode()


def test_model_and_index_are_named_in_their_revisions(hub, model_commit, tmp_path):
    index_commit, _ = put_index(hub, tmp_path, "user/model")
    push_space("user/where", index="user/map")
    hub.put("user/model", {"config.json": b"{}"})  # later commits change nothing
    space = hub.repositories["spaces", "user/where"]
    assert space.variables == {"D2VPR_INDEX": f"user/map@{index_commit}", "D2VPR_MODEL": f"user/model@{model_commit}"}
    head = metadata(hub.files("user/where", "spaces"))
    assert head["models"] == ["user/model"] and head["datasets"] == ["user/map"]
    assert head["preload_from_hub"] == [f"user/model config.json,model.safetensors,preprocessor_config.json {model_commit}"]
    card = hub.files("user/where", "spaces")["README.md"].decode()
    assert "The map is [user/map](https://huggingface.co/datasets/user/map)." in card and "simulated town" not in card
    assert head["title"] == "Where was this photo taken?" and head["emoji"] == "🧭" and head["python_version"] == "3.12"


def test_settings_of_an_earlier_upload_are_removed(hub, model_commit, tmp_path):
    put_index(hub, tmp_path)
    push_space("user/where", index="user/map", variables={"D2VPR_TILES": "https://host/{z}/{x}/{y}.png"})
    space = hub.repositories["spaces", "user/where"]
    assert set(space.variables) == {"D2VPR_INDEX", "D2VPR_TILES"}  # the index is of the embedded model
    push_space("user/where", model="user/model")
    assert set(space.variables) == {"D2VPR_MODEL", "D2VPR_TILES"}
    push_space("user/where", model="embedded")
    assert space.variables["D2VPR_MODEL"] == "embedded"
    assert not {"models", "preload_from_hub"} & set(metadata(hub.files("user/where", "spaces")))


def test_a_private_index_needs_a_token(hub, tmp_path, caplog):
    put_index(hub, tmp_path, private=True)
    with caplog.at_level(logging.WARNING):
        push_space("user/where", index="user/map", private=False)
    assert "user/map is private, and the Space user/where has no secret HF_TOKEN" in caplog.text
    caplog.clear()
    push_space("user/where", index="user/map", secrets={"HF_TOKEN": "hf_reads"})
    assert hub.repositories["spaces", "user/where"].secrets == {"HF_TOKEN": "hf_reads"}
    push_space("user/where", index="user/map")
    assert "has no secret" not in caplog.text


def test_a_private_model_is_not_preloaded(hub, tiny_folder):
    """The builder downloads without a token."""
    hub.put("user/model", folder_files(tiny_folder), private=True)
    push_space("user/where", model="user/model")
    head = metadata(hub.files("user/where", "spaces"))
    assert head["models"] == ["user/model"] and "preload_from_hub" not in head


def test_another_visibility_than_the_space_has_is_refused(hub):
    push_space("user/where", private=False)
    with pytest.raises(ValueError, match="user/where is public on the Hub already, which `private=True` does not change"):
        push_space("user/where", private=True, variables={"D2VPR_TILES": "x"})
    space = hub.repositories["spaces", "user/where"]
    assert not space.private and not space.variables and len(space.commits) == 2


def test_a_space_that_cannot_start_is_not_published(hub, model_commit, tmp_path):
    put_index(hub, tmp_path)
    folder = save_folder(tiny_model(), tmp_path / "my-model")
    put_index(hub, tmp_path / "other", str(folder), "user/map-of-a-folder")
    hub.put("user/photos", {"README.md": b"# Photos"}, "datasets")
    hub.put("user/half", {"config.json": b"{}"})
    cases = [
        ({"index": "user/gone"}, r"There is no index user/gone on the Hub .*`d2vpr push INDEX user/gone`"),
        ({"index": "user/map@1234567"}, "There is no index user/map@1234567"),
        ({"index": "user/photos"}, "is not an index: it has no manifest.json"),
        ({"index": "user/map-of-a-folder"}, "names the model .*my-model, a folder that the Space cannot read"),
        ({"index": str(tmp_path / "index")}, r"is a folder on this machine, .*`d2vpr push \S+index USER/NAME`"),
        ({"model": str(folder)}, "is a folder on this machine"),
        ({"model": "user/gone"}, "There is no model user/gone"),
        ({"model": "user/half"}, "it has no preprocessor_config.json, model"),
        ({"hardware": "gpu"}, "Expected one of cpu-basic, cpu-upgrade, zero-a10g"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            push_space("user/where", **arguments)
    with pytest.raises(FileNotFoundError, match="There is no wheel"):
        push_space("user/where", wheel=tmp_path / "gone.whl")
    assert ("spaces", "user/where") not in hub.repositories


def test_push_space_command(hub, tmp_path, monkeypatch):
    put_index(hub, tmp_path, private=True)
    run = CliRunner().invoke
    done = run(app, ["push-space", "user/where", "--index", "user/map", "--public"])
    assert done.exit_code == 0 and f"{hub.endpoint}/spaces/user/where/commit/" in done.output
    assert hub.repositories["spaces", "user/where"].private is False
    done = run(app, ["push-space", "user/where", "--model", str(tmp_path)])
    assert "is a folder on this machine" in str(done.exception)
    done = run(app, ["push-space", "user/where", "--wheel", str(tmp_path / "gone.whl")])
    assert "There is no wheel" in str(done.exception)
    assert "There is no `--hardware gpu`" in str(run(app, ["push-space", "user/where", "--hardware", "gpu"]).exception)
    done = run(app, ["push-space", "user/where", "--secret", "MY_UNSET_TOKEN"])
    assert "MY_UNSET_TOKEN, which is not set" in str(done.exception)
    monkeypatch.setenv("MY_TOKEN", "hf_reads")
    done = run(app, ["push-space", "user/where", "--index", "user/map", "--secret", "MY_TOKEN", "--hardware", "cpu-upgrade"])
    assert done.exit_code == 0 and hub.repositories["spaces", "user/where"].secrets == {"MY_TOKEN": "hf_reads"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy of the sources: a build in place would take files of earlier builds."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "d2vpr_hf", "modeling", "training", "spaces"):
        (sources / name).symlink_to(ROOT / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        out,
        sources,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_a_wheel_has_the_files_of_the_installation(wheel):
    """So the Space is the same, and no other file of the source tree gets into it."""
    assert space_files("user/where", read_package(wheel)) == space_files("user/where", read_package())


def test_another_wheel_is_refused(wheel, tmp_path):
    wrong_wheel = tmp_path / "d2vpr_hf-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wrong_wheel, "w") as archive:
        archive.writestr("d2vpr_hf-9.9.dist-info/METADATA", "Metadata-Version: 2.4\nName: d2vpr-hf\nVersion: 9.9\n")
    with pytest.raises(ValueError, match=f"is a wheel of d2vpr-hf 9.9; expected d2vpr-hf {d2vpr_hf.__version__}"):
        read_package(wrong_wheel)
    wrong_wheel.write_bytes(b"not a wheel")
    with pytest.raises(ValueError, match="is not a wheel that can be read"):
        read_package(wrong_wheel)
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(wrong_wheel, "w") as old:  # of before requirements had versions
        for name in archive.namelist():
            old.writestr(name, b"d2vpr-hf[demo]\n" if name.endswith("spaces/requirements.txt") else archive.read(name))
    with pytest.raises(ValueError, match="has no Space that this version can publish"):
        read_package(wrong_wheel)


def test_the_folder_is_found_in_the_tree_and_in_an_installation(wheel, tmp_path, monkeypatch):
    assert find_space_folder() == ROOT / "spaces"
    expected = space_files("user/where", read_package())
    with pytest.raises(FileNotFoundError, match="Install d2vpr-hf again"):
        find_space_folder(tmp_path / "d2vpr_hf")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    assert find_space_folder(tmp_path / "d2vpr_hf") == tmp_path / "d2vpr_hf" / "spaces"
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "d2vpr_hf")
    assert space_files("user/where", read_package()) == expected


def test_requirements_are_the_dependencies_in_their_tested_versions():
    """The builder installs Gradio itself; another version in the requirements would be a conflict."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = re.findall(r'"([\w-]+)(?:\[\w+\])?>=', project.split("\ndependencies = [")[1].split("\n]")[0])
    extras = (re.search(rf"(?m)^{extra} = \[(.*)\]", project)[1] for extra in ("demo", "models"))
    extra_dependencies = re.findall(r'"([\w-]+)(?:\[\w+\])?>=', " ".join(extras))
    requirements = pinned((ROOT / "spaces" / "requirements.txt").read_text(encoding="utf-8"))
    plain = {name.replace("_", "-").lower() for name in requirements}
    assert plain == {*dependencies, *extra_dependencies} - {"gradio"}
    tested = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    requirements |= pinned("\n".join(RUNTIMES.values()))  # of models that are graphs
    assert requirements == {name: tested[name] for name in requirements}


def test_the_card_names_the_tested_versions():
    """The Hub installs the Gradio that the card names; these tests run with the same version."""
    head = yaml.safe_load((ROOT / "spaces" / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert f"gradio=={head['sdk_version']}\n" in (ROOT / "constraints.txt").read_text()
    assert head["sdk"] == "gradio" and head["app_file"] == "app.py" and len(head["short_description"]) <= 60
    assert {head["colorFrom"], head["colorTo"]} <= {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    minimum, below = re.search(r">=3\.(\d+)", (ROOT / "pyproject.toml").read_text()).group(1), 14
    assert int(minimum) <= int(head["python_version"].split(".")[1]) < below
