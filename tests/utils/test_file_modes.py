"""Everything that the package writes has the mode that the umask gives: safetensors alone writes for the owner only."""

import os
import stat
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from typer.testing import CliRunner

from d2vpr_hf import index_photos
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.cli import app
from d2vpr_hf.convert import convert_weights
from d2vpr_hf.gridtown import simulate
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.training.checkpoints import Checkpoints, RunState
from d2vpr_hf.utils.atomic_files import make_empty, replace_folder, store_file, store_folder
from tests.backends.test_export import export
from tests.conftest import drawn_weights, save_folder, tiny_cricavpr, tiny_model
from tests.index.workers import BytesEncoder, write_photos
from tests.photos import at_name, save
from tests.training.test_target_cache import CountedTeacher, pixels

UMASKS = [0o022, 0o002, 0o077]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check_modes(folder: Path, umask: int) -> None:
    """Check all files and folders below a folder, of which there must be some."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in modes}
    assert modes
    assert {str(path): oct(mode) for path, mode in modes.items()} == {str(path): oct(mode) for path, mode in expected.items()}


def write_tensors(path: Path) -> None:
    save_file({"numbers": torch.arange(3)}, path)


def test_models_that_users_save(tmp_path, umask):
    """Also into a folder that holds a model already, in one file or in several, and with code from a read-only source."""
    save_folder(tiny_model(), tmp_path / "student")
    save_folder(tiny_cricavpr(), tmp_path / "teacher")
    tiny_model().save_pretrained(tmp_path / "parts", max_shard_size="50KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    (tmp_path / "student" / "model.safetensors").chmod(0o600)
    for code in (tmp_path / "student").glob("*.py"):
        code.unlink()
    tiny_model().save_pretrained(tmp_path / "student", is_main_process=True)
    assert list((tmp_path / "student").glob("modeling_*.py"))
    check_modes(tmp_path, umask)


def test_parts_of_models_that_users_save(tmp_path, umask):
    """transformers copies the code of each part with the mode of the installed file, which may be read-only."""
    model = tiny_model()
    for part in (model.config, D2VPRImageProcessor()):
        folder = tmp_path / type(part).__name__
        part.save_pretrained(folder)
        check_modes(folder, umask)
        assert list(folder.glob("*.py"))
        for code in folder.glob("*.py"):
            code.chmod(0o600)
        part.save_pretrained(folder)
        check_modes(folder, umask)


def test_files_of_other_users_stay(tmp_path, umask):
    """A process that is not the main one of a run writes nothing."""
    (tmp_path / "model.safetensors").touch(0o600)
    tiny_model().save_pretrained(tmp_path, is_main_process=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o600


def test_stored_files_and_folders(tmp_path, umask):
    store_file(tmp_path / "new" / "numbers.safetensors", write_tensors)
    store_file(tmp_path / "numbers.safetensors", write_tensors)
    (tmp_path / "numbers.safetensors").chmod(0o640)
    store_file(tmp_path / "numbers.safetensors", write_tensors)  # in place of another
    store_folder(tmp_path, "store", lambda folder: (folder.mkdir(), write_tensors(folder / "a.safetensors")))
    for name in ("best", "best"):
        make_empty(tmp_path / "scratch")
        (tmp_path / "scratch" / "inner").mkdir()
        write_tensors(tmp_path / "scratch" / "inner" / "a.safetensors")
        replace_folder(tmp_path / "scratch", tmp_path / name)
    check_modes(tmp_path, umask)


def test_converted_models(tmp_path, umask):
    torch.save(drawn_weights("d2vpr"), tmp_path / "published.pth")
    convert_weights(tmp_path / "published.pth", tmp_path / "model")
    check_modes(tmp_path, umask)


def test_projections(tmp_path, tiny_folder, umask):
    for number in range(8):
        save(tmp_path / "photos" / at_name(544000 + 100 * number, 4172758), number)
    arguments = ["fit-projection", str(tiny_folder), str(tmp_path / "photos"), "--dim", "2", "--out", str(tmp_path / "small")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    check_modes(tmp_path / "small", umask)


@pytest.mark.parametrize("umask", [0o002], indirect=True)
@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_exported_models(tmp_path, tiny_folder, umask, format):
    export(tiny_folder, tmp_path / "out", ExportOptions(format, "fp32", "fixed"))
    check_modes(tmp_path, umask)


def test_checkpoints_and_targets(tmp_path, umask):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    optimizer = accelerator.prepare(torch.optim.SGD(model.parameters()))
    assert optimizer is not None
    Checkpoints(tmp_path / "checkpoints", 1).save(accelerator, RunState())
    assert list(tmp_path.rglob("model.safetensors"))
    CountedTeacher(tmp_path / "targets", "off").grouped.targets(pixels(), step=1)
    check_modes(tmp_path, umask)


def test_labels_of_simulated_photos(tmp_path, umask):
    simulate(tmp_path / "town", 2, 0, photos_per_place=2, image_size=32, layout="gsv-cities", label_cells=2)
    assert list(tmp_path.rglob("*.safetensors"))
    check_modes(tmp_path, umask)


@pytest.mark.parametrize("compression", ["none", "half", "int8", "bits"])
def test_indexes(tmp_path, umask, compression):
    table = write_photos(tmp_path / "photos", 20)
    index_photos(table, tmp_path / "index", BytesEncoder(), dtype="float32", compression=compression)
    check_modes(tmp_path / "index", umask)
