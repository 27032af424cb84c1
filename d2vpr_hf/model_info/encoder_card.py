"""The card of an encoder, `encoder.json`: how this package opens a model of another library. This module loads no library."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Self

from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.utils.atomic_files import file_checksum, store_files
from d2vpr_hf.utils.bounded_files import parse_json

CARD_FILE = "encoder.json"
FORMAT_VERSION = 1
_MAX_WIDTH = 1 << 20  # of descriptors; published ones have up to 86,016 numbers
_ADVICE = "docs/encoders.md lists the values of a card, and `d2vpr card-onnx` writes one"


@dataclass(frozen=True)
class EncoderCard:
    """The content of `encoder.json`, next to an ONNX graph, or next to the unchanged files of a transformers model.

    Attributes:
        title: Name for people, such as `"MegaLoc"`.
        descriptor_dim: Width of the descriptors, after the projection if there is one.
        preprocessing: The steps from an upright image to pixel values.
        license: Licence of the weights, as the Hub's identifier; `None` if none is stated.
        training_data: One sentence about the photos that the weights were trained on; `None` if it is not known.
        arxiv: Identifier of the paper on arXiv; `None` without one.
        num_parameters: Number of weights; `None` if it is not known.
        depends_on_batch: Whether a photo's descriptor depends on the other photos of its batch.
        graph: Name of the ONNX file; `None` for a transformers model.
        input_name: Name of the graph's input; `None` if it has only one.
        output_name: Name of the output that holds the descriptors; `None` if it has only one.
        normalize: Whether this package divides the model's descriptors by their norms, because the model does not.
        model_options: The way to compute descriptors by a transformers model, as of [`ModelOptions.to_dict`].
        projection: Name of a safetensors file with `mean` (D_model,) and `components` (D, D_model), which reduce the model's
            descriptors by `(descriptor - mean) @ components.T`; `None` without one.
        normalize_projection: Whether projected descriptors are divided by their norms.
        sha256: SHA-256 of files that the card belongs to, by their names.
        checked: Results of the checks on photos, as `d2vpr card-onnx` records them; empty if the card was not checked.
        source: Origin of the files, such as a repository and its commit.
    """

    title: str
    descriptor_dim: int
    preprocessing: Preprocessing
    license: str | None = None
    training_data: str | None = None
    arxiv: str | None = None
    num_parameters: int | None = None
    depends_on_batch: bool = False
    graph: str | None = None
    input_name: str | None = None
    output_name: str | None = None
    normalize: bool = False
    model_options: dict[str, Any] = field(default_factory=dict)
    projection: str | None = None
    normalize_projection: bool = False
    sha256: dict[str, str] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        for attribute, is_allowed, expected in _RULES:
            value = getattr(self, attribute)
            if not is_allowed(value):
                raise ValueError(f"`{attribute}` must be {expected}, got {value!r}")
        ModelOptions.from_dict(self.model_options)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the form of [`to_dict`].

        Raises:
            ValueError: If values are missing, wrong or unknown, or of a newer format.
        """
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"`format_version` must be {FORMAT_VERSION}, got {version!r}; a newer version may read it")
        given = {name: value for name, value in values.items() if name != "format_version"}
        names = {attribute.name for attribute in fields(cls)}
        if unknown := sorted(set(given) - names):
            raise ValueError(f"it has unknown values: {', '.join(unknown)}")
        if missing := [name for name in ("title", "descriptor_dim", "preprocessing") if name not in given]:
            raise ValueError(f"it has no {', '.join(f'`{name}`' for name in missing)}")
        if not isinstance(given["preprocessing"], Mapping):
            raise ValueError(f"`preprocessing` must be a table, got {given['preprocessing']!r}")
        return cls(**given | {"preprocessing": Preprocessing.from_dict(given["preprocessing"])})

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON values; those that are not set are omitted."""
        values = {attribute.name: getattr(self, attribute.name) for attribute in fields(self)}
        values = {name: value for name, value in values.items() if value not in (None, False, {})}
        return {"format_version": FORMAT_VERSION} | values | {"preprocessing": self.preprocessing.to_dict()}

    @property
    def facts(self) -> ModelFacts:
        """Title, licence and origin of the model."""
        return ModelFacts(self.title, self.license, self.training_data, self.arxiv, self.num_parameters)


def read_card(folder: str | Path) -> EncoderCard:
    """Read the card in a folder.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: If the card is damaged, of a newer format, or has unknown or wrong values.
    """
    path = Path(folder) / CARD_FILE
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it must be a table of values")
        return EncoderCard.from_dict(values)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a card of an encoder that this version reads: {error}. {_ADVICE}.") from error


def write_card(folder: str | Path, card: EncoderCard) -> None:
    """Write a card into a folder, in place of an old one."""
    content = json.dumps(card.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    store_files(Path(folder), {CARD_FILE: content.encode()})


def has_card(folder: object) -> bool:
    """Return whether a model's name is a folder with a card."""
    return isinstance(folder, str | Path) and (Path(folder) / CARD_FILE).is_file()


def is_plain_name(name: object) -> bool:
    """Return whether a text is the name of a file in a folder, and not a path that may leave it, on any system."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not set(name) & set('/\\:\0*?"<>|')
        and PurePosixPath(name).name == PureWindowsPath(name).name == name
    )


def locate_file(folder: Path, name: str) -> Path:
    """Return the path of a file that a card or a graph names.

    The Hub's cache has links in the folder of a commit, to the files of the same repository. Other links out of the folder are
    refused, so that a model that was downloaded cannot read the files of its user.

    Raises:
        FileNotFoundError: If the folder has no such file.
        ValueError: If the name, or a link of this name, leaves the folder.
    """
    if not is_plain_name(name):
        raise ValueError(f"{folder} names the file {name!r}. Only names of files in the same folder are allowed.")
    path, home = folder / name, folder.resolve()
    allowed = {home} | {folder.parent / "blobs" for folder in home.parents if folder.name == "snapshots"}
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, or not a file. Copy all files of the encoder into its folder.")
    if path.resolve().parent not in allowed:
        raise ValueError(f"{path} is a link to a file in another folder. Copy the file itself into the folder.")
    return path


def hash_files(folder: Path, names: Iterable[str], card: EncoderCard | None = None) -> dict[str, str]:
    """Return the SHA-256 of files in a folder by their names, after comparing them with those in the card, if there is one.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If one differs from the card, or is not in the folder.
    """
    checksums = {}
    for name in names:
        checksums[name] = file_checksum(locate_file(folder, name))
        expected = checksums[name] if card is None else card.sha256.get(name, checksums[name])
        if checksums[name] != expected:
            raise ValueError(
                f"{folder / name} is not the file that {CARD_FILE} belongs to: its SHA-256 is {checksums[name]}, expected "
                f"{expected}. It is damaged or was replaced: copy or download it again, or write a new card."
            )
    return checksums


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_optional_text(value: object) -> bool:
    return value is None or _is_text(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_width(value: object) -> bool:
    return isinstance(value, int) and _is_count(value) and value <= _MAX_WIDTH


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_graph_name(value: object) -> bool:
    return value is None or (is_plain_name(value) and str(value).lower().endswith(".onnx"))


def _is_projection_name(value: object) -> bool:
    return value is None or (is_plain_name(value) and str(value).lower().endswith(".safetensors"))


def _are_checksums(value: object) -> bool:
    return isinstance(value, dict) and all(
        is_plain_name(name) and isinstance(digest, str) and len(digest) == 64 and not set(digest) - set("0123456789abcdef")
        for name, digest in value.items()
    )


_RULES: list[tuple[str, Callable[[object], bool], str]] = [
    ("title", _is_text, "a text"),
    ("descriptor_dim", _is_width, f"a positive whole number up to {_MAX_WIDTH}"),
    *((name, _is_optional_text, "a text") for name in ("license", "training_data", "arxiv", "input_name", "output_name")),
    ("num_parameters", lambda value: value is None or _is_count(value), "a positive whole number"),
    *((name, _is_flag, "true or false") for name in ("depends_on_batch", "normalize", "normalize_projection")),
    ("graph", _is_graph_name, "the name of an .onnx file in the same folder"),
    ("projection", _is_projection_name, "the name of a .safetensors file in the same folder"),
    ("sha256", _are_checksums, "a table of file names in the same folder and 64 lower-case hexadecimal digits each"),
    *((name, _is_table, "a table") for name in ("model_options", "checked", "source")),
]
