"""A folder from elsewhere may hold links under the names of files that are about to be written: no writer follows one."""

import ast
from pathlib import Path

import numpy as np
import pytest

from d2vpr_hf.index import IndexSettings, PlaceIndex, repair_index
from d2vpr_hf.places import Place
from d2vpr_hf.utils.atomic_files import (
    append_text,
    copy_file,
    create_text,
    make_empty,
    remove_folders,
    replace_folder,
    set_usual_modes,
    store_file,
    store_files,
    store_folder,
    write_file,
)

ROOT = Path(__file__).parents[2]
# Files that run alone, without this package, and a script of developers
EXEMPT = ("modeling", "d2vpr_hf/import_hub/child.py", "d2vpr_hf/assets", "d2vpr_hf/utils/atomic_files.py")
# Places that create files in a scratch folder which was made for them alone, or in a process of its own, or that only read
SCRATCH = {
    "d2vpr_hf/utils/regular_files.py": {"open"},
    "d2vpr_hf/import_hub/archive.py": {"open", "copyfileobj", "copyfile"},
    "d2vpr_hf/import_hub/isolated_run.py": {"open", "write_text", "save"},
}
WRITERS = {"write_text", "write_bytes", "touch", "copyfile", "copy", "copy2", "copytree", "move", "symlink_to", "hardlink_to"}
SHUTIL = {"copyfile", "copy", "copy2", "copytree", "move"}


@pytest.fixture
def mine(tmp_path):
    """Return a file of ours, next to a folder from elsewhere."""
    file = tmp_path / "mine.txt"
    file.write_text("precious")
    return file


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "elsewhere"
    made.mkdir()
    return made


WAYS = {
    "store_files": (".tmp", lambda path: store_files(path.parent, {path.name: b"new"})),
    "store_files in place of the link": ("", lambda path: store_files(path.parent, {path.name: b"new"})),
    "store_file": ("", lambda path: store_file(path, lambda scratch: write_file(scratch, "new"))),
    "write_file": ("", lambda path: write_file(path, "new")),
    "create_text": ("", lambda path: create_text(path).close()),
    "copy_file": ("", lambda path: copy_file(Path(__file__), path)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_link_is_replaced_and_its_target_stays(folder, mine, way):
    suffix, write = WAYS[way]
    (folder / f"a.json{suffix}").symlink_to(mine)
    write(folder / "a.json")
    assert mine.read_text() == "precious"
    assert (folder / "a.json").is_file() and not (folder / "a.json").is_symlink()


def test_a_link_without_a_target_creates_no_file(folder, tmp_path):
    """A link to a file that does not exist yet would create it, such as `~/.bash_aliases`."""
    (folder / "a.json.tmp").symlink_to(tmp_path / "new.txt")
    store_files(folder, {"a.json": b"new"})
    assert not (tmp_path / "new.txt").exists() and (folder / "a.json").read_bytes() == b"new"


def test_text_is_not_appended_to_the_target_of_a_link(folder, mine):
    (folder / "metrics.jsonl").symlink_to(mine)
    with pytest.raises(OSError):
        append_text(folder / "metrics.jsonl", "more")
    assert mine.read_text() == "precious"


def test_a_link_to_a_folder_is_replaced_and_its_files_stay(folder, mine):
    """The scratch folder of a vector store has a name that can be known before."""
    precious = mine.parent / "precious"
    precious.mkdir()
    for name in ("derived.tmp", "derived", ".best.old", "step"):
        (precious / "bits.npy").write_text("precious")
        (folder / name).symlink_to(precious, target_is_directory=True)

    def write(path):
        path.mkdir(exist_ok=True)  # as stores do
        write_file(path / "bits.npy", "new")

    store_folder(folder, "derived", write)
    make_empty(folder / "step")
    (folder / "best").mkdir()
    (folder / "new").mkdir()
    replace_folder(folder / "new", folder / "best")
    remove_folders(folder, [".best.old", "step"])
    assert (folder / "derived" / "bits.npy").read_text() == "new"
    assert [path.read_text() for path in precious.iterdir()] == ["precious"]


def test_modes_of_a_links_target_stay(folder, mine):
    mine.chmod(0o600)
    (folder / "weights.safetensors").symlink_to(mine)
    set_usual_modes(folder.iterdir())
    assert mine.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "link", ["manifest.json.tmp", "places-000000.parquet.tmp", ".lock", "descriptors-000003.safetensors.tmp"]
)
def test_an_index_from_elsewhere_writes_to_none_of_our_files(folder, mine, link):
    """`repair_index` once wrote the manifest into the target of a link named `manifest.json.tmp`."""
    path = folder / "index"
    with PlaceIndex.create(path, IndexSettings(None, "f" * 64, 8, shard_size=8)) as made:
        for number in range(20):
            made.add(np.eye(8)[number % 8], Place(f"{number}.jpg"))
    (path / "places-000001.parquet").write_bytes(b"damaged")
    (path / link).unlink(missing_ok=True)
    (path / link).symlink_to(mine)
    if link == ".lock":
        with pytest.raises(OSError, match="cannot be changed here"):
            repair_index(path)
    else:
        repair_index(path)
        with PlaceIndex.open(path) as opened:
            opened.add(np.eye(8)[0], Place("new.jpg"))
    assert mine.read_text() == "precious"


def test_every_writer_goes_through_the_module_of_files():
    """A writer elsewhere would follow links again."""
    files = [file for room in ("d2vpr_hf", "training", "spaces") for file in (ROOT / room).rglob("*.py")]
    names = {file: file.relative_to(ROOT).as_posix() for file in files}
    checked = {file: name for file, name in names.items() if not name.startswith(EXEMPT)}
    offences = {
        f"{name}:{call.lineno}"
        for file, name in checked.items()
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and creates_a_file(call) - SCRATCH.get(name, set())
    }
    assert not offences


def creates_a_file(call: ast.Call) -> set[str]:
    """Return the name of the called function if it creates a file; otherwise nothing."""
    if isinstance(call.func, ast.Name):
        name, holder = call.func.id, ""
    elif isinstance(call.func, ast.Attribute):
        name, holder = call.func.attr, getattr(call.func.value, "id", "")
    else:
        return set()
    if name == "open":
        values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        modes = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        return {name} if holder == "os" or any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes) else set()
    is_copy = name in SHUTIL and holder == "shutil"
    return {name} if is_copy or (name in WRITERS - SHUTIL and isinstance(call.func, ast.Attribute)) else set()
