"""Write a model of this package as the file that its authors' code loads."""

from collections import OrderedDict
from pathlib import Path

import torch

from d2vpr_hf.convert.sources import CONFIGS, SOURCES, Source
from d2vpr_hf.convert.weights_file import ConversionError
from d2vpr_hf.modeling import VPRConfig
from d2vpr_hf.pretrained.loading import computing_values, load_model
from d2vpr_hf.utils.atomic_files import store_file


def convert_to_published(model: str | Path, out: str | Path, *, overwrite: bool = False) -> Source:
    """Write a model's weights under the published names, for the code of D²-VPR or CricaVPR to load.

    Args:
        model: A model folder of this package or its Hub id.
        out: The `.pth` file to write.
        overwrite: Whether it may replace a file.

    Returns:
        The row of the table of sources that describes the file.

    Raises:
        FileNotFoundError: If there is no such model.
        FileExistsError: If `out` is not free.
        ValueError: If `out` does not end in `.pth` or `.pt`.
        ConversionError: If the published code, whose sizes and switches are fixed, cannot compute this model.
    """
    out = Path(out)
    if out.suffix.lower() not in (".pth", ".pt"):
        raise ValueError(f"The published code loads pickles: `out` must end in .pth, got {out}.")
    if out.is_dir() or (out.exists() and not overwrite):
        raise FileExistsError(f"{out} exists. Give another file, or set `overwrite=True` to replace a file.")
    loaded = load_model(model)
    row = _published_row(model, loaded.config)
    weights = row.to_theirs(loaded.state_dict())
    named = OrderedDict((row.prefix + name, weight.contiguous().clone()) for name, weight in weights.items())
    _save({"model_state_dict": named}, out)
    return row


def _published_row(model: str | Path, config: VPRConfig) -> Source:
    """Return the row of the published model that has this configuration."""
    rows = [row for row in SOURCES if row.target is not None and isinstance(config, CONFIGS[row.target])]
    differences = {row: _differences(config, CONFIGS[row.target](**row.fields({}))) for row in rows if row.target}
    row = min(differences, key=lambda row: len(differences[row]))
    if differences[row]:
        raise ConversionError(f"The published code cannot compute {model}, which differs in: {'; '.join(differences[row])}.")
    return row


def _differences(config: VPRConfig, published: VPRConfig) -> list[str]:
    """List the fields that differ; fields of a part that one of the two models lacks are not compared."""
    ours, theirs = computing_values(config), computing_values(published)
    return [f"{key} {ours[key]}, published {theirs[key]}" for key in ours if key in theirs and ours[key] != theirs[key]]


def _save(content: object, out: Path) -> None:
    """Write a file completely or not at all."""
    try:
        store_file(out, lambda scratch: torch.save(content, scratch))
    except RuntimeError as error:  # torch raises it when the disk is full
        raise OSError(f"{out} could not be written ({error}); nothing was changed.") from error
