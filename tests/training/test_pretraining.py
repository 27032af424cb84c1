"""Stage 0: its losses, and the model that it saves."""

import json
import math

import pytest
import torch

from d2vpr_hf.gridtown import Labels, Surface, simulate
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.training.data.place_photos import read_labelled_photos
from d2vpr_hf.training.objectives.label_loss import LabelLoss
from d2vpr_hf.training.options import PretrainOptions
from d2vpr_hf.training.pretrain import pretrain
from tests.conftest import save_folder, tiny_cricavpr, tiny_model
from tests.training.places import write_places

BUILDINGS = torch.tensor([3, 8, 20], dtype=torch.int32)


def make_labels(surface, depth=5.0, building=-1, count=2):
    shape = (count, 3, 3)
    return Labels(
        torch.full(shape, int(surface), dtype=torch.uint8),
        torch.full(shape, depth),
        torch.zeros(*shape, 2),
        torch.full(shape, building, dtype=torch.int32),
    )


@pytest.fixture
def loss_of():
    """A loss whose heads predict the same for all patches: equal probabilities, depth 0, no normal."""
    network = LabelLoss(tiny_model(), BUILDINGS, 4, seed=0)
    with torch.no_grad():
        for layer in (network.surface, network.depth, network.normal):
            layer.weight.zero_()
            layer.bias.zero_()
        network.vectors.fill_(1.0)
    return network


def test_terms_by_hand(loss_of):
    """Log of 4 surfaces and of 3 buildings; Huber loss of log(1 + depth) = 1 against 0 is 1/2; a normal of length 1."""
    labels = make_labels(Surface.WALL, depth=math.e - 1, building=8)
    labels = labels._replace(normal=torch.tensor([0.6, 0.8]).expand(2, 3, 3, 2))
    loss, terms = loss_of(torch.randn(2, 3, 42, 42), labels)
    wanted = {"surface": math.log(4), "depth": 0.5, "normal": 1.0, "building": math.log(3), "view": math.log(3)}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(wanted, rel=1e-5)
    assert float(loss) == pytest.approx(sum(wanted.values()), rel=1e-5)


def test_a_photo_of_the_sky_has_only_a_loss_of_surfaces(loss_of):
    """A mean over an empty set of walls would be NaN."""
    loss, _ = loss_of(torch.randn(2, 3, 42, 42), make_labels(Surface.SKY))
    assert float(loss) == pytest.approx(math.log(4), rel=1e-5)
    loss.backward()
    assert all(weights.grad is None or weights.grad.isfinite().all() for weights in loss_of.parameters())


def test_each_photo_has_the_same_weight_for_the_view(loss_of):
    """One wall cell of building 3 in the first photo, nine of building 20 in the second; the model is certain of building 3."""
    with torch.no_grad():
        loss_of.vectors.copy_(torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0], [-1, 0, 0, 0]]))
        loss_of.view.weight.zero_()
        loss_of.view.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
    labels = make_labels(Surface.WALL, building=20)
    labels.surface[0], labels.building[0] = Surface.SKY, -1
    labels.surface[0, 1, 1], labels.building[0, 1, 1] = Surface.WALL, 3
    _, terms = loss_of(torch.randn(2, 3, 42, 42), labels)
    certain, wrong = math.log(1 + 2 * math.exp(-32)), 32 + math.log(1 + 2 * math.exp(-32))
    assert float(terms["view"]) == pytest.approx((certain + wrong) / 2, rel=1e-4)


def test_labels_with_another_number_of_cells_are_refused(loss_of):
    with pytest.raises(ValueError, match="labels of 9 cells, but the model sees 16 patches"):
        loss_of(torch.randn(2, 3, 56, 56), make_labels(Surface.SKY))


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled") / "towns"
    simulate(folder, 12, 5, layout="gsv-cities", photos_per_place=4, image_size=42, label_cells=3)
    return folder


def options(towns, out, model, **changes):
    values = {"photos": str(towns), "out": str(out), "model": str(model), "image_size": [42, 42], "places_per_batch": 4}
    values |= {"num_workers": 0, "max_steps": 12, "learning_rate": 3e-3, "held_out_places": 4, "optimizer": "adamw"}
    return PretrainOptions(**(values | changes))


@pytest.mark.parametrize("make_model", [tiny_model, tiny_cricavpr])
def test_a_vit_learns_and_its_heads_are_not_saved(towns, tmp_path, make_model):
    """The saved model must load like any model, so it must not contain the heads; and the ViT must have changed."""
    before = save_folder(make_model(), tmp_path / "before")
    best = pretrain(options(towns, tmp_path / "run", before))
    fresh, trained = load_model(before).state_dict(), load_model(best).state_dict()
    changed = {name for name in fresh if not torch.equal(fresh[name], trained[name])}
    assert any(name.startswith("encoder.") for name in changed)
    assert not any(name.startswith(("aggregator.", "recovery.")) for name in changed)
    lines = (tmp_path / "run" / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert losses[-1] < 0.95 * losses[0]
    assert "renderer's labels" in (best / "README.md").read_text()


def test_a_folder_without_labels_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--label-cells"):
        read_labelled_photos(write_places(tmp_path / "gsv"), None, 4)


def test_labels_of_another_city_are_refused(towns, tmp_path):
    """A label file of another city must be noticed."""
    folder = write_places(tmp_path / "gsv")
    (folder / "Labels").symlink_to(towns / "Labels")
    with pytest.raises(ValueError, match=r"80 photos in .* have no labels"):
        read_labelled_photos(folder, None, 4)


@pytest.mark.parametrize("change", [{"photos": "gridtown"}, {"augment_operations": 1}, {"gradient_accumulation_steps": 2}])
def test_options_that_contradict_labels_are_refused(towns, tmp_path, change):
    with pytest.raises(ValueError, match="Pretraining takes photos with labels"):
        options(towns, tmp_path, "student", **change)
