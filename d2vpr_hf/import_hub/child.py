"""Load the entry of a torch.hub repository and export its network to ONNX: the only file that executes foreign code.

It is run as a program, `python -I child.py TASK.json`, in a process without the user's environment, and imports nothing of this
package. The task names the folders; the outcome is written as JSON, arrays and a graph, which the parent checks.
"""

import json
import logging
import os
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

INPUT, OUTPUT = "pixel_values", "descriptors"
OUTCOME = "outcome.json"
DESCRIPTORS, GRAPH = "descriptors.npy", "graph"

_OPSET = 20
_HUB_OPTIONS = ("source", "trust_repo", "force_reload", "verbose", "skip_validation")  # of torch.hub.load, not of the entry


class _HubImportError(Exception):
    """An expected failure, with a text for the user."""


class _OneOutput(nn.Module):
    """A network with only one of its outputs, as float32."""

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, height, width) to (B, D)."""
        return dict(_outputs(self.network(pixel_values)))[self.output].float()


def main(task_file: str) -> None:
    """Do a task, and write its outcome into the task's folder."""
    task = json.loads(Path(task_file).read_text())
    out = Path(task["out"])
    outcome: dict[str, Any] = {}
    try:
        outcome = _run(task, out)
    except BaseException as error:  # foreign code may also raise SystemExit
        traceback.print_exc()
        outcome = {"error": _explain(error)}
    (out / OUTCOME).write_text(json.dumps(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of foreign code must not keep the process alive


def _run(task: dict[str, Any], out: Path) -> dict[str, Any]:
    _replace_downloads(task["repositories"])
    torch.manual_seed(0)
    torch.set_num_threads(task["threads"])
    network = _load_network(task)
    pixel_values = torch.from_numpy(np.load(task["pixel_values"]))  # (B, 3, height, width)
    with torch.no_grad():
        outputs = _outputs(network(pixel_values))
        shapes = {name: list(tensor.shape) for name, tensor in outputs}
        chosen = _choose_output(dict(outputs), task["output"], len(pixel_values))
        module = _OneOutput(network, chosen).eval()
        descriptors = module(pixel_values)
        alone = torch.cat([module(image[None]) for image in pixel_values])
    _check_values(descriptors)
    np.save(out / DESCRIPTORS, torch.stack([descriptors, alone]).numpy())
    (out / GRAPH).mkdir()
    exporter = _export(module, pixel_values, out / GRAPH / "model.onnx")
    num_parameters = sum(weight.numel() for weight in network.parameters())
    return {"outputs": shapes, "output": chosen, "num_parameters": num_parameters, "exporter": exporter}


def _replace_downloads(repositories: dict[str, str]) -> None:
    """Let `torch.hub.load` of foreign code open given folders only; `torch.load` obeys TORCH_FORCE_WEIGHTS_ONLY_LOAD."""
    load, load_weights = torch.hub.load, torch.load

    def load_pinned(repo_or_dir: str, model: str, *args: Any, **kwargs: Any) -> Any:
        kwargs = {name: value for name, value in kwargs.items() if name not in _HUB_OPTIONS}
        name = str(repo_or_dir).partition(":")[0]
        folder = repo_or_dir if Path(repo_or_dir).is_dir() else repositories.get(name.lower())
        if folder is None:
            raise _HubImportError(f"other-repository {name}")
        return load(str(folder), model, *args, source="local", **kwargs)

    def load_weights_only(*args: Any, **kwargs: Any) -> Any:
        kwargs["weights_only"] = True
        kwargs.pop("pickle_module", None)
        return load_weights(*args, **kwargs)

    torch.hub.load = load_pinned
    torch.load = load_weights_only  # torch.hub.load_state_dict_from_url calls it too


def _load_network(task: dict[str, Any]) -> nn.Module:
    network = torch.hub.load(task["code"], task["entry"], **task["arguments"])
    if isinstance(network, nn.DataParallel):
        network = network.module
    if not isinstance(network, nn.Module):
        raise _HubImportError(
            f"The entry {task['entry']} returned {type(network).__name__}, not a torch.nn.Module. Choose another entry."
        )
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.cpu().float().eval()


def _outputs(value: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors that a network returned, by name or position."""
    if isinstance(value, torch.Tensor):
        return [("0", value)]
    if isinstance(value, dict):
        named = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        named = [(str(number), item) for number, item in enumerate(value)]
    else:
        named = list(vars(value).items()) if hasattr(value, "__dict__") else []
    return [(name, item) for name, item in named if isinstance(item, torch.Tensor)]


def _choose_output(outputs: dict[str, torch.Tensor], output: str | None, count: int) -> str:
    """Return the name of the output with the descriptors: the given one, or the first with a row for each image."""
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in outputs.items()) or "no tensor"
    fitting = [name for name, it in outputs.items() if it.ndim == 2 and len(it) == count and it.is_floating_point()]
    if output is not None and output not in fitting:
        raise _HubImportError(f"The network has no output {output!r} of one row an image. It returns: {shapes}.")
    if not fitting:
        raise _HubImportError(f"The network returns no descriptor, which is one row an image. It returns: {shapes}.")
    return output or fitting[0]


def _check_values(descriptors: torch.Tensor) -> None:
    if not torch.isfinite(descriptors).all():
        count = int((~torch.isfinite(descriptors)).any(dim=1).sum())
        raise _HubImportError(f"The network gives NaN or infinite numbers for {count} of {len(descriptors)} photos.")


def _export(module: nn.Module, pixel_values: torch.Tensor, path: Path) -> str:
    """Write the graph, by torch.export or else by tracing, and return the exporter's name."""
    example = pixel_values[:2] if len(pixel_values) > 1 else pixel_values.repeat(2, 1, 1, 1)
    warnings.simplefilter("ignore")  # about the exporters' internals
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
                verbose=False,
            )
        assert program is not None
        program.save(path)
        return "torch.export"
    except Exception:
        traceback.print_exc()
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    try:
        with torch.no_grad():
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=False,
                opset_version=_OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes=axes,
            )
    except Exception as error:
        raise _HubImportError(f"The network cannot be exported to ONNX: {_first_line(error)}") from error
    return "tracing"


def _explain(error: BaseException) -> str:
    """Return a text for the user."""
    if isinstance(error, _HubImportError):
        return str(error)
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, pickle.UnpicklingError):
            return f"pickle {_first_line(chain)}"
        chain = chain.__cause__ or chain.__context__
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:500]


if __name__ == "__main__":
    main(sys.argv[1])
