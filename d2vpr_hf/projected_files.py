"""The files of a model of another library with a projection: unchanged copies, the projection, and `encoder.json`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from safetensors.numpy import save_file

from d2vpr_hf.encoders.protocol import DescriptorModel
from d2vpr_hf.hub.encoder_cards import make_encoder_card
from d2vpr_hf.model_info.encoder_card import EncoderCard, write_card
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.utils.atomic_files import copy_file, file_checksum
from d2vpr_hf.utils.hub_ids import is_hub_id

WEIGHTS = "projection.safetensors"
# files of a transformers model that it is opened by, and those about its rights
_TRANSFORMERS_FILES = ("config.json", "preprocessor_config.json", "processor_config.json", "*.safetensors", "*.index.json")
_RIGHTS = ("LICENSE*", "NOTICE*")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        folder: Their folder.
        names: Their names.
        card: The present card of a carded graph; `None` for a transformers model.
        base_model: Hub id of the model, if it is on the Hub.
    """

    folder: Path
    names: tuple[str, ...]
    card: EncoderCard | None = None
    base_model: str | None = None


def find_model_files(model: DescriptorModel) -> ModelFiles:
    """Return the files of a model that a projection can be stored next to; those of a model on the Hub are downloaded.

    Raises:
        ValueError: If it was never saved, or is neither a model of transformers nor a graph with a card.
    """
    card, folder = getattr(model, "card", None), getattr(model, "folder", None)
    if isinstance(card, EncoderCard) and folder is not None:
        names = [*getattr(model, "files", ()), *_matching(Path(folder), _RIGHTS)]
        return ModelFiles(Path(folder), tuple(names), card, _hub_id(model.model_name))
    if not isinstance(getattr(model, "preprocessing", None), Preprocessing) or not hasattr(model, "network"):
        raise ValueError(
            f"A projection cannot be stored with {model.model_name or type(model).__name__}. Expected a model of this package "
            "or of transformers, or a graph with a card; of an exported graph, give the model that it was made of."
        )
    if model.model_name is None:
        raise ValueError(
            "This model was never saved, so that there are no files to store a projection with. Save it with its image "
            "processor by `save_pretrained`, and open the folder."
        )
    patterns = [*_TRANSFORMERS_FILES, *_RIGHTS]
    local = Path(model.model_name)
    if not local.is_dir():
        local = Path(snapshot_download(model.model_name, revision=model.model_revision, allow_patterns=patterns))
    return ModelFiles(local, tuple(_matching(local, patterns)), base_model=_hub_id(model.model_name))


def projected_card(model: DescriptorModel, files: ModelFiles, facts: dict[str, Any]) -> EncoderCard:
    """Return the card of a model with a projection, without checksums.

    Args:
        model: The model without the projection.
        files: Its files.
        facts: The entries of `projection.json`.
    """
    values: dict[str, Any] = {
        "descriptor_dim": facts["dim"],
        "projection": WEIGHTS,
        "normalize_projection": facts["whiten"],
    }
    if files.card is not None:
        return replace(files.card, **values)
    origin = model.facts
    return EncoderCard(
        title=origin.title,
        preprocessing=model.preprocessing,  # type: ignore[attr-defined] # find_model_files checked it
        license=origin.license,
        training_data=origin.training_data,
        arxiv=origin.arxiv,
        num_parameters=origin.num_parameters,
        depends_on_batch=model.depends_on_batch,
        model_options=model.model_options,
        source={} if files.base_model is None else {"repository": files.base_model, "commit": model.model_revision},
        **values,
    )


def write_projected_model(
    folder: Path, files: ModelFiles, card: EncoderCard, mean: NDArray[np.float32], components: NDArray[np.float32]
) -> None:
    """Write copies of the files, the projection, and both cards, for programs and for people, into a folder."""
    for name in files.names:
        copy_file(files.folder / name, folder / name)  # the file itself where the Hub's cache has a link
    save_file({"mean": mean, "components": np.ascontiguousarray(components)}, folder / WEIGHTS)
    card = replace(card, sha256=card.sha256 | {WEIGHTS: file_checksum(folder / WEIGHTS)})
    write_card(folder, card)
    kind = "whitening" if card.normalize_projection else "PCA"
    name = files.base_model or card.title
    summary = f"The unchanged files of {name}, with {kind} of its descriptors to {card.descriptor_dim} numbers."
    make_encoder_card(card, summary, files.base_model).save(folder / "README.md")


def _matching(folder: Path, patterns: tuple[str, ...] | list[str]) -> list[str]:
    """Return the names of files in a folder that match patterns."""
    return sorted({path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _hub_id(name: str | None) -> str | None:
    return name if name is not None and is_hub_id(name) and not Path(name).exists() else None
