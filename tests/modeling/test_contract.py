"""The contract of a Hugging Face model: loading in every way, saving without loss, half precision, checkpointing,
attention implementations, compilation, the pipeline."""

import ast
import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig, D2VPRImageProcessor
from tests.conftest import TINY, TINY_CRICAVPR, hub_cache, relative, save_folder, tiny_cricavpr, tiny_model

ROOT = Path(__file__).parents[2]
KINDS = {"d2vpr": tiny_model, "cricavpr": tiny_cricavpr}
NEEDS_INDUCTOR = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch's inductor cannot compile for a CPU without AVX2"
)
ROUNDING = 1e-6  # of equal weights: on some processors a product's last bit depends on their position in memory


def assert_same_weights(first, second):
    """Compare names, and every bit of the tensors."""
    before, after = first.state_dict(), second.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(params=KINDS)
def tiny_kind(request):
    """A maker of tiny models, of each kind in turn."""
    return KINDS[request.param]


def test_save_and_load_are_bit_equal(tiny_kind, tmp_path):
    model = tiny_kind(projection_dim=7, use_cross_image_encoder=True)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    images = torch.randn(2, 3, 42, 70)
    assert relative(loaded(images).pooler_output, model(images).pooler_output) < ROUNDING


def test_sharded_weights_are_bit_equal(tiny_kind, tmp_path):
    model = tiny_kind()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded, images = AutoModel.from_pretrained(tmp_path), torch.randn(1, 3, 70, 70)
    assert_same_weights(loaded, model)
    assert relative(loaded(images).pooler_output, model(images).pooler_output) < ROUNDING


@pytest.mark.parametrize(
    "config",
    [
        D2VPRConfig(**TINY, scale_range=(0.25, 3), tap_layers=(1, 2), use_offsets=False),
        CricaVPRConfig(**TINY_CRICAVPR, region_cuts=((0.25,), (0.5, 0.75)), use_cross_image_encoder=False),
    ],
)
def test_config_survives_json(config):
    again = type(config).from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    fields = {field: getattr(again, field) for field in config.list_fields}
    assert all(isinstance(value, list) for value in fields.values()) and fields == {f: getattr(config, f) for f in fields}


def test_auto_classes(tiny_folder):
    config = AutoConfig.from_pretrained(tiny_folder)
    assert isinstance(config, D2VPRConfig | CricaVPRConfig)
    assert type(AutoModel.from_pretrained(tiny_folder)).config_class is type(config)
    assert isinstance(AutoImageProcessor.from_pretrained(tiny_folder), D2VPRImageProcessor)


STRANGER = """
    import os, sys, traceback, numpy as np, torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel

    def run(name, photo, out):
        model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
        inputs = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)(Image.open(photo), return_tensors="pt")
        with torch.no_grad():
            np.save(out, model(**inputs).pooler_output.numpy())
        assert "adapters" in model.config.untrained_parts  # the models are random
        fresh = model.__class__(model.config)  # drawn by the copied code alone
        for key, weight in fresh.state_dict().items():
            assert not (".branches." in key and ".conv." in key) or (weight == model.config.adapter_conv_init).all(), key
        assert not any(module.split(".")[0] == "d2vpr_hf" for module in sys.modules), "the package was imported"

    photo, *jobs = sys.argv[1:]
    for name, out in zip(jobs[::2], jobs[1::2]):
        if os.fork() == 0:  # each model is loaded by a process that has loaded no other; importing torch takes seconds
            try:
                run(name, photo, out)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.wait()
"""


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    """A model folder of each kind."""
    return {kind: save_folder(make(), tmp_path_factory.mktemp(kind)) for kind, make in KINDS.items()}


@pytest.fixture(scope="module", params=KINDS)
def tiny_folder(request, model_folders):
    """A model folder of each kind in turn."""
    return model_folders[request.param]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def strangers(model_folders, photo, tmp_path_factory):
    """The file of the descriptor by model folder or Hub id, as processes computed it that cannot import the package; and
    their errors. A Hub repository is a folder in the cache; offline it is all that is read."""
    home = tmp_path_factory.mktemp("strangers")
    for kind, folder in model_folders.items():
        hub_cache(home / "hub", f"someone/{kind}", folder)
    names = [str(name) for kind, folder in model_folders.items() for name in (folder, f"someone/{kind}")]
    files = {name: home / f"{number}.npy" for number, name in enumerate(names)}
    # -S with an explicit path would lose torch too, so the package is hidden by an import hook instead
    hide = "import sys\nclass Hide:\n  def find_spec(self, name, path=None, target=None):\n"
    hide += "    if name.split('.')[0] == 'd2vpr_hf': raise ModuleNotFoundError(name)\nsys.meta_path.insert(0, Hide())\n"
    command = [sys.executable, "-c", hide + textwrap.dedent(STRANGER), str(photo)]
    command += [str(word) for pair in files.items() for word in pair]
    environment = {"HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    done = subprocess.run(command, cwd=home, env=os.environ | environment, capture_output=True, text=True)
    return files, done.stderr


@pytest.fixture
def descriptor(tiny_folder, photo):
    inputs = D2VPRImageProcessor.from_pretrained(tiny_folder)(Image.open(photo), return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(tiny_folder)(**inputs).pooler_output.numpy()


def test_a_process_without_the_package_computes_the_same_bits(tiny_folder, strangers, descriptor):
    files, errors = strangers
    assert files[str(tiny_folder)].exists(), errors
    assert np.array_equal(np.load(files[str(tiny_folder)]), descriptor)


def test_and_so_it_does_from_a_hub_id(tiny_folder, strangers, descriptor):
    files, errors = strangers
    kind = AutoConfig.from_pretrained(tiny_folder).model_type
    assert files[f"someone/{kind}"].exists(), errors
    assert np.array_equal(np.load(files[f"someone/{kind}"]), descriptor)


def test_a_remote_copy_saves_its_code_again(tiny_folder, tmp_path):
    names = {path.name for path in tiny_folder.glob("*.py")}
    kind = AutoConfig.from_pretrained(tiny_folder).model_type
    assert {f"configuration_{kind}.py", f"modeling_{kind}.py", "image_processing_d2vpr.py", "photo_modes.py"} < names
    AutoModel.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == names


def test_modeling_imports_torch_transformers_their_libraries_and_itself_only():
    for path in (ROOT / "modeling").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            relative_import = isinstance(node, ast.ImportFrom) and node.level == 1
            names = [node.module] if isinstance(node, ast.ImportFrom) else getattr(node, "names", [])
            if isinstance(node, ast.Import | ast.ImportFrom) and not relative_import:
                modules = {str(getattr(name, "name", name)).split(".")[0] for name in names}
                assert modules <= {"torch", "transformers", "numpy", "PIL"} | sys.stdlib_module_names, (
                    f"{path.name}, line {node.lineno}"
                )


def test_pipeline(tiny_folder, photo, descriptor):
    extract = pipeline("image-feature-extraction", model=str(tiny_folder), trust_remote_code=True)
    assert np.allclose(extract(str(photo), pool=True), descriptor, atol=1e-6)
    assert np.array(extract(str(photo))).shape == (1, 26, 48)
    tensors = extract([Image.open(photo)] * 3, pool=True, batch_size=2, return_tensors=True)
    assert [tensor.shape for tensor in tensors] == [(1, 14 * 48)] * 3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision(tiny_folder, dtype, tolerance):
    """Geometry and pooling stay in float32: in bfloat16 throughout, the student's samples would miss by parts of a patch."""
    images = torch.randn(2, 3, 70, 70)
    full, half = (AutoModel.from_pretrained(tiny_folder, dtype=kind) for kind in (torch.float32, dtype))
    with torch.no_grad():
        expected, output = full(images), half(images)
    assert output.pooler_output.dtype == dtype
    assert relative(output.pooler_output, expected.pooler_output) < tolerance
    if "sampling_positions" in output:
        assert output.sampling_positions.dtype == torch.float32
        assert (output.sampling_positions - expected.sampling_positions).abs().max() < 0.02


def test_autocast(tiny_folder):
    images = torch.randn(2, 3, 70, 70)
    model = AutoModel.from_pretrained(tiny_folder)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(images)
    assert relative(output.pooler_output, expected.pooler_output) < 0.05


def test_device_map(tiny_folder):
    images = torch.randn(1, 3, 70, 70)
    expected = AutoModel.from_pretrained(tiny_folder)(images).pooler_output
    for device_map in ("cpu", "auto", {"": "cpu"}):
        model = AutoModel.from_pretrained(tiny_folder, device_map=device_map)
        assert torch.equal(model(images).pooler_output, expected)


def test_parts_that_must_stay_on_one_device_are_named_right(tiny_kind):
    model = tiny_kind(use_cross_image_encoder=True)
    names = {type(module).__name__ for module in model.modules()}
    assert set(model._no_split_modules) <= names


def test_weights_offloaded_to_disk(tiny_folder, tmp_path):
    """Offloaded weights come in module by module: a weight read past its module would still be on the meta device."""
    from accelerate import disk_offload

    model = AutoModel.from_pretrained(tiny_folder)
    images = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        expected = model(images).pooler_output
        disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
        assert relative(model(images).pooler_output, expected) < ROUNDING


@pytest.mark.parametrize(
    "implementation", ["eager", "sdpa", pytest.param("flex_attention", marks=[NEEDS_INDUCTOR, pytest.mark.slow])]
)
def test_attention_implementations_agree(tiny_kind, implementation):
    torch.manual_seed(0)
    model = tiny_kind(use_cross_image_encoder=True)
    images = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        expected = model(images).pooler_output
        model.set_attn_implementation(implementation)
        assert relative(model(images).pooler_output, expected) < 1e-5


def test_gradients_on_the_cpu_are_those_of_step_by_step_attention(tiny_kind):
    """As the published code computes them, to the last bit: fused attention rounds otherwise, which flips ReLUs."""
    images, gradients = torch.randn(2, 3, 70, 70), []
    for implementation in ("sdpa", "eager"):
        model = tiny_kind()
        model.set_attn_implementation(implementation)
        model(images).pooler_output.square().mul(torch.linspace(-1, 1, 14 * 48)).sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(map(torch.equal, *gradients))


def test_hidden_states_and_attentions(tiny_kind):
    model = tiny_kind()
    model.set_attn_implementation("eager")
    output = model(torch.randn(2, 3, 42, 70), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in output.hidden_states] == [(2, 16, model.config.hidden_size)] * 3
    assert [weights.shape for weights in output.attentions] == [(2, 2, 16, 16)] * 2
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(2, 2, 16))
    assert model(torch.randn(1, 3, 42, 70)).hidden_states is None
    assert tiny_kind(output_hidden_states=True)(torch.randn(1, 3, 42, 70)).hidden_states
    as_tuple = model(torch.randn(1, 3, 42, 70), return_dict=False)
    assert [part.shape[0] for part in as_tuple] == [1] * (len(output) - 2)


def test_attention_weights_are_kept_only_if_asked_for(tiny_kind):
    """Kept for nothing, those of a batch of 8 at 518 pixels would take 4 GB."""
    model = tiny_kind()
    model.set_attn_implementation("eager")
    counts = []
    model.encoder.register_forward_hook(lambda module, arguments, output: counts.append(len(output[1])))
    model(torch.randn(1, 3, 42, 70))
    model(torch.randn(1, 3, 42, 70), output_attentions=True)
    assert counts == [0, 2]


def test_attentions_that_cannot_be_given_are_warned_of(tiny_kind, monkeypatch):
    from d2vpr_hf.modeling import modeling_vpr

    warnings = []
    monkeypatch.setattr(modeling_vpr.logger, "warning_once", warnings.append)
    assert tiny_kind()(torch.randn(1, 3, 42, 70), output_attentions=True).attentions == ()
    assert "set_attn_implementation('eager')" in warnings[0]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_counts_batch_norm_once(tiny_kind, reentrant):
    plain = tiny_kind().train()
    checkpointed = copy.deepcopy(plain)
    name = "activation_checkpointing_enable"  # before transformers 5.23 the other name
    enable = getattr(checkpointed, name, None) or checkpointed.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    images = torch.randn(3, 3, 42, 70, requires_grad=True)
    for model in (plain, checkpointed):
        torch.manual_seed(0)  # dropout
        model(images).pooler_output.square().mul(torch.linspace(-1, 1, 14 * 48)).sum().backward()
    for (name, first), second in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.allclose(first.grad, second.grad, rtol=1e-4, atol=1e-7), name
    for (name, first), second in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        # counted twice, means would move by a tenth; reentrant checkpointing runs the first time without gradients, fused
        assert torch.allclose(first, second, rtol=1e-5, atol=1e-6), name
    assert plain.encoder.layers[0].adapter.branches[0][0].norm.num_batches_tracked == 1


@pytest.mark.parametrize("hidden_states", [False, True])
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=[NEEDS_INDUCTOR, pytest.mark.slow])])
def test_compiles_without_graph_breaks(tiny_kind, backend, hidden_states):
    torch._dynamo.reset()
    model = tiny_kind(use_cross_image_encoder=True)
    images = torch.randn(2, 3, 42, 70)
    with torch.no_grad():
        expected = model(images, output_hidden_states=hidden_states)
        output = torch.compile(model, backend=backend, fullgraph=True)(images, output_hidden_states=hidden_states)
    assert relative(output.pooler_output, expected.pooler_output) < 1e-5
    assert len(output.hidden_states or ()) == (3 if hidden_states else 0)


def test_exports_with_a_dynamic_batch(tiny_kind):
    """Nothing in the forward may depend on the batch size in Python."""
    model = tiny_kind()
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(model, (), {"pixel_values": torch.randn(2, 3, 42, 70)}, dynamic_shapes=shapes)
    images = torch.randn(5, 3, 42, 70)
    with torch.no_grad():
        exported = program.module()(pixel_values=images).pooler_output
        assert relative(exported, model(images).pooler_output) < 1e-5


def test_model_can_be_pickled_and_copied(tiny_kind, tmp_path):
    model = tiny_kind()
    model(torch.randn(1, 3, 42, 70), output_hidden_states=True)
    torch.save(model, tmp_path / "whole.pt")
    images = torch.randn(1, 3, 42, 70)
    loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert torch.equal(loaded(images).pooler_output, copy.deepcopy(model)(images).pooler_output)


def test_push_to_hub_uploads_a_complete_folder(tiny_folder, monkeypatch):
    """Against a Hub that only takes notes."""
    pushed = {}

    class Notebook:
        def create_repo(self, repo_id, **kwargs):
            return type("Repo", (), {"repo_id": repo_id})()

        def create_commit(self, repo_id, operations, **kwargs):
            pushed.update({operation.path_in_repo: operation for operation in operations})

        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    notebook = Notebook()
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers") and callable(vars(module).get("hf_api")):
            monkeypatch.setattr(module, "hf_api", lambda *args, **kwargs: notebook)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    AutoModel.from_pretrained(tiny_folder).push_to_hub("someone/d2vpr")
    assert {"config.json", "model.safetensors", "modeling_vpr.py", "vision_transformer.py"} <= pushed.keys()
