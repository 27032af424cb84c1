"""The model to train: frozen parameters, BatchNorm, micro-batches and new weights."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.pretrained.loading import load_model
from d2vpr_hf.training.batch_norm import apply_policy
from d2vpr_hf.training.model_setup import MicroBatchedDescriptors, add_cross_image_encoder, freeze, load_or_make
from d2vpr_hf.training.options import CONFIGS
from tests.conftest import TINY, relative, tiny_cricavpr, tiny_model

PIXELS = torch.randn(8, 3, 70, 70, generator=torch.Generator().manual_seed(0))
TARGET = torch.nn.functional.normalize(torch.randn(8, 14 * 48, generator=torch.Generator().manual_seed(1)), dim=1)


def gradients(model, micro_batches):
    network = MicroBatchedDescriptors(model, micro_batches)
    pixels, target = PIXELS.to(model.dtype), TARGET.to(model.dtype)
    loss = (network(pixels) @ target.T).softmax(1).diagonal().sum()  # every descriptor is part of every term
    loss.backward()
    return loss.item(), {name: weights.grad for name, weights in model.named_parameters()}


def test_micro_batches_give_the_gradients_of_the_whole_batch():
    """Cached gradients over the joined batch, with statistics that do not depend on the micro-batch.

    In float64, in which they agree to 1e-14: in float32 the kernels of some processors differ by 1e-5.
    """
    whole_loss, whole = gradients(tiny_model(fusion_dropout=0.0).double(), 1)
    cached_loss, cached = gradients(tiny_model(fusion_dropout=0.0).double(), 4)
    assert cached_loss == pytest.approx(whole_loss, rel=1e-6)
    assert max(relative(cached[name], wanted) for name, wanted in whole.items() if wanted.norm() > 1e-6) < 1e-6


def test_micro_batches_update_statistics_once_and_draw_dropout_once():
    """Each micro-batch is computed twice; running statistics and random numbers must be as if it was computed once."""
    model, plain = (tiny_model(fusion_dropout=0.5) for _ in range(2))
    apply_policy(model, "published")
    apply_policy(plain, "published")
    torch.manual_seed(5)
    gradients(model, 2)
    after = torch.rand(1)
    torch.manual_seed(5)
    with torch.no_grad():
        for micro_batch in PIXELS.chunk(2):
            plain(micro_batch)
    assert torch.equal(torch.rand(1), after)
    for (name, statistic), expected in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(statistic, expected, msg=name)


def test_micro_batches_of_a_model_with_cross_image_encoder_are_refused():
    with pytest.raises(ValueError, match="gradient_accumulation_steps must be 1, got 2"):
        MicroBatchedDescriptors(tiny_cricavpr(use_cross_image_encoder=True), 2)


@pytest.mark.parametrize(
    ("policy", "moves", "by_batch"), [("published", True, True), ("frozen", False, False), ("synchronised", True, True)]
)
def test_batch_norm_policies_decide_whether_statistics_change(policy, moves, by_batch):
    """Statistics of frozen blocks change with `published` and stay with `frozen`; dropout is on with all three."""
    model = tiny_model()
    freeze(model, ["encoder.*"])
    apply_policy(model, policy)
    norm = model.encoder.layers[0].adapter.branches[0][0].norm
    before = copy.deepcopy(norm.state_dict())
    model(PIXELS)
    assert torch.equal(norm.running_mean, before["running_mean"]) != moves
    assert norm.training == by_batch
    assert model.training and model.aggregator.training
    assert model.state_dict().keys() == tiny_model().state_dict().keys()


def test_synchronised_statistics_of_one_process_are_its_own():
    plain, synchronised = tiny_model(fusion_dropout=0.0), tiny_model(fusion_dropout=0.0)
    apply_policy(plain, "published")
    apply_policy(synchronised, "synchronised")
    assert torch.equal(plain(PIXELS).pooler_output, synchronised(PIXELS).pooler_output)


def test_parameters_that_match_a_pattern_are_frozen():
    """The published second stage trains blocks 9 to 12 of 12 and all later modules; here the second block of two."""
    model = tiny_model()
    freeze(model, ["embeddings.*", "encoder.layers.0.*"])
    trained = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if not name.startswith(("embeddings", "encoder.layers.0"))}
    with pytest.raises(ValueError, match=r"no parameter has a name like block\.\*\. The model has aggregator\.fusion"):
        freeze(model, ["embeddings.*", "block.*"])
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        freeze(model, ["*"])


def test_adding_a_cross_image_encoder_keeps_all_other_weights():
    model = tiny_model()
    larger = add_cross_image_encoder(model, seed=0)
    assert larger.config.use_cross_image_encoder and larger.cross_image_encoder is not None
    assert all(torch.equal(larger.state_dict()[name], weights) for name, weights in model.state_dict().items())
    with pytest.raises(ValueError, match="already has a cross-image encoder"):
        add_cross_image_encoder(larger, seed=0)


def test_new_models_depend_on_configuration_and_seed_only(tmp_path):
    path = tmp_path / "student.json"
    path.write_text(json.dumps({"model_type": "d2vpr", **TINY}))
    first, again, reseeded = (load_or_make(str(path), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(again[name], weights) for name, weights in first.items())
    assert any(not torch.equal(reseeded[name], weights) for name, weights in first.items())
    path.write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(ValueError, match="`model_type` must be one of d2vpr, cricavpr, got None"):
        load_or_make(str(path), 0)
    path.write_text(json.dumps({"model_type": "d2vpr", **TINY, "projection_dim": 4}))
    with pytest.raises(ValueError, match="projects its descriptors"):
        load_or_make(str(path), 0)
    path.write_text(json.dumps({"model_type": "d2vpr", **TINY, "hiden_size": 4}))
    with pytest.raises(ValueError, match="a d2vpr has no hiden_size"):
        load_or_make(str(path), 0)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"student\.json is not a JSON file"):
        load_or_make(str(path), 0)
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        load_or_make(str(tmp_path / "none.json"), 0)


def test_the_embedded_model_is_trained_by_its_name():
    assert load_or_make("embedded", 0).config.to_dict() == load_model(EMBEDDED_MODEL).config.to_dict()


def test_a_deeper_model_starts_with_the_tokens_of_its_vit(tmp_path: Path) -> None:
    """Catches new blocks that change the tokens, and blocks of the source that are missing or in another order."""
    source = load_or_make(str(_config(tmp_path / "short.json", num_hidden_layers=2)), 1).eval()
    source.save_pretrained(tmp_path / "short")
    deep = load_or_make(str(_config(tmp_path / "deep.json", num_hidden_layers=5)), 0, str(tmp_path / "short")).eval()
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        tokens = [model(pixels, output_hidden_states=True).hidden_states for model in (source, deep)]
    assert torch.equal(tokens[0][0], tokens[1][0])
    assert torch.equal(tokens[0][1], tokens[1][2])  # block 1 of 2 is block 2 of 5: ceil(b * 2 / 5) = 1, 1, 2, 2, 2
    assert torch.equal(tokens[0][2], tokens[1][5])
    assert torch.equal(tokens[1][0], tokens[1][1])


def test_a_vit_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Catches a ViT of which only some weights are taken."""
    load_or_make(str(_config(tmp_path / "wide.json", hidden_size=64)), 0).save_pretrained(tmp_path / "wide")
    load_or_make(str(_config(tmp_path / "deep.json", num_hidden_layers=3)), 0).save_pretrained(tmp_path / "deep")
    model = str(_config(tmp_path / "model.json", num_hidden_layers=2))
    with pytest.raises(ValueError, match="same width"):
        load_or_make(model, 0, str(tmp_path / "wide"))
    with pytest.raises(ValueError, match="3 blocks, the model's 2"):
        load_or_make(model, 0, str(tmp_path / "deep"))
    with pytest.raises(ValueError, match="has weights"):
        load_or_make(str(tmp_path / "deep"), 0, str(tmp_path / "deep"))


def test_the_length_of_a_new_global_token_can_be_chosen(tmp_path: Path) -> None:
    """Catches a field that only a configuration knows, and a default that changes saved configurations."""
    model = load_or_make(str(_config(tmp_path / "unit.json", recovery_norm_value=0.25)), 0).eval()  # 1 / sqrt(16)
    with torch.no_grad():
        tokens = model(torch.randn(2, 3, 28, 28)).last_hidden_state
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 5), atol=0.05, rtol=0)  # the norm adds its epsilon
    assert "recovery_norm_value" not in load_or_make(str(_config(tmp_path / "usual.json")), 0).config.to_dict()


def _config(path: Path, **changes: Any) -> Path:
    fields = json.loads((CONFIGS / "student_tiny.json").read_text())
    path.write_text(json.dumps(fields | {"hidden_size": 32, "image_size": 28, "recovery_size": 16} | changes))
    return path
