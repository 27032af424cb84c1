"""Runs whose teacher is a vision model at its own size, projected to the width of the student."""

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import ViTConfig, ViTModel

from d2vpr_hf.pretrained.teachers import FeatureTeacher
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.options import DistillOptions
from tests.conftest import perturb, save_folder, tiny_cricavpr, tiny_model
from tests.training.places import write_places

COMPONENTS = "run/teacher_components.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("projected")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=64)
    perturb(ViTModel(config)).save_pretrained(root / "teacher")
    return {
        "photos": [str(write_places(root / "gsv"))],
        "teacher": str(root / "teacher"),
        "model": str(save_folder(tiny_model(), root / "student")),
    }


def train(folders, out, **changes):
    AcceleratorState._reset_state()
    values = {
        **{"out": str(out), "image_size": [42, 42], "places_per_batch": 4, "images_per_place": 2, "num_workers": 0},
        **{"max_steps": 4, "checkpoint_every": 2, "learning_rate": 1e-3, "log_every": 4},
        **{"augmentation": "photometric", "teacher_view": "clean", "teacher_components": ["48"], "teacher_fit_images": 10},
        "token_cosine_weight": 1.0,
    }
    return distill(DistillOptions(**(folders | values | changes)))


def weights_of(out):
    return load_file(out / "last" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train(folders, out)
    return out


def assert_same(first, second):
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_resumed_run_has_the_same_targets(folders, whole, tmp_path):
    """Components that were fitted again on resuming could differ in a last bit, or in a sign."""
    train(folders, tmp_path / "run", max_steps=2)
    assert_same(load_file(tmp_path / "run" / COMPONENTS), load_file(whole / COMPONENTS))
    written = (tmp_path / "run" / COMPONENTS).stat().st_mtime_ns
    train(folders, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / COMPONENTS).stat().st_mtime_ns == written
    assert_same(weights_of(tmp_path / "run"), weights_of(whole))


def test_a_later_stage_takes_the_components_of_an_earlier_run(folders, whole, tmp_path):
    """Components that are fitted again, to other photos, would turn the targets that the student has learned."""
    changes = {"seed": 1, "teacher_components": None, "max_steps": 1}
    train(folders, tmp_path / "run", **changes, teacher_components_of=str(whole))
    assert_same(load_file(tmp_path / "run" / COMPONENTS), load_file(whole / COMPONENTS))
    with pytest.raises(FileNotFoundError, match="principal components"):
        train(folders, tmp_path / "other", **changes, teacher_components_of=str(tmp_path))
    with pytest.raises(ValueError, match="remove `teacher_components`"):
        train(folders, tmp_path / "other", teacher_components_of=str(whole))


def test_a_run_cannot_resume_without_its_components(folders, tmp_path):
    train(folders, tmp_path / "run", max_steps=2)
    (tmp_path / "run" / COMPONENTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"teacher_components\.safetensors, the principal components .* is missing"):
        train(folders, tmp_path / "run", resume=True)


def test_another_run_leaves_the_components_of_a_folder(folders, whole):
    written = (whole / COMPONENTS).read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(folders, whole, teacher_whitening=0.0)
    assert (whole / COMPONENTS).read_bytes() == written


def test_a_second_run_reads_all_targets(folders, whole, tmp_path, monkeypatch):
    """The student sees other colours, but the teacher's view is that of the first run."""
    train(folders, tmp_path / "first", teacher_cache=str(tmp_path / "cache"))
    assert_same(weights_of(tmp_path / "first"), weights_of(whole))

    def refuse(*arguments):
        raise AssertionError("the teacher was computed")

    monkeypatch.setattr(FeatureTeacher, "_targets", refuse)
    train(folders, tmp_path / "second", teacher_cache=str(tmp_path / "cache"), augment_magnitude=20)
    assert_same(load_file(tmp_path / "second" / COMPONENTS), load_file(whole / COMPONENTS))


def test_the_pixels_of_the_student_in_another_size(folders, tmp_path):
    """The published view: the student's augmented pixels, enlarged to the size of the teacher."""
    changes = {"teacher_view": "augmented", "augmentation": "randaugment", "max_steps": 1}
    train(folders, tmp_path / "run", **changes, teacher_taps=["0"], teacher_image_size=[32, 48])
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()


def test_impossible_projections(folders, tmp_path):
    with pytest.raises(ValueError, match=r"64 for each region.*with recovery_size=64.*`teacher_components` to 48"):
        train(folders, tmp_path / "run", teacher_components=None)
    with pytest.raises(ValueError, match="output: 65 of 64"):
        train(folders, tmp_path / "run", teacher_components=["65"])
    cricavpr = str(save_folder(tiny_cricavpr(), tmp_path / "cricavpr"))
    with pytest.raises(ValueError, match="computes its descriptors itself"):
        train(folders, tmp_path / "run", teacher=cricavpr)
    with pytest.raises(ValueError, match=r"from 0 to 1, got teacher_whitening=1\.5"):
        train(folders, tmp_path / "run", teacher_whitening=1.5)
    with pytest.raises(ValueError, match=r"teacher_image_size is height and width, got \[64\]"):
        train(folders, tmp_path / "run", teacher_image_size=[64])
    assert not (tmp_path / "run").exists()
