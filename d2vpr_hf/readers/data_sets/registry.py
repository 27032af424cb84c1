"""The layouts of public data sets.

A new layout is a [`Layout`] in a module of its own, and an entry in `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d2vpr_hf.readers.data_sets.array_sets import ARRAY_LISTS, VPR_BENCH
from d2vpr_hf.readers.data_sets.data_set import DataSet
from d2vpr_hf.readers.data_sets.folders import FOLDERS, SF_XL, visible_folders
from d2vpr_hf.readers.data_sets.gardens_point import GARDENS_POINT
from d2vpr_hf.readers.data_sets.layout import Layout
from d2vpr_hf.readers.data_sets.matlab_structs import NETVLAD
from d2vpr_hf.readers.data_sets.msls import MSLS, MSLS_ALL_QUERIES, MSLS_TEST, MSLS_TRAIN
from d2vpr_hf.readers.data_sets.pairs import AMSTERTIME, PAIRS
from d2vpr_hf.readers.read_options import ReadOptions

LAYOUTS: tuple[Layout, ...] = (
    *(MSLS, MSLS_ALL_QUERIES, MSLS_TRAIN, MSLS_TEST),
    *(ARRAY_LISTS, VPR_BENCH, NETVLAD, AMSTERTIME, GARDENS_POINT, PAIRS, SF_XL, FOLDERS),
)

_MOST_FOLDERS = 50  # in which a data set is looked for


def read_data_set(root: str | Path, layout: str | None = None, options: ReadOptions | None = None) -> DataSet:
    """Read a data set in the form in which public scripts store it. Photos are not opened.

    Args:
        root: The data set's folder.
        layout: Name of its layout, one of `LAYOUTS`; `None` to recognise it by its files.
        options: Options of readers of plain folders; `None` for the defaults.

    Raises:
        FileNotFoundError: If there is no such folder, or it lacks photos or files.
        NotADirectoryError: If `root` is a file.
        ValueError: If no layout or several fit, there is no layout of this name, or a file is malformed.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"There is no folder {root}. Give the folder of a data set.")
    if not root.is_dir() and not any(layout.accepts(root) for layout in LAYOUTS):
        raise NotADirectoryError(f"{root} is not a folder. Give the folder of a data set, or the file that lists its photos.")
    return _find_layout(root, layout).read(root, options or ReadOptions())


def _find_layout(root: Path, name: str | None) -> Layout:
    if name is not None:
        by_name = {layout.name: layout for layout in LAYOUTS}
        if name not in by_name:
            raise ValueError(f"There is no layout {name}. Expected one of {', '.join(by_name)}.")
        if not by_name[name].accepts(root):
            raise ValueError(f"{root} does not have the layout {name}. Expected {by_name[name].accepted}.")
        return by_name[name]
    accepting = [layout for layout in LAYOUTS if not layout.is_chosen_by_name and layout.accepts(root)]
    fitting = [layout for layout in accepting if not layout.is_general] or accepting
    if not fitting:
        near = _near_data_sets(root)
        if near:
            folders = ", ".join(f"{folder} ({layout})" for folder, layout in near)
            raise ValueError(f"{root} is not a data set, but near one. Give one of these folders: {folders}.")
        forms = "".join(f"\n  {layout.name}: {layout.accepted}" for layout in LAYOUTS)
        raise ValueError(f"{root} has none of the known layouts of data sets:{forms}")
    if len(fitting) > 1:
        names = ", ".join(layout.name for layout in fitting)
        raise ValueError(f"{root} has several layouts: {names}. Choose one with `layout`.")
    return fitting[0]


def _near_data_sets(root: Path) -> list[tuple[Path, str]]:
    """Return the folders inside a folder, or else around it, that are data sets, with the names of their layouts."""
    near = _data_sets_of(visible_folders(root)[:_MOST_FOLDERS])
    for parent in root.absolute().parents[:2]:
        if near:
            break
        near = [(folder, name) for folder, name in _data_sets_of([parent]) if not _is_of_sibling(name, parent, root)]
    return near


def _data_sets_of(folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return the folders that are data sets, each with the name of its first layout."""
    layouts = [layout for layout in LAYOUTS if not layout.is_chosen_by_name]
    names = ((folder, next((layout.name for layout in layouts if _accepts(layout, folder)), None)) for folder in folders)
    return [(folder, name) for folder, name in names if name is not None]


def _is_of_sibling(name: str, parent: Path, root: Path) -> bool:
    """Return whether the files by which a layout accepts a folder are in another folder next to `root`."""
    layout = next((each for each in (ARRAY_LISTS, NETVLAD) if each.name == name), None)
    siblings = (folder for folder in visible_folders(parent)[:_MOST_FOLDERS] if not root.absolute().is_relative_to(folder))
    return layout is not None and any(_accepts(layout, folder) for folder in siblings)


def _accepts(layout: Layout, folder: Path) -> bool:
    """Return whether a layout accepts a folder around or next to a data set, which may not be readable."""
    try:
        return layout.accepts(folder)
    except OSError:
        return False
