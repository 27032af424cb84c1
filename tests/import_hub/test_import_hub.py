"""A torch.hub model becomes an encoder, by its pinned commit, after consent, and without a line of its code in this process."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.import_hub.import_hub import import_hub, plan_import
from d2vpr_hf.import_hub.isolated_run import HubCodeError
from d2vpr_hf.model_info.encoder_card import read_card
from d2vpr_hf.model_info.known_models import KNOWN_MODELS
from tests.command_line import run
from tests.import_hub.fake_github import COMMIT, NEW_COMMIT, FakeGitHub
from tests.import_hub.repositories import (
    FILES,
    executed_at_import,
    expected_descriptors,
    safetensors_file,
    state_dict,
    weights_file,
)

pytest.importorskip("onnxruntime")
NAME = f"owner/name@{COMMIT}"


def _foreign_modules() -> set[str]:
    return {"hubconf", "hubconf.py", "net"} & set(sys.modules)


def test_a_model_is_shown_then_imported_then_used(github: FakeGitHub, tmp_path: Path) -> None:
    """The walk of the command line: without consent nothing is executed; with it, only in the child."""
    marker, out = tmp_path / "marker", tmp_path / "model"
    github.add_archive("owner/name", executed_at_import(marker))
    github.files["/weights.safetensors"] = safetensors_file()
    command = ["import-hub", f"{NAME}:from_safetensors", "--out", out, "--image-size", "16"]
    command += ["--set", f"address={github.url}/weights.safetensors"]
    status, text, error = run(*command)
    assert (status, error) == (0, "")
    assert "Licence of the code: MIT (LICENSE)" in text and "hubconf.py, net.py" in text
    assert f"Read it at {github.url}/owner/name/tree/{COMMIT}" in text
    assert "Nothing was executed" in text and "--i-trust-this-code" in text.splitlines()[-1]
    assert not marker.exists() and not out.exists()
    status, text, error = run(*command, "--i-trust-this-code")
    assert (status, error) == (0, "")
    assert marker.read_text() == "executed "
    assert "Weights weights.safetensors: SHA-256" in text
    assert "Assumed that the weights have the licence of the code, mit" in text
    assert not _foreign_modules()
    card = read_card(out)
    assert (card.license, card.descriptor_dim, card.depends_on_batch, card.normalize) == ("mit", 8, False, False)
    assert (card.source["repository"], card.source["commit"]) == ("owner/name", COMMIT)
    assert list(card.source["weights_sha256"]) == ["weights.safetensors"]
    encoder = PlaceEncoder(out)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    prepared = torch.from_numpy(((pixels / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    expected = expected_descriptors(prepared, state_dict()).numpy()
    np.testing.assert_allclose(encoder.encode([tmp_path / "photo.png"]).descriptors, expected, atol=1e-5)


def test_without_consent_python_refuses_too(github: FakeGitHub, tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="nothing was executed"):
        import_hub(f"{NAME}:tiny", tmp_path / "model", image_size=(16, 16))
    assert not github.requests


def test_a_moved_branch_is_refused(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES)
    github.files["/repos/owner/name/commits/main"] = NEW_COMMIT.encode()
    status, _, error = run("import-hub", "owner/name@main:tiny", "--i-trust-this-code", "--out", tmp_path / "model")
    assert (status, f"give owner/name@{NEW_COMMIT}" in error) == (1, True)


def test_missing_entries_and_dependencies_are_found_before_the_code_runs(github: FakeGitHub, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    files = executed_at_import(marker) | {"hubconf.py": "dependencies = ['no_such_library']\nfrom net import Net as tiny\n"}
    github.add_archive("owner/name", files)
    options = {"i_trust_this_code": True, "image_size": (16, 16)}
    with pytest.raises(ValueError, match="no entry 'large'"):
        import_hub(f"{NAME}:large", tmp_path / "model", **options)
    with pytest.raises(ImportError, match="pip install no_such_library"):
        import_hub(f"{NAME}:tiny", tmp_path / "model", **options)
    assert "not installed here: no_such_library" in plan_import(f"{NAME}:tiny").to_text()
    assert not marker.exists()


def test_a_size_is_needed(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES)
    with pytest.raises(ValueError, match="by `image_size`"):
        import_hub(f"{NAME}:tiny", tmp_path / "model", i_trust_this_code=True)


def test_a_folder_with_files_is_not_written_into(github: FakeGitHub, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="not an empty folder"):
        (tmp_path / "file").touch()
        import_hub(f"{NAME}:tiny", tmp_path, i_trust_this_code=True, image_size=(16, 16))


@pytest.mark.parametrize("row", [row for row in KNOWN_MODELS if row.torch_hub], ids=lambda row: row.name)
def test_known_entries_have_their_arguments_and_size(github: FakeGitHub, row) -> None:
    hub = row.torch_hub
    github.add_archive(
        hub.repository,
        {"hubconf.py": f"def {hub.entry}(**kwargs): ...", "LICENSE": "GNU General Public License\nVersion 3"},
        hub.commit,
    )
    for name in hub.also:
        repository, _, commit = name.partition("@")
        github.add_archive(repository, FILES, commit)
    plan = plan_import(f"{hub.repository}@{hub.commit}:{hub.entry}", arguments=hub.arguments)
    assert plan.known is row and plan.is_known
    assert dict(plan.arguments) == dict(hub.arguments)
    assert [str(code.source) for code in plan.also] == list(hub.also)
    text = plan.to_text()
    assert f"Known as {row.title}" in text and "NOTE: a copyleft licence" in text


@pytest.mark.slow
def test_one_of_several_outputs_is_chosen(github: FakeGitHub, tmp_path: Path) -> None:
    """A dictionary of outputs, of which the second is chosen, is not of unit length: it is divided by its length."""
    github.add_archive("owner/name", FILES)
    done = import_hub(
        f"{NAME}:several",
        tmp_path / "model",
        i_trust_this_code=True,
        image_size=(16, 16),
        arguments={"form": "dict"},
        output="short",
        license="apache-2.0",
    )
    assert (done.card.descriptor_dim, done.card.normalize, done.card.license) == (4, True, "apache-2.0")
    assert any("the descriptors are output short" in remark for remark in done.remarks)
    assert any("downloaded no weights" in remark for remark in done.remarks)
    assert done.largest_difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "arguments", "dim"), [("several", {"form": "tuple"}, 8), ("parallel", {}, 8), ("tiny", {"scale": 3.0}, 8)]
)
def test_other_forms_of_networks(github: FakeGitHub, tmp_path: Path, entry: str, arguments: dict, dim: int) -> None:
    github.add_archive("owner/name", FILES)
    name = f"{NAME}:{entry}"
    done = import_hub(name, tmp_path / "model", i_trust_this_code=True, image_size=(16, 16), arguments=arguments)
    assert done.card.descriptor_dim == dim
    assert done.card.normalize == (entry == "tiny")


@pytest.mark.slow
def test_a_network_that_depends_on_the_batch_is_said_to(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES)
    done = import_hub(
        f"{NAME}:broken", tmp_path / "model", i_trust_this_code=True, image_size=(16, 16), arguments={"kind": "batch"}
    )
    assert done.card.depends_on_batch


@pytest.mark.slow
def test_other_repositories_are_loaded_by_their_pinned_commits(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES)
    github.add_archive("Other/backbone", FILES, NEW_COMMIT)
    assert plan_import(f"{NAME}:nested").unpinned_repositories == ["other/backbone"]
    done = import_hub(
        f"{NAME}:nested",
        tmp_path / "model",
        i_trust_this_code=True,
        image_size=(16, 16),
        also=[f"Other/backbone@{NEW_COMMIT}"],
    )
    assert (done.card.descriptor_dim, done.card.source["also"]) == (4, [f"Other/backbone@{NEW_COMMIT}"])


def test_refused_weights_leave_nothing(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES)
    github.files["/weights.pth"] = weights_file(tmp_path / "executed")
    status, _, error = run(
        *("import-hub", f"{NAME}:tiny", "--out", tmp_path / "models" / "model", "--image-size", "16", "--i-trust-this-code"),
        *("--set", f"address={github.url}/weights.pth"),
    )
    assert (status, "unpickling them could execute anything" in error) == (1, True)
    assert not (tmp_path / "executed").exists()
    assert not list((tmp_path / "models").iterdir())


def test_local_code_is_named_without_its_folder(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / "code" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "code" / name).write_text(str(content))
    plan = plan_import(f"{tmp_path / 'code'}:tiny", arguments={"width": 4})
    assert plan.text == "code tiny(width=4)"
    assert "Code: " in plan.to_text()


@pytest.mark.slow
def test_errors_of_the_code_name_the_flag(github: FakeGitHub, tmp_path: Path) -> None:
    github.add_archive("owner/name", FILES)
    command = ["import-hub", f"{NAME}:nested", "--out", tmp_path / "model", "--image-size", "16", "--i-trust-this-code"]
    status, _, error = run(*command)
    assert (status, "Pin it too: `--also other/backbone@COMMIT`" in error) == (1, True), error
    assert issubclass(HubCodeError, ValueError)
    assert json.dumps(error)


def test_a_name_of_the_table_stands_for_its_entry(github: FakeGitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """`d2vpr models` prints short commands; the commit and the arguments come from the table."""
    from d2vpr_hf.import_hub import import_hub as module

    fetched = []

    def fetch(source, folder):
        fetched.append(str(source))
        raise FileNotFoundError("stop")

    monkeypatch.setattr(module, "fetch_code", fetch)
    for name in ("boq-resnet50", "SALAD"):
        with pytest.raises(FileNotFoundError, match="stop"):
            module.plan_import(name)
    assert fetched == [
        "amaralibey/Bag-of-Queries@1a17a4d89506440e974c745baa584b47b40d6072",
        "serizba/salad@07d713f542641faeecae14e305f19a79466f4211",
    ]
    with pytest.raises(ValueError, match="Names of `d2vpr models` stand for theirs"):
        module.plan_import("dinov2-small")
