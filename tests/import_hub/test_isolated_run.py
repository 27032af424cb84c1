"""Foreign code runs in the child only, without the user's environment; failures of it are errors of the parent."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2vpr_hf.import_hub import isolated_run
from d2vpr_hf.import_hub.isolated_run import ChildResult, ChildTask, HubCodeError, child_environment, run_child
from tests.import_hub.fake_github import FakeGitHub
from tests.import_hub.repositories import (
    FILES,
    executed_at_import,
    expected_descriptors,
    state_dict,
    weights_file,
)

PIXELS = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)


def _run(folder: Path, entry: str, files: dict[str, bytes | str] = FILES, **values: Any) -> ChildResult:
    code = folder / "code"
    for name, content in files.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "scratch").mkdir()
    timeout = values.pop("timeout", 300)
    task = ChildTask(
        code, entry, values.pop("arguments", {}), values.pop("repositories", {}), values.pop("output", None), PIXELS
    )
    return run_child(task, folder / "scratch", folder / "cache", timeout)


def test_a_state_dict_by_address_becomes_a_graph(github: FakeGitHub, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    github.files["/weights.pth"] = weights_file()
    marker = tmp_path / "marker"
    arguments = {"address": f"{github.url}/weights.pth"}
    result = _run(tmp_path, "tiny", executed_at_import(marker), arguments=arguments)
    assert marker.read_text() == "executed "  # in the child: this process has nothing of it
    assert not {"hubconf", "hubconf.py", "net"} & set(sys.modules)
    expected = expected_descriptors(torch.from_numpy(PIXELS), state_dict()).numpy()
    np.testing.assert_allclose(result.together, expected, atol=1e-6)
    np.testing.assert_allclose(result.alone, expected, atol=1e-6)
    session = ort.InferenceSession(result.graph)
    for batch in (PIXELS, PIXELS[:1]):
        np.testing.assert_allclose(session.run(None, {"pixel_values": batch})[0], expected[: len(batch)], atol=1e-6)
    assert (result.outputs, result.output, result.num_parameters) == ({"0": [3, 8]}, "0", 8 * 3 * 16 + 8)
    assert list(result.weights) == ["weights.pth"]


def test_a_pickle_in_the_weights_is_refused_and_not_executed(github: FakeGitHub, tmp_path: Path) -> None:
    github.files["/weights.pth"] = weights_file(tmp_path / "executed")
    with pytest.raises(HubCodeError, match="unpickling them could execute anything"):
        _run(tmp_path, "tiny", arguments={"address": f"{github.url}/weights.pth"})
    assert not (tmp_path / "executed").exists()


def test_code_that_asks_for_unpickling_does_not_get_it(tmp_path: Path) -> None:
    loads = "\ndef unpickle():\n    torch.load('WEIGHTS', weights_only=False)\n    return Net(8)\n"
    (tmp_path / "weights.pth").write_bytes(weights_file(tmp_path / "executed"))
    files = FILES | {"hubconf.py": f"{FILES['hubconf.py']!s}{loads}".replace("WEIGHTS", str(tmp_path / "weights.pth"))}
    with pytest.raises(HubCodeError, match="unpickling them could execute anything"):
        _run(tmp_path, "unpickle", files)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("entry", "arguments", "message"),
    [
        ("text", {}, "returned str, not a torch.nn.Module"),
        ("fail", {}, "the authors' own error"),
        ("broken", {"kind": "nan"}, "NaN or infinite numbers for 3 of 3 photos"),
    ],
)
def test_failures_of_the_code_are_errors(tmp_path: Path, entry: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HubCodeError, match=message):
        _run(tmp_path, entry, arguments=arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "arguments", "message"),
    [
        ("nowhere", {}, "Cannot find callable nowhere in hubconf"),
        ("tiny", {"no_such_argument": 1}, "unexpected keyword argument 'no_such_argument'"),
        ("several", {"form": "tokens"}, r"returns no descriptor, which is one row an image. It returns: 0 \(3, 16, 16\)"),
        ("leave", {}, "SystemExit: 3"),
        ("nested", {}, r"loads another repository by torch\.hub, other/backbone, .*`also=\[\"other/backbone@COMMIT\"\]`"),
    ],
)
def test_more_failures_of_the_code_are_errors(tmp_path: Path, entry: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HubCodeError, match=message):
        _run(tmp_path, entry, arguments=arguments)


def test_the_code_sees_no_tokens_and_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "secret-value")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret-value@proxy:1")
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    with pytest.raises(HubCodeError, match="VARIABLES") as error:
        _run(tmp_path, "environment")
    assert "secret-value" not in str(error.value)
    assert str(Path.home()) not in str(error.value).split('"HOME": "')[1].split('"')[0]
    assert "STDIN ''" in str(error.value)
    assert '"http_proxy": "http://proxy:1"' in str(error.value)


def test_the_environment_is_a_short_list(tmp_path: Path) -> None:
    names = set(child_environment(tmp_path, tmp_path / "cache"))
    folders = {"HOME", "USERPROFILE", "TMPDIR", "TORCH_HOME", "HF_HOME"}
    switches = {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "PYTHONDONTWRITEBYTECODE", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"}
    assert folders | switches <= names
    assert all(name in os.environ for name in names - folders - switches)


def test_code_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(HubCodeError, match=r"did not finish within 3 seconds and was ended\. `timeout`"):
        _run(tmp_path, "wait", timeout=3)


FORGED = """
import json, os, sys
from pathlib import Path
def forge():
    task = json.loads(Path(sys.argv[1]).read_text())
    out = Path(task["out"])
    {action}
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("pass", "ended without a result"),
        ("(out / 'outcome.json').symlink_to('/etc/hostname')", "ended without a result"),
        ("(out / 'outcome.json').write_text('[]')", "a result that is not valid"),
        ("(out / 'outcome.json').write_text('{}')", "wrote no descriptors"),
    ],
)
def test_a_forged_result_is_refused(tmp_path: Path, action: str, message: str) -> None:
    files: dict[str, bytes | str] = {"hubconf.py": FORGED.replace("{action}", action)}
    with pytest.raises(HubCodeError, match=message):
        _run(tmp_path, "forge", files)


OUTCOME = {"outputs": {"0": [3, 4]}, "output": "0", "num_parameters": 5, "exporter": "tracing"}


def _hand_back(monkeypatch: pytest.MonkeyPatch, folder: Path, outcome: str, descriptors: bytes | None = None) -> ChildResult:
    """Check files that a child could have written, without one."""

    def write(scratch: Path, environment: object, timeout: float) -> None:
        out = scratch / "out"
        (out / "outcome.json").write_text(outcome)
        np.save(out / "descriptors.npy", np.ones((2, 3, 4), np.float32))
        if descriptors is not None:
            (out / "descriptors.npy").write_bytes(descriptors)
        (out / "graph").mkdir()
        (out / "graph" / "model.onnx").write_bytes(b"graph")

    monkeypatch.setattr(isolated_run, "_run", write)
    task = ChildTask(folder / "code", "model", {}, {}, None, PIXELS)
    return run_child(task, folder / "scratch", folder / "cache", 10)


def _npy(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 60


@pytest.mark.parametrize(
    ("outcome", "descriptors"),
    [
        ('{"outputs": {"0": [1e400]}, "output": "0", "num_parameters": 5, "exporter": "tracing"}', None),
        ('{"outputs": {}, "output": "0", "num_parameters": 1e400, "exporter": "tracing"}', None),
        ("[" * 100_000, None),
        (json.dumps(OUTCOME), b""),
        (json.dumps(OUTCOME), _npy(f"(2, 3, {10**13})")),
        (json.dumps(OUTCOME), _npy(f"(2, 3, {10**30})")),
    ],
)
def test_results_of_wrong_values_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, descriptors: bytes | None
) -> None:
    with pytest.raises(HubCodeError, match=r"not valid|cannot be read"):
        _hand_back(monkeypatch, tmp_path, outcome, descriptors)


def test_an_archive_in_place_of_descriptors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = io.BytesIO()
    np.savez(archive, descriptors=np.ones((2, 3, 4), np.float32))
    with pytest.raises(HubCodeError, match="archive in place of descriptors"):
        _hand_back(monkeypatch, tmp_path, json.dumps(OUTCOME), archive.getvalue())


def test_names_of_outputs_and_weights_stay_in_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    if os.name != "nt":
        (tmp_path / "cache" / "a\n- checked\x1b[2J.pth").write_bytes(b"weights")
    result = _hand_back(monkeypatch, tmp_path, json.dumps(OUTCOME | {"outputs": {"0\n- checked\u2028": [3, 4]}}))
    assert list(result.outputs) == [r"0\n- checked\u2028"]
    assert list(result.weights) == ([r"a\n- checked\x1b[2J.pth"] if os.name != "nt" else [])


def test_a_network_without_weights_has_no_number_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _hand_back(monkeypatch, tmp_path, json.dumps(OUTCOME | {"num_parameters": 0})).num_parameters is None
