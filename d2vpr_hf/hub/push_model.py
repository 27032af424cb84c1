"""Upload a model to the Hugging Face Hub, complete enough to be used without this package."""

import inspect
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from d2vpr_hf.backends.exported_model import INFO_FILE, ExportedModel, info_text, with_contents
from d2vpr_hf.backends.verification import REFERENCES_FILE
from d2vpr_hf.encoders.open_model import open_model
from d2vpr_hf.evaluation import Evaluation
from d2vpr_hf.hub.benchmarks import FOLDER as BENCHMARK_FOLDER
from d2vpr_hf.hub.benchmarks import benchmark_results
from d2vpr_hf.hub.cards import check_license, find_license_file
from d2vpr_hf.hub.encoder_cards import make_encoder_card
from d2vpr_hf.hub.graph_cards import renew_graph_card
from d2vpr_hf.hub.model_cards import (
    CardFacts,
    complete_card,
    make_card,
    set_license,
    stated_base_model,
)
from d2vpr_hf.hub.pushed_folder import FolderKind, recognize_folder
from d2vpr_hf.hub.uploads import check_repository_name, upload_files
from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_card import CARD_FILE, read_card
from d2vpr_hf.pretrained.fitted_photos import PROJECTION_FILE
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.pretrained.model_files import is_vision_config, stored_config
from d2vpr_hf.pretrained.stated_facts import stated_license
from d2vpr_hf.pretrained.untrained_parts import warn_of_untrained_parts
from d2vpr_hf.utils.bounded_files import parse_json

logger = logging.getLogger(__name__)

Files = dict[str, Path | bytes]  # contents by path in the repository

_CARD = "README.md"
_CONFIG = "config.json"
_PROCESSOR = "preprocessor_config.json"
_PROCESSORS = (_PROCESSOR, "processor_config.json")
_REPORT = "validation.json"
_MODULES = "modules.json"  # the parts of a model for sentence-transformers
# files that other programs read next to the weights
_COMPANIONS = (
    *("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", _REPORT, PROJECTION_FILE),
    *(_MODULES, "sentence_bert_config.json", "config_sentence_transformers.json"),
)
_PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp")
# files of an earlier model in the repository, which would be loaded with this one's or describe another model
_STALE = (
    *("model.safetensors", "model-*-of-*.safetensors", SAFE_WEIGHTS_INDEX_NAME),
    *(INFO_FILE, REFERENCES_FILE, "model.onnx", "model.onnx.data", "model.xml", "model.bin"),
    *(CARD_FILE, "projection.safetensors", "*.onnx", "*.onnx.data", "*.onnx_data"),
    *(_REPORT, PROJECTION_FILE, _MODULES, f"{BENCHMARK_FOLDER}/*.yaml"),
)
_NO_FACTS = CardFacts(
    summary="A model for visual place recognition.",
    license=None,
    license_note="Not chosen yet.",
    training_data="not recorded",
)


def push_model(
    source: str | Path,
    name: str,
    *,
    private: bool | None = None,
    license: str | None = None,
    commit_message: str = "Upload a model",
    token: str | None = None,
) -> str:
    """Upload a model, or a graph that `d2vpr export` wrote, to the Hugging Face Hub in one commit.

    Everything that others need is uploaded: unchanged weights, configuration, image processor, the code of this version (for
    `trust_remote_code=True`), a card, and reports. Files of an earlier model in the repository are removed. A card
    that this package wrote is completed; without a card, one is written; a card of a person stays unchanged.

    Args:
        source: The folder, or `"embedded"`. It is not changed.
        name: The repository, such as `"user/name"`; it is created if there is none.
        private: Whether a new repository is private; `None` for the account's default.
        license: The licence by the Hub's identifier, such as `"mit"`; `None` for that of the card.
        commit_message: Message of the commit.
        token: Access token; by default that of `hf auth login`.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: If there is no such folder, or it lacks the weights, the configuration or the image processor.
        ValueError: If weights do not fit the configuration, it is an index, the head of its card or the licence is invalid,
            or a person wrote a card with another licence.
        ConnectionError: If the Hub cannot be reached.
        PermissionError: If the Hub refuses the token, or there is none.
    """
    check_repository_name(name)
    check_license(license)
    kind = recognize_folder(source)
    if kind is FolderKind.INDEX:
        raise ValueError(f"{source} is an index, not a model. `push_index`, or `d2vpr push`, uploads it.")
    folder = EMBEDDED_MODEL if str(source) == EMBEDDED_NAME else Path(source)
    if kind is FolderKind.GRAPH:
        files, card = _graph_files(folder)
    elif kind is FolderKind.ENCODER:
        files, card = _encoder_files(folder)
    else:
        files, card = _model_files(folder, name, token)
    _add_card(files, folder, complete_card(card if license is None else set_license(card, license), name))
    _warn_of_license(files)
    _name_other_files(folder, files)
    return upload_files(name, files, kind="model", stale=_STALE, private=private, commit_message=commit_message, token=token)


def _model_files(folder: Path, name: str, token: str | None) -> tuple[Files, str]:
    """Return the files of a model folder and its card, after loading the model to check that it is complete."""
    stored = stored_config(folder)
    if is_vision_config(stored):
        raise ValueError(
            f"{folder} is a model of transformers, of type {stored.get('model_type')!r}: transformers uploads it, by "
            "`model.push_to_hub(...)` and `processor.push_to_hub(...)`. Expected a model of this package, or a folder with "
            f"{CARD_FILE}, as `d2vpr fit-projection` and `d2vpr card-onnx` write it."
        )
    model, processor = load_model(folder), load_image_processor(folder)
    warn_of_untrained_parts(folder, model.config.untrained_parts)
    classes = (type(model.config), type(model), type(processor))
    files: Files = {weights: folder / weights for weights in _weights(folder)}
    files[_CONFIG] = _with_code(folder / _CONFIG, {"AutoConfig": classes[0], "AutoModel": classes[1]})
    files[_PROCESSOR] = _with_code(folder / _PROCESSOR, {"AutoImageProcessor": classes[2]})
    files |= _code(classes) | _companions(folder)
    evaluation = Evaluation.load(folder / _REPORT) if (folder / _REPORT).is_file() else None
    if evaluation is not None:
        files |= benchmark_results(evaluation, name, token)
    card = _read_card(folder)
    if card is None:
        size = (processor.size["height"], processor.size["width"])
        card = str(make_card(model, _NO_FACTS, "not recorded", size, evaluation))
    return files, card


def _encoder_files(folder: Path) -> tuple[Files, str]:
    """Return the files of a folder with `encoder.json` and its card, after opening the encoder to check that it is complete.

    The code of this package is not added: transformers loads the model by its own code, or does not load it at all.
    """
    encoder = open_model(str(folder), device="cpu")
    _ = encoder.fingerprint  # compares the files with the checksums of the card
    card = read_card(folder)
    names = [*([] if card.graph is None else getattr(encoder, "files", [card.graph])), CARD_FILE]
    if card.graph is None:
        names += [*_weights(folder), _CONFIG, *(name for name in _PROCESSORS if (folder / name).is_file())]
    names += [] if card.projection is None else [card.projection]
    files: Files = {name: folder / name for name in dict.fromkeys(names)} | _companions(folder)
    text = _read_card(folder)
    return files, str(make_encoder_card(card, "A model for visual place recognition.")) if text is None else text


def _graph_files(folder: Path) -> tuple[Files, str]:
    """Return the files of an exported graph, with the code of configuration and image processor, and its card."""
    exported = ExportedModel.open(folder)
    exported.check_files()
    files: Files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".py" and not _is_hidden(path.relative_to(folder))
    }
    # other formats have configuration files for another library, and other models no code of this package
    if exported.format.config_file == _CONFIG and (folder / _PROCESSOR).is_file():
        classes = (type(exported.config()), type(exported.processor()))
        files[_CONFIG] = _with_code(folder / _CONFIG, {"AutoConfig": classes[0]})
        files[_PROCESSOR] = _with_code(folder / _PROCESSOR, {"AutoImageProcessor": classes[1]})
        files |= _code(classes)
    files[INFO_FILE] = _public_info(exported, files)
    return files, renew_graph_card(_read_card(folder), exported)


def _public_info(exported: ExportedModel, files: Files) -> bytes:
    """Return `export.json` for the uploaded files, with the model's Hub id, if it has one, in place of a folder here."""
    source = exported.info.get("model")
    public_source = source if source in (None, EMBEDDED_NAME) else stated_base_model(source)
    return info_text(with_contents(exported.info, files) | {"model": public_source}).encode()


def _weights(folder: Path) -> list[str]:
    """Return the files of the weights that transformers loads from a folder: one file, or the shards with their index."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        return [SAFE_WEIGHTS_NAME]
    shards = parse_json((folder / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))["weight_map"].values()
    return [*sorted(set(shards)), SAFE_WEIGHTS_INDEX_NAME]


def _with_code(path: Path, classes: dict[str, type]) -> bytes:
    """Return a JSON file with the table of classes that `trust_remote_code=True` loads from the code next to it."""
    values = parse_json(path.read_text(encoding="utf-8"))
    values["auto_map"] = {auto: f"{part.__module__.rpartition('.')[2]}.{part.__name__}" for auto, part in classes.items()}
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _code(classes: Iterable[type]) -> Files:
    """Return the files that define classes, and the files that these import."""
    modules = [inspect.getfile(part) for part in classes]
    paths = {Path(file) for module in modules for file in [module, *get_relative_import_files(module)]}
    return {path.name: path for path in sorted(paths)}


def _companions(folder: Path) -> Files:
    """Return the files next to weights that other programs read."""
    patterns = (*_COMPANIONS, f"{BENCHMARK_FOLDER}/*.yaml")
    paths = [path for pattern in patterns for path in folder.glob(pattern)]
    if (folder / _MODULES).is_file():
        for part in parse_json((folder / _MODULES).read_text(encoding="utf-8")):
            paths.append(folder / f"{part['type'].partition('.')[0]}.py")
            paths += (folder / part["path"]).rglob("*") if part.get("path") else ()
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


def _read_card(folder: Path) -> str | None:
    path = folder / _CARD
    try:
        return path.read_bytes().decode() if path.is_file() else None  # with its line ends
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: expected UTF-8, got byte {error.object[error.start]:#x}.") from error


def _add_card(files: Files, folder: Path, card: str) -> None:
    """Add a card, the pictures that it shows, and the text of its licence if this package has it."""
    files[_CARD] = card.encode()
    for target in re.findall(r"\]\(([^)#?\s]+)|src=\"([^\"]+)\"", card):
        picture = Path("".join(target))
        is_inside = not picture.is_absolute() and ".." not in picture.parts
        if is_inside and picture.suffix.lower() in _PICTURES and (folder / picture).is_file():
            files[picture.as_posix()] = folder / picture
    license_file = find_license_file()
    if stated_license(card) == "apache-2.0" and license_file is not None:
        files.setdefault("LICENSE", license_file)


def _warn_of_license(files: Files) -> None:
    card = files[_CARD]
    assert isinstance(card, bytes)
    if stated_license(card.decode()) is None:
        logger.warning(
            "The card states no licence, so that others do not know whether they may use the model. Upload again with "
            '`license="mit"` or another identifier of the Hub, or add the licence to the head of README.md.'
        )


def _name_other_files(folder: Path, files: Files) -> None:
    """Log the files of a folder that are not uploaded, except old code and hidden files."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    left_out = sorted(
        path.as_posix() for path in names if path.as_posix() not in files and path.suffix != ".py" and not _is_hidden(path)
    )
    if left_out:
        listed = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        logger.warning("%d files in %s are not part of the model and are not uploaded: %s", len(left_out), folder, listed)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
