"""The files of a Space: the page, this package in a folder next to it, the requirements, and the card with its metadata.

The Hub's builder installs `requirements.txt` before it copies the repository, and without a token. A wheel in the repository is
therefore out of its reach; a package next to `app.py` is found by Python when the app starts, in private Spaces too.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceHardware

from d2vpr_hf import __version__
from d2vpr_hf.hub.cards import find_license_file

CPU_HARDWARE = ("cpu-basic", "cpu-upgrade")
HARDWARE = tuple(str(kind.value) for kind in SpaceHardware)
STALE = ("*.whl", "d2vpr_hf/*")  # files of earlier uploads that are removed

_PACKAGE = Path(__file__).parents[1]
_NAME = "d2vpr_hf"
_ROOMS = ("modeling", "spaces")  # folders that an installation has inside the package, and the source tree next to it
_LEFT_OUT = (
    f"{_NAME}/spaces/",
    f"{_NAME}/training/",
)  # not part of the Space's package: its own folder, and what it never imports
RUNTIMES = {".onnx": "onnxruntime==1.32.0", ".xml": "openvino==2026.4.1"}  # in tested versions, by the suffix of a graph
_SUFFIXES = {".py", ".pyi", ".typed", ".css", ".js", ".md", ".txt", ".json", ".safetensors"}
_TOWN = "The map is a simulated town, rendered on the first start; its results do not predict results on real streets."
_CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"  # torch without GPU libraries, gigabytes less


@dataclass(frozen=True)
class ModelOnHub:
    """A model on the Hub that a Space uses.

    Attributes:
        name: Its Hub id.
        revision: The commit that the Space loads.
        files: The files that the Space loads.
        private: Whether it can be read with a token only.
    """

    name: str
    revision: str
    files: Sequence[str]
    private: bool = False


def find_space_folder(package: Path = _PACKAGE) -> Path:
    """Return the folder of the Space's files: in the installed package, or next to the package in the source tree.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    return _find_room("spaces", package)


def read_package(wheel: Path | None = None) -> dict[str, bytes]:
    """Return the files of this package by their paths in a wheel.

    Args:
        wheel: A wheel of this package to take the files from; by default they are those of this installation.

    Raises:
        FileNotFoundError: If a folder of the installation is missing.
        ValueError: If the wheel is not one of this package in this version.
    """
    return _installed_files() if wheel is None else _wheel_files(wheel)


def space_files(
    name: str,
    package: dict[str, bytes],
    *,
    hardware: str = CPU_HARDWARE[0],
    model: ModelOnHub | None = None,
    index: str | None = None,
) -> dict[str, bytes]:
    """Return the files of a Space by their paths in its repository.

    Args:
        name: The Space, such as `"user/where"`.
        package: The files of this package, from [`read_package`].
        hardware: The Space's hardware. On a CPU, torch is installed without GPU libraries.
        model: The model that the Space loads from the Hub; it is downloaded when the Space is built, unless it is private.
        index: Hub id of the Space's index, if it has one.
    """
    start = f"{_NAME}/spaces/"
    files = {path.removeprefix(start): content for path, content in package.items() if path.startswith(start)}
    files |= {path: content for path, content in package.items() if not path.startswith(_LEFT_OUT)}
    files["requirements.txt"] = _requirements(files["requirements.txt"].decode(), hardware, model).encode()
    files["README.md"] = _card(files["README.md"].decode(), name, hardware, model, index).encode()
    return files


def _installed_files() -> dict[str, bytes]:
    """Return the files of this installation by their paths in a wheel."""
    folders = {_NAME: _PACKAGE} | {f"{_NAME}/{room}": _find_room(room, _PACKAGE) for room in _ROOMS}
    files = {
        f"{start}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for start, folder in folders.items()
        for path in sorted(folder.rglob("*"))
        if path.suffix in _SUFFIXES and path.is_file()
    }
    license_file = find_license_file()
    return files if license_file is None else files | {"LICENSE": license_file.read_bytes()}


def _find_room(room: str, package: Path) -> Path:
    for folder in (package / room, package.parent / room):
        if any(folder.glob("*.py")):
            return folder
    raise FileNotFoundError(f"There is no folder {room} in {package} or next to it. Install d2vpr-hf again.")


def _wheel_files(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel, with its licence at the top, after checking that it is this package in this version."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {path: archive.read(path) for path in archive.namelist() if not path.endswith("/")}
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{wheel} is not a wheel that can be read: {error}.") from error
    metadata = next((content for path, content in contents.items() if path.endswith(".dist-info/METADATA")), b"")
    head = BytesHeaderParser().parsebytes(metadata)
    if (head["Name"], head["Version"]) != ("d2vpr-hf", __version__):
        raise ValueError(
            f"{wheel} is a wheel of {head['Name'] or 'no package'} {head['Version'] or ''}; expected d2vpr-hf {__version__}. "
            "Leave it out to publish the files of this installation."
        )
    files = {path: content for path, content in contents.items() if path.startswith(f"{_NAME}/")}
    lines = files.get(f"{_NAME}/spaces/requirements.txt", b"").decode().splitlines()
    if not any(line.startswith("torch==") for line in lines):
        raise ValueError(f"{wheel} has no Space that this version can publish. Build the wheel again, or leave it out.")
    licences = [content for path, content in contents.items() if path.endswith(".dist-info/licenses/LICENSE")]
    return files | ({"LICENSE": licences[0]} if licences else {})


def _requirements(text: str, hardware: str, model: ModelOnHub | None) -> str:
    """Add what depends on the Space to the requirements.

    A Space on a CPU takes torch from the index without GPU libraries; other hardware, ZeroGPU too, needs them. A graph needs
    its runtime.
    """
    suffixes = set() if model is None else {Path(file).suffix for file in model.files}
    runtimes = "".join(f"{requirement}\n" for suffix, requirement in RUNTIMES.items() if suffix in suffixes)
    text = f"{text.rstrip()}\n{runtimes}"
    return f"{_CPU_INDEX}\n{text}" if hardware in CPU_HARDWARE else text


def _card(text: str, name: str, hardware: str, model: ModelOnHub | None, index: str | None) -> str:
    """Fill the Space's card: its name in the example, its map, and in the metadata its hardware, model and index.

    `preload_from_hub` takes models only (hub-docs issue 1536), so the index is downloaded when the Space starts.
    """
    if index is not None:
        text = text.replace(_TOWN, f"The map is [{index}](https://huggingface.co/datasets/{index}).")
    card = SpaceCard(text.replace("USER/NAME", name))
    card.data["suggested_hardware"] = hardware
    if model is not None:
        card.data["models"] = [model.name]
    if index is not None:
        card.data["datasets"] = [index]
    if model is not None and not model.private:
        card.data["preload_from_hub"] = [f"{model.name} {','.join(sorted(model.files))} {model.revision}"]
    return str(card)
