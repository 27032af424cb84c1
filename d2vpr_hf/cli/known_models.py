"""The command that lists known models."""

from __future__ import annotations

import json
import re
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from d2vpr_hf.cli.choices import KnownKind
from d2vpr_hf.cli.options import JsonOption
from d2vpr_hf.cli.terminal import echo

if TYPE_CHECKING:
    from d2vpr_hf.model_info.known_models import KnownModel

_WIDTH = 80
_TITLES = {
    "own": "Models of this package",
    "onnx": "ONNX files",
    "torch-hub": "Models of torch.hub, whose code runs once, in `d2vpr import-hub`",
    "transformers": "Models of transformers, not trained for places",
}
_COLUMNS = "  {:22} {:>7} {:>6} {:>6} {:>7} {:>9}  {}"
_LEGEND = """
*: can be used now, without a network. par. M: millions of parameters. GMAC:
billions of multiply-adds for a photo. R@1: recall@1 in percent on Pitts30k and
MSLS-val, quoted, not measured here. Weights trained on GSV-Cities (photos under
CC BY-NC-ND 4.0) or SF-XL (for research) carry that question, whatever their
licence is. `d2vpr models NAME` has the training data and sources of a model.
"""


def models(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names or Hub ids, for all details.")] = None,
    *,
    kind: Annotated[KnownKind | None, typer.Option(help="List one kind only, by the way in which it is opened.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List known models, with cost, licence and recall.

    Each has the command or option that gets it.
    """
    from d2vpr_hf.encoders.hub_cache import is_usable_offline
    from d2vpr_hf.model_info.known_models import known_models

    chosen = [model for model in known_models(kind) if not names or model in map(_find, names)]
    usable = [is_usable_offline(model) for model in chosen]
    if as_json:
        rows = [model.to_dict() | {"usable_offline": usable} for model, usable in zip(chosen, usable, strict=True)]
        echo(json.dumps(rows, indent=2))
    elif names:
        echo("\n\n".join(_details(model, offline) for model, offline in zip(chosen, usable, strict=True)))
    else:
        echo(_table(chosen, usable))


def _find(name: str) -> KnownModel:
    from d2vpr_hf.model_info.known_models import KNOWN_MODELS, find_known

    model = find_known(name)
    if model is None:
        known = ", ".join(model.name for model in KNOWN_MODELS)
        raise ValueError(f"{name} is not in the table of known models; it may work all the same. The table has {known}.")
    return model


def _table(models: list[KnownModel], usable: list[bool]) -> str:
    """Return two lines for each model: its numbers, and the command that gets it."""
    lines = []
    title = None
    for model, offline in sorted(zip(models, usable, strict=True), key=lambda row: list(_TITLES).index(row[0].kind)):
        if model.kind != title:
            title = model.kind
            heading = _COLUMNS.format("", "par. M", "GMAC", "width", "input", "R@1", "licence")
            lines += ["", f"{_TITLES[title]}", heading.rstrip()]
        numbers = _COLUMNS.format(model.name, *_numbers(model))
        lines += [f"*{numbers[1:]}" if offline else numbers, *_command_lines(model.get)]
    return "\n".join([*lines[1:], _LEGEND.rstrip()])


def _numbers(model: KnownModel) -> tuple[str, ...]:
    parameters = "" if model.num_parameters is None else f"{model.num_parameters / 1e6:,.1f}"
    gmac = "" if model.gmac is None else f"{model.gmac:.2f}" if model.gmac < 100 else f"{model.gmac:.1f}"
    size = "" if model.input_size is None else "x".join(map(str, model.input_size))
    recalls = [("-" if value is None else f"{value:.1f}") for value in (model.pitts30k, model.msls_val)]
    recall = "" if recalls == ["-", "-"] else "/".join(recalls)
    return parameters, gmac, str(model.descriptor_dim or ""), size, recall, model.license or "none stated"


def _command_lines(command: str) -> list[str]:
    """Return a command on lines that fit the terminal, which a shell takes as they stand."""
    words = re.split(r" (?=--)", command)
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 9 <= _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {word}")
    return [f"      {line}" for line in lines]


def _details(model: KnownModel, offline: bool) -> str:
    """Return all that is known of a model."""
    parameters, gmac, width, size, _, licence = _numbers(model)
    recalls = {"Pitts30k": model.pitts30k, "MSLS-val": model.msls_val}
    values = {
        "on the Hub": model.hub_id,
        "parameters": f"{parameters} million" if parameters else None,
        "cost": f"{gmac} GMAC a photo, {model.gmac_source}" if gmac else None,
        "descriptor": f"{width} numbers" if width else None,
        "input": size + (f", or other multiples of {model.multiple_of}" if model.multiple_of else "") if size else None,
        "depends on batch": "yes" if model.depends_on_batch else None,
        "licence": licence,
        "trained on": model.training_data,
        "R@1": ", ".join(f"{name} {value}" for name, value in recalls.items() if value is not None) or None,
        "quoted from": model.recall_source,
        "paper": f"arXiv {model.arxiv}" if model.arxiv else None,
        "options": ", ".join(f"{name} {value}" for name, value in model.options.to_dict().items()) or None,
        "without network": "yes" if offline else "no",
        "remark": model.note,
    }
    lines = [f"{model.name}: {model.title}"]
    for name, value in values.items():
        if value is not None:
            lines += textwrap.wrap(f"{name}: {value}", _WIDTH - 2, initial_indent="  ", subsequent_indent="    ")
    ways = [model.get] if model.torch_hub is None else [model.get, model.torch_hub.command]
    return "\n".join(
        [
            *lines,
            "  get it by one of:" if len(ways) > 1 else "  get it by:",
            *(line for way in ways for line in _command_lines(way)),
        ]
    )
