"""Teachers of any kind, width and size: heads, relational terms, schedules of weights, and several teachers at once."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTConfig, ViTModel

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.encoders.encoder_teacher import EncoderTeacher
from d2vpr_hf.encoders.load_teacher import load_teacher
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.pretrained.teachers import TeacherTargets
from d2vpr_hf.training.distill import distill
from d2vpr_hf.training.objectives.distillation_loss import DistillationLoss, relational_error
from d2vpr_hf.training.objectives.grouped_teacher import GroupedTeacher
from d2vpr_hf.training.option_values import WeightSchedule
from d2vpr_hf.training.options import DistillOptions, check_resumable, parse_options, to_yaml
from tests.conftest import perturb, save_folder, tiny_cricavpr, tiny_model
from tests.other_model import OtherModel
from tests.training.places import write_places
from tests.training.run_files import read_metrics

PROCESSOR = {
    **{"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}, "do_resize": True},
    **{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("any")
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=64)
    perturb(ViTModel(config)).save_pretrained(root / "vit")
    (root / "vit" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return {
        "photos": str(write_places(root / "gsv")),
        "vit": str(root / "vit"),
        "cricavpr": str(save_folder(tiny_cricavpr(hidden_size=96, use_cross_image_encoder=False), root / "cricavpr")),
        "model": str(save_folder(tiny_model(), root / "student")),
    }


def make_options(folders, out, **changes):
    values = {
        **{"photos": folders["photos"], "model": folders["model"], "teacher": folders["vit"], "out": str(out)},
        **{"image_size": [42, 42], "places_per_batch": 4, "images_per_place": 2, "num_workers": 0, "max_steps": 4},
        **{"checkpoint_every": 2, "learning_rate": 1e-3, "log_every": 1, "teacher_descriptor": "encoder"},
    }
    return DistillOptions(**(values | changes))


def train(folders, out, **changes):
    AcceleratorState._reset_state()
    return distill(make_options(folders, out, **changes))


# ---- teachers


def photos(count=3, size=(64, 64)):
    numbers = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in numbers], torch.from_numpy(numbers).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("kind", ["vit", "cricavpr", "object", "embedded"])
def test_an_encoder_teaches_the_descriptors_that_an_index_holds(folders, kind):
    """Any model that indexes photos: its descriptors, at its own size and normalisation."""
    name = OtherModel() if kind == "object" else folders.get(kind, kind)
    teacher, encoder = load_teacher(name, descriptor="encoder"), PlaceEncoder(name)
    images, pixels = photos(size=teacher.input_size)
    assert isinstance(teacher, EncoderTeacher) and teacher.descriptor_dim == encoder.descriptor_dim and teacher.has_unit_length
    targets = teacher(pixels)
    np.testing.assert_allclose(targets.descriptors.numpy(), encoder.encode(images).descriptors, atol=2e-5)
    assert targets.tokens.shape == (3, 0, 0)


def test_groups_off_removes_the_cross_image_encoder_of_an_encoder(tmp_path):
    """The backend that measured the width keeps the encoder: targets would mix, under the earlier fingerprint."""
    folder = save_folder(tiny_cricavpr(hidden_size=96, use_cross_image_encoder=True), tmp_path / "teacher")
    teacher = load_teacher(folder, descriptor="encoder")
    assert teacher.depends_on_batch and teacher.encoder.fingerprint == PlaceEncoder(folder).fingerprint
    pixels = photos(size=teacher.input_size)[1]
    mixed = teacher(pixels).descriptors
    GroupedTeacher(teacher, "off", 2, seed=0)
    together, alone = teacher(pixels).descriptors, torch.cat([teacher(image[None]).descriptors for image in pixels])
    assert torch.allclose(together, alone, atol=1e-5) and not torch.allclose(together, mixed, atol=1e-3)
    assert teacher.encoder.fingerprint == PlaceEncoder(folder, cross_image_encoder=False).fingerprint
    without = load_model(folder)
    without.remove_cross_image_encoder()
    assert PlaceEncoder(save_folder(without, tmp_path / "without")).fingerprint == teacher.encoder.fingerprint


def test_photos_of_another_size_are_resized_antialiased(folders):
    """Without antialiasing, or with height and width exchanged, the descriptors would be those of another photo."""
    teacher, encoder = load_teacher(folders["vit"], descriptor="encoder"), PlaceEncoder(folders["vit"])
    smooth = torch.arange(160).view(1, 1, 1, 160).expand(2, 3, 96, 160) + torch.arange(96).view(1, 1, 96, 1)
    pixels = smooth.to(torch.uint8)
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    np.testing.assert_allclose(teacher(pixels).descriptors.numpy(), encoder.encode(images).descriptors, atol=0.01)


def test_tokens_of_an_encoder(folders):
    teacher = load_teacher(folders["vit"], descriptor="encoder")
    teacher.with_tokens = True
    tokens = teacher(photos()[1], (3, 3)).tokens
    assert tokens.shape == (3, 10, 32) and teacher.width == 32


# ---- runs


def test_a_teacher_of_another_width_size_and_normalisation(folders, tmp_path):
    """The student keeps its own descriptors; photos come in the teacher's size, the larger, and the student's are smaller."""
    best = train(folders, tmp_path / "run", head="linear", descriptor_cosine_weight="1.0", relational_weight="0:1.0 2:0.5")
    lines = read_metrics(tmp_path / "run")
    assert {"descriptor_mse", "descriptor_cosine", "relational"} <= lines[0].keys()
    assert load_model(best).config.projection_dim is None
    assert not any(name.startswith(("head", "projection")) for name in load_file(best / "model.safetensors"))


def test_widths_that_differ_need_a_head(folders, tmp_path):
    with pytest.raises(ValueError, match=r"have 32 numbers.*the student's 672.*`head: linear`"):
        train(folders, tmp_path / "run")


def test_a_kept_head_is_the_projection_of_the_model(folders, tmp_path):
    """The saved model has the teacher's width, and the descriptors that were trained."""
    best = train(folders, tmp_path / "run", head="linear", head_policy="keep", held_out_places=4)
    model = load_model(best)
    assert (model.config.projection_dim, model.config.normalize_projection) == (32, True)
    descriptors = PlaceEncoder(best).encode(photos()[0]).descriptors
    assert descriptors.shape == (3, 32) and np.allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    assert model.projection.mean.abs().max() > 0  # it was trained
    held_out = [line["held_out_loss"] for line in read_metrics(tmp_path / "run") if "held_out_loss" in line]
    assert held_out[-1] < held_out[0]


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_a_resumed_run_with_a_head_and_several_sources_ends_at_the_same_weights(folders, tmp_path, policy):
    """A head that is drawn again on resuming, or that the optimiser forgets, would give other weights."""
    sources = write_places(tmp_path / "other", cities=("Cairo",))
    changes = {"photos": [folders["photos"], str(sources)], "head": "linear", "head_policy": policy, "metric_weight": "0.1"}
    changes |= {"relational_weight": "1"}
    train(folders, tmp_path / "whole", **changes)
    for more in ({"max_steps": 2}, {"resume": True}):
        train(folders, tmp_path / "resumed", **changes, **({"max_steps": 4} | more))
    for file in ("last/model.safetensors", "checkpoints/step-00000004/model.safetensors"):
        whole, resumed = load_file(tmp_path / "whole" / file), load_file(tmp_path / "resumed" / file)
        assert whole.keys() == resumed.keys() and all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_several_teachers_of_different_widths(folders, tmp_path):
    teachers = {"teacher": [folders["vit"], folders["cricavpr"]]}
    best = train(folders, tmp_path / "run", **teachers, descriptor_weight="0", relational_weight="1", max_steps=1)
    assert "distilled from vit and cricavpr" in (best / "README.md").read_text()
    train(folders, tmp_path / "heads", **teachers, head="linear", max_steps=1)
    checkpoint = load_file(tmp_path / "heads" / "checkpoints" / "step-00000001" / "model.safetensors")
    assert checkpoint["heads.0.components"].shape == (32, 672) and checkpoint["heads.1.components"].shape == (1344, 672)


def test_prefixes_of_a_kept_head_are_trained(folders, tmp_path):
    """Each width has a relational term of its own; an index at one of them takes the prefix of the whole descriptor."""
    changes = {
        "teacher": folders["cricavpr"],
        "head": "linear",
        "head_policy": "keep",
        "head_dim": 24,
        "teacher_image_size": None,
    }
    changes |= {"descriptor_weight": "0", "relational_weight": "1", "metric_weight": "0.1", "matryoshka_dims": [4, 12]}
    best = train(folders, tmp_path / "run", **changes, max_steps=2)
    model = load_model(best)
    assert (model.config.projection_dim, model.config.matryoshka_dims) == (24, [4, 12])
    whole, short = PlaceEncoder(best).encode(photos()[0]).descriptors, PlaceEncoder(best, dim=4).encode(photos()[0]).descriptors
    np.testing.assert_allclose(short, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=1e-6)
    for problem, wrong in (
        ("the matryoshka_dims \\[25\\]", {"matryoshka_dims": [25]}),
        ("head_dim is the width", {"descriptor_weight": "1"}),
        ("matryoshka_dims are widths", {"head_policy": "drop", "descriptor_weight": "1", "head_dim": None}),
    ):
        with pytest.raises(ValueError, match=problem):
            train(folders, tmp_path / "wrong", **(changes | wrong))


def test_relational_error_of_prefixes_by_hand():
    """Whole descriptors are equal. In the first number both photos are parallel, at the teacher orthogonal: two errors of 1."""
    student = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    targets = TeacherTargets(torch.zeros(2, 0, 0), torch.eye(2))
    loss, _ = DistillationLoss(0.0, relational_weight=1.0, matryoshka_dims=(1,))(outputs(student), targets)
    assert loss.item() == pytest.approx((0 + 2 / 4) / 2)


def test_a_student_with_cross_image_encoder_in_stage_one(folders, tmp_path):
    """The encoder is trained with the student, and saved; it needs the whole batch at once."""
    changes = {"teacher": folders["cricavpr"], "descriptor_weight": "0", "relational_weight": "1", "max_steps": 1}
    best = train(folders, tmp_path / "run", cross_image_encoder="add", **changes)
    config = load_model(best).config
    assert config.use_cross_image_encoder and "cross_image_encoder" not in config.untrained_parts
    with pytest.raises(ValueError, match="needs the whole batch"):
        changes |= {"relational_weight": "0", "descriptor_weight": "1", "gradient_accumulation_steps": 2, "head": "linear"}
        train(folders, tmp_path / "parts", cross_image_encoder="add", **changes)


def test_impossible_requests_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="set `head: linear`"):
        make_options(folders, tmp_path, head_policy="keep")
    with pytest.raises(ValueError, match="No loss trains the head"):
        make_options(folders, tmp_path, head="linear", descriptor_weight="0", relational_weight="1")
    with pytest.raises(ValueError, match="2 teachers have a head each"):
        make_options(folders, tmp_path, teacher=["a", "b"], head="linear", head_policy="keep")
    with pytest.raises(ValueError, match="teacher_image_size belong to one teacher, got 2"):
        make_options(folders, tmp_path, teacher=["a", "b"], teacher_image_size=[28, 28])
    with pytest.raises(ValueError, match="given twice"):
        make_options(folders, tmp_path, teacher=["a", "a"])
    with pytest.raises(ValueError, match="relational_weight needs the descriptors of the whole batch"):
        make_options(folders, tmp_path, relational_weight="1", gradient_accumulation_steps=2)


# ---- losses and weights


def outputs(descriptors):
    return SimpleNamespace(pooler_output=descriptors, last_hidden_state=None)


def test_relational_error_by_hand():
    """Two student's vectors at 60 degrees, the teacher's at 90: both off-diagonal cosines differ by a half, of four entries."""
    student = torch.tensor([[2.0, 0.0, 0.0], [0.5, 0.75**0.5, 0.0]])
    assert relational_error(student, torch.eye(2)).item() == pytest.approx(2 * 0.25 / 4)
    loss, terms = DistillationLoss(0.0, relational_weight=2.0)(
        outputs(student), TeacherTargets(torch.zeros(2, 0, 0), torch.eye(2))
    )
    assert loss.item() == pytest.approx(0.25) and list(terms) == ["relational"]


def test_terms_are_averaged_over_teachers():
    near, far = (TeacherTargets(torch.zeros(1, 0, 0), torch.eye(4)[[row]]) for row in (0, 1))
    loss, terms = DistillationLoss(0.0, descriptor_cosine_weight=1.0)(outputs(torch.eye(4)[:1]), [near, far])
    assert loss.item() == pytest.approx(0.5) == terms["descriptor_cosine"].item()


def test_weights_over_steps():
    schedule = WeightSchedule.parse("10:1.0 20:0.5 40:0.5")
    assert [schedule(step) for step in (0, 10, 15, 20, 39, 40, 1000)] == [1.0, 1.0, 0.75, 0.5, 0.5, 0.5, 0.5]
    assert WeightSchedule.parse(0.25)(7) == 0.25 and WeightSchedule.parse("0:0 5:0").is_zero
    teacher = TeacherTargets(torch.zeros(1, 0, 0), torch.eye(4)[[1]])
    loss_of = DistillationLoss("0:1.0 10:0.0", reduction="sum")
    assert [loss_of(outputs(torch.eye(4)[:1]), teacher, step=step)[0].item() for step in (0, 5, 10)] == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *(("", "STEP:WEIGHT"), ("one", "STEP:WEIGHT"), ("0:1,5:2", "STEP:WEIGHT"), ("1.5:1 2:0", "STEP:WEIGHT")),
        *(("nan", "STEP:WEIGHT"), ("-1", "Expected at least 0"), ("5:1 5:2", "must rise"), ("-5:1 5:2", "STEP:WEIGHT")),
    ],
)
def test_weights_that_cannot_be_read(text, problem):
    with pytest.raises(ValueError, match=problem):
        WeightSchedule.parse(text, "relational_weight")


def test_weights_in_recipes_flags_and_files_of_runs(folders, tmp_path):
    """An earlier version wrote numbers: such a run continues."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text('relational_weight: "0:1.0 2000:0.2"\ndescriptor_weight: 2\nteacher: [a, b]\n')
    flags = ["--out", "o", "--model", "m", "--photos", "p"]
    options = parse_options(DistillOptions, [str(recipe), *flags, "--metric-weight", "0:0 9:1"])
    assert (options.relational_weight, options.descriptor_weight) == ("0:1.0 2000:0.2", 2.0)
    assert options.metric_weight == "0:0.0 9:1.0" and options.teachers == ["a", "b"]
    stored = to_yaml(options, descriptor_weight=2.0)
    check_resumable(stored, options, tmp_path)
    with pytest.raises(ValueError, match=r"descriptor_weight \(3.0 then, 2.0 now\)"):
        check_resumable(to_yaml(options, descriptor_weight=3), options, tmp_path)
