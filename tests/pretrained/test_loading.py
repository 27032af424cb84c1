"""The library's loader: loud where transformers is silent."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from d2vpr_hf.assets.make_tiny import list_real_steps, list_steps
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL
from d2vpr_hf.modeling import D2VPRImageProcessor, D2VPRModel
from d2vpr_hf.pretrained.loading import fingerprint, load_image_processor, load_model
from d2vpr_hf.training.options import CONFIGS, DistillOptions, FinetuneOptions, PretrainOptions, parse_options
from tests.conftest import hub_cache, tiny_model


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_complete_model_loads_in_eval_mode(folder):
    model = load_model(folder)
    assert isinstance(model, D2VPRModel) and not model.training
    assert isinstance(load_image_processor(folder), D2VPRImageProcessor)


def test_the_embedded_model():
    model = load_model()
    assert sum(p.numel() for p in model.parameters()) < 1e6
    descriptor = model(torch.zeros(1, 3, 224, 224)).pooler_output
    assert descriptor.shape == (1, model.config.descriptor_dim)
    assert (EMBEDDED_MODEL / "README.md").is_file()
    assert not list(EMBEDDED_MODEL.glob("*.py")), "the embedded model needs no copy of the code"


def test_missing_weights(folder):
    edit_weights(folder, lambda weights: weights.pop("recovery.norm.bias"))
    D2VPRModel.from_pretrained(folder)  # transformers draws them and continues
    with pytest.raises(ValueError, match=r'(?s)missing_keys.*"recovery\.norm\.bias"'):
        load_model(folder)


def test_unexpected_weights(folder):
    edit_weights(folder, lambda weights: weights.update(stranger=torch.zeros(2)))
    with pytest.raises(ValueError, match=r'(?s)unexpected_keys.*"stranger"'):
        load_model(folder)


def test_weights_of_another_shape(folder):
    edit_weights(folder, lambda weights: weights.update({"recovery.norm.bias": torch.zeros(5)}))
    with pytest.raises(ValueError, match=r"(?s)mismatched_keys.*recovery\.norm\.bias"):
        load_model(folder)


def test_damaged_files(folder):
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(ValueError, match="are damaged"):
        load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"configuration of .* cannot be read"):
        load_model(folder)


def test_another_kind_of_model(folder):
    edit_config(folder, model_type="dinov2")
    with pytest.raises(ValueError, match=r"is a model of type 'dinov2'; expected 'd2vpr' or 'cricavpr'\. `d2vpr convert --as`"):
        load_model(folder)


def test_pickled_weights_are_not_read(folder):
    """Safetensors only: a pickle can run code."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights: expected model"):
        load_model(folder)


def test_a_model_without_its_processor(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no preprocessor_config"):
        load_image_processor(folder)


def test_unknown_configuration_keys(folder):
    edit_config(folder, hiden_size=12)
    with pytest.raises(ValueError, match="not fields of D2VPRConfig: hiden_size"):
        load_model(folder)


def test_what_is_no_model(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"\./nowhere"):
        load_model("./nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has a config\.json but no weights"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_model(str(folder))


def test_a_hub_id(tiny_folder, tmp_path):
    """A Hub repository in the cache; offline it is all that is read."""
    hub_cache(tmp_path, "someone/d2vpr", tiny_folder)
    loaded, local = load_model("someone/d2vpr", cache_dir=tmp_path), load_model(tiny_folder)
    processor = load_image_processor("someone/d2vpr", cache_dir=tmp_path)
    assert fingerprint(loaded, processor) == fingerprint(local, load_image_processor(tiny_folder))


def test_a_hub_id_that_is_not_there():
    with pytest.raises(OSError, match="someone/nothing"):
        load_model("someone/nothing")


def test_fingerprint_follows_what_descriptors_depend_on(folder):
    model, processor = load_model(folder), load_image_processor(folder)
    original = fingerprint(model, processor)
    assert fingerprint(load_model(folder), load_image_processor(folder)) == original
    assert fingerprint(model, D2VPRImageProcessor(size={"height": 84, "width": 70})) != original
    assert fingerprint(tiny_model(seed=1), processor) != original
    model.aggregator.gem.p.data += 1e-6
    assert fingerprint(model, processor) != original


def test_fingerprint_does_not_follow_names_attention_and_training(folder):
    model, processor = load_model(folder), load_image_processor(folder)
    original = fingerprint(model, processor)
    model.config.initializer_range, model.config.fusion_dropout = 0.5, 0.9
    model.config.recovery_norm_value = 0.25
    model.embeddings.mask_token += 1
    assert fingerprint(model, processor) == original
    moved = shutil.copytree(folder, folder.parent / "moved")
    assert fingerprint(load_model(moved, attn_implementation="eager"), load_image_processor(moved)) == original


def options_of_steps(steps, work):
    """Parse the options of each step that trains, which writes the folder of its name."""
    kinds = {"pretrain": PretrainOptions, "distill": DistillOptions, "finetune": FinetuneOptions}
    options = {
        name: parse_options(kinds[script.split(".")[-1]], arguments)
        for name, (script, *arguments) in steps.items()
        if "training" in script
    }
    assert {name: step.out for name, step in options.items()} == {name: str(work / name) for name in options}
    return options


def test_the_embedded_model_is_what_its_script_would_make(tmp_path):
    """A recipe or a configuration that is changed must not leave the committed model behind."""
    fields = json.loads((CONFIGS / "student_small.json").read_text())
    assert {name: getattr(load_model().config, name) for name in fields} == fields
    assert options_of_steps(list_steps(tmp_path), tmp_path).keys() > {"student0", "cross-image-teacher", "tuned"}
    assert load_image_processor().size == {"height": 140, "width": 140}
    assert "make_tiny.py" in (EMBEDDED_MODEL / "README.md").read_text()


def test_the_steps_on_real_photos_follow_from_each_other(tmp_path):
    """A batch has the places of all sources, and the run starts from the model that has seen simulated streets."""
    steps = list_real_steps(tmp_path / "work", tmp_path / "real", tmp_path / "start")
    assert list(steps) == ["split", "mobilenet", "streets", "real"]
    options = options_of_steps(steps, tmp_path / "work")["real"]
    assert sum(options.source_weights) == options.places_per_batch
    assert [each.name for each in options.other_sets] == ["walks", "views", "light"]
    assert options.teacher == str(tmp_path / "work" / "mobilenet")
    assert options.model == str(tmp_path / "start")
    assert not any("overlapping" in source for source in options.sources)  # wrong negatives of the metric loss
