"""Beginning and opening the folder of an index."""

from dataclasses import replace
from pathlib import Path

from d2vpr_hf.index.folders import check_free, list_names
from d2vpr_hf.index.index_folder import IndexFolder
from d2vpr_hf.index.manifest import MANIFEST, REPLACEMENT, DamagedIndexError, Manifest, free_number, read_manifest
from d2vpr_hf.utils.atomic_files import make_folder


def begin_folder(folder: str | Path, manifest: Manifest, overwrite: bool) -> IndexFolder:
    """Begin an index without rows, in the place of another one if that is allowed and there is one.

    Raises:
        FileExistsError: If something is there already, unless `overwrite` is set and it is an index.
        BlockingIOError: If another process is changing the index there.
    """
    path = check_free(Path(folder), overwrite)
    make_folder(path)
    if not (path / MANIFEST).exists():
        return _begin(IndexFolder(path, manifest))
    manifest = replace(manifest, next_shard=free_number(list_names(path)))
    return _begin(IndexFolder(path, manifest, manifest_name=REPLACEMENT))


def _begin(begun: IndexFolder) -> IndexFolder:
    begun.lock.acquire()
    try:
        if begun.manifest_name == MANIFEST and (begun.path / MANIFEST).exists():
            raise FileExistsError(f"{begun.path} was made by another process in this moment. Open it, or give another folder.")
        begun.commit({}, begun.manifest)
    except BaseException:
        begun.lock.release()
        raise
    begun.behind = False
    begun.give_back()
    return begun


def open_folder(path: Path, manifest_name: str = MANIFEST, *, read_only: bool = False) -> IndexFolder:
    """Open an index; a writer may replace the files that a manifest names before they are opened.

    Raises:
        FileNotFoundError: If `path` is no index.
        DamagedIndexError: If a file is missing or damaged.
    """
    while True:
        manifest = read_manifest(path, manifest_name)
        try:
            return IndexFolder(path, manifest, manifest_name=manifest_name, read_only=read_only)
        except DamagedIndexError:
            if read_manifest(path, manifest_name) == manifest:
                raise
