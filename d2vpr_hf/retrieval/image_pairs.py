"""Pairs of similar photos for structure from motion, in the files that hloc and COLMAP read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders import Encoder, Progress
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.places.filters import Mask
from d2vpr_hf.readers.descriptor_files import read_descriptors
from d2vpr_hf.readers.remarks import Remark, report_remarks
from d2vpr_hf.retrieval.given_descriptors import search_descriptors
from d2vpr_hf.retrieval.image_names import ImageNames
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.utils.atomic_files import check_new_file, create_text, store_file

PairFormat = Literal["hloc", "colmap"]
FORMATS: tuple[PairFormat, ...] = get_args(PairFormat)
TOP_K = 20  # default number of pairs of a photo

_ROWS_AT_ONCE = 4096
_COMPARED_AT_ONCE = 1 << 22  # neighbours of neighbours
_UNUSABLE_NAME = re.compile(r"\s|^#")  # both programs split lines at white space, and COLMAP ignores lines that begin with `#`

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class PairReport:
    """The pairs in a file.

    Attributes:
        path: The file.
        format: `"hloc"` or `"colmap"`.
        pairs: Number of pairs.
        photos: Number of photos whose similar photos were searched.
        image_root: Folder that the names are relative to; `None` if the index does not record one.
        skipped: Photos that could not be read or whose names cannot be in the file, with the reason.
    """

    path: Path
    format: PairFormat
    pairs: int
    photos: int
    image_root: Path | None
    skipped: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        root = None if self.image_root is None else str(self.image_root)
        return vars(self) | {"path": str(self.path), "image_root": root}


def pair_queries(
    index: PlaceIndex,
    queries: Sequence[str | Path],
    encoder: Encoder,
    out: str | Path,
    *,
    format: PairFormat = "hloc",
    top_k: int = TOP_K,
    image_root: str | Path | None = None,
    allowed: Mask | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PairReport:
    """Write the pairs of photos and the most similar photos of an index.

    A photo that is in the index, too, is not paired with itself. Photos whose names have white space are skipped and counted:
    both formats split lines at it.

    Args:
        index: The index.
        queries: Photo files, or folders of them.
        encoder: Encoder with the index's model.
        out: The file.
        format: `"hloc"`, a query and a photo of the index on each line; or `"colmap"`, a list for `colmap matches_importer
            --match_type pairs`, in which each unordered pair is once.
        top_k: Number of photos of the index for each query.
        image_root: Folder of all images, which names are relative to: `image_dir` of hloc, `--image_path` of COLMAP. `None` for
            the deepest folder that contains the index's photos and the queries.
        allowed: (N,) mask of the rows to search, from [`PlaceFilter.allowed`]; `None` for all rows.
        strict: Whether a photo that cannot be used is an error.
        overwrite: Whether to replace an existing file.
        progress: Called with the number of photos just encoded.

    Raises:
        FileExistsError: If the file exists, unless `overwrite` is set.
        ValueError: If the encoder has another model than the index, a photo is not in `image_root`, or there is no pair.
    """
    path = _check_output(out, format, top_k, overwrite)
    files = [Path(query) for query in queries]
    names = ImageNames(index, [query / "photo" if query.is_dir() else query for query in files], image_root)
    names_of_rows = names.of_index()
    usable = _usable(names_of_rows)
    searched = usable if allowed is None else usable & allowed
    results = search_photos(
        index,
        files,
        encoder,
        top_k=top_k + 1,  # one may be the photo itself
        allowed=None if searched.all() else searched,
        strict=strict,
        progress=progress,
    )
    unread = {str(result.query): result.error for result in results if result.error is not None}
    matched = {names.of_photo(result.query): result.matches for result in results if result.error is None}
    skipped = _skip_unusable([*names_of_rows, *matched], strict)
    return _write_matches(path, format, top_k, names.root, names_of_rows, matched, unread | skipped)


def pair_descriptors(
    index: PlaceIndex,
    descriptors: str | Path,
    out: str | Path,
    *,
    format: PairFormat = "hloc",
    top_k: int = TOP_K,
    image_root: str | Path | None = None,
    allowed: Mask | None = None,
    tensor: str | None = None,
    normalize: bool = False,
    strict: bool = False,
    overwrite: bool = False,
) -> PairReport:
    """Write the pairs of photos whose descriptors another program made and the most similar photos of an index.

    Args:
        index: The index.
        descriptors: An HDF5 file with a group for each photo, as hloc writes it. Its names are written unchanged, so they must
            be relative to `image_root`.
        out: As for [`pair_queries`].
        format: As for [`pair_queries`].
        top_k: As for [`pair_queries`].
        image_root: Folder of all images; `None` for that of the index's photos.
        allowed: As for [`pair_queries`].
        tensor: Name of the tensor in the file; `None` for the only one.
        normalize: As for [`search_descriptors`].
        strict: As for [`pair_queries`].
        overwrite: As for [`pair_queries`].

    Raises:
        FileExistsError: If the file exists, unless `overwrite` is set.
        ValueError: If the rows of the file have no names, their width is not that of the index, values are wrong, or there is
            no pair.
    """
    path = _check_output(out, format, top_k, overwrite)
    file = read_descriptors(descriptors, tensor)
    if file.names is None:
        raise ValueError(
            f"{descriptors} has no names of photos, which pairs need. Give an HDF5 file with a group for each photo, as hloc "
            "writes it."
        )
    names = ImageNames(index, image_root=image_root)
    names_of_rows = names.of_index()
    usable = _usable(names_of_rows)
    results = search_descriptors(
        index,
        file,
        top_k=top_k + 1,  # one may be the photo itself
        normalize=normalize,
        allowed=usable if allowed is None else usable & allowed,
    )
    matched = {result.query.as_posix(): result.matches for result in results}
    skipped = _skip_unusable([*names_of_rows, *matched], strict)
    return _write_matches(path, format, top_k, names.root, names_of_rows, matched, skipped)


def _write_matches(
    path: Path,
    format: PairFormat,
    top_k: int,
    root: Path | None,
    names_of_rows: Sequence[str],
    matched: dict[str, list[Match]],
    skipped: dict[str, str],
) -> PairReport:
    """Write the pairs of queries, by name, and their matches other than themselves."""
    photos = [name for name in matched if not _UNUSABLE_NAME.search(name)]

    def pairs() -> Iterator[tuple[str, str]]:
        for name in photos:
            others = [names_of_rows[match.row] for match in matched[name]]
            yield from ((name, other) for other in [other for other in others if other != name][:top_k])

    count = _write(path, pairs() if format == "hloc" else _unordered(pairs()))
    return PairReport(path, format, count, len(photos), root, skipped)


def pair_index(
    index: PlaceIndex,
    out: str | Path,
    *,
    format: PairFormat = "hloc",
    top_k: int = TOP_K,
    image_root: str | Path | None = None,
    allowed: Mask | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PairReport:
    """Write the pairs of each photo of an index and the other photos that are most similar.

    Only the descriptors of the index are used; arguments, names and errors as for [`pair_queries`].

    Args:
        index: The index.
        out: The file.
        format: `"hloc"` or `"colmap"`.
        top_k: Number of other photos for each photo.
        image_root: Folder of all images; `None` for that of the index's photos.
        allowed: (N,) mask of the photos to pair with each other; `None` for all photos.
        strict: Whether a photo that cannot be used is an error.
        overwrite: Whether to replace an existing file.
        progress: Called with the number of photos just searched.
    """
    path = _check_output(out, format, top_k, overwrite)
    names = ImageNames(index, image_root=image_root)
    names_of_rows = names.of_index()
    usable = _usable(names_of_rows)
    skipped = _skip_unusable(names_of_rows, strict)
    rows = np.flatnonzero(usable if allowed is None else usable & allowed)
    if len(rows) < 2:
        raise ValueError(f"Pairs need at least two photos; {len(rows)} of {len(index)} in the index can be used.")
    neighbours = _neighbours(index, rows, min(top_k, len(rows) - 1), progress)
    pairs = _pairs_of_rows([names_of_rows[row] for row in rows.tolist()], neighbours, unordered=format == "colmap")
    return PairReport(path, format, _write(path, pairs), len(rows), names.root, skipped)


def _neighbours(index: PlaceIndex, rows: NDArray[np.int64], k: int, progress: Progress | None) -> NDArray[np.int32]:
    """Return for each of M rows the k most similar others (M, k), as positions in `rows`, the most similar first."""
    allowed = None
    if len(rows) < len(index):
        allowed = np.zeros(len(index), bool)
        allowed[rows] = True
    descriptors = index.descriptors
    neighbours = np.empty((len(rows), k), np.int32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        nearest = index.nearest(descriptors.take(block).astype(np.float32), k + 1, allowed=allowed)[1]
        is_itself = nearest == block[:, None]
        is_itself[~is_itself.any(axis=1), k] = True  # among more than k equal photos it may be missing: drop the last one then
        others = nearest[~is_itself].reshape(len(block), k)
        neighbours[start : start + len(block)] = np.searchsorted(rows, others)
        if progress is not None:
            progress(len(block))
    return neighbours


def _pairs_of_rows(names: Sequence[str], neighbours: NDArray[np.int32], *, unordered: bool) -> Iterator[tuple[str, str]]:
    """Yield the pairs of names of each row and its neighbours (M, k); of two equal unordered pairs the first."""
    num_rows, k = neighbours.shape
    step = max(1, _COMPARED_AT_ONCE // k**2)
    for start in range(0, num_rows, step):
        block = neighbours[start : start + step]
        positions = np.arange(start, start + len(block), dtype=np.int32)
        is_pair = np.ones(block.shape, bool)
        if unordered:
            is_mutual = (neighbours[block] == positions[:, None, None]).any(axis=2)
            is_pair = ~is_mutual | (positions[:, None] < block)
        for position, others, chosen in zip(positions.tolist(), block, is_pair, strict=True):
            yield from ((names[position], names[other]) for other in others[chosen].tolist())


def _unordered(pairs: Pairs) -> Iterator[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    for first, second in pairs:
        pair = (first, second) if first < second else (second, first)
        if pair not in seen:
            seen.add(pair)
            yield first, second


def _usable(names: Sequence[str]) -> Mask:
    """Return for each name whether it can be in a file of pairs."""
    return np.array([_UNUSABLE_NAME.search(name) is None for name in names], bool)


def _skip_unusable(names: Sequence[str], strict: bool) -> dict[str, str]:
    """Return the names that cannot be in a file of pairs, with the reason, and log or, if `strict`, raise their number."""
    unusable = [name for name in dict.fromkeys(names) if _UNUSABLE_NAME.search(name)]
    if not unusable:
        return {}
    text = "photos whose names have white space or begin with #, which files of pairs cannot hold"
    remark = Remark("skipped", text, len(unusable), unusable[0])
    if strict:
        raise ValueError(f"{remark} Rename them.")
    report_remarks([remark])
    return dict.fromkeys(unusable, "its name has white space or begins with #")


def _check_output(out: str | Path, format: str, top_k: int, overwrite: bool) -> Path:
    """Check the arguments before the work, and return the path of the file."""
    if format not in FORMATS:
        raise ValueError(f"Expected `format` as one of {', '.join(FORMATS)}, got {format!r}.")
    if top_k < 1:
        raise ValueError(f"Expected `top_k` of at least 1, got {top_k}.")
    check_new_file(Path(out), overwrite)
    return Path(out)


def _write(path: Path, pairs: Pairs) -> int:
    """Write a pair on each line, and return their number.

    Raises:
        ValueError: If there is none.
    """
    count = 0

    def write(scratch: Path) -> None:
        nonlocal count
        with create_text(scratch, errors="surrogateescape") as file:
            for first, second in pairs:
                file.write(f"{first} {second}\n")
                count += 1
        if not count:
            raise ValueError("There is no pair: no query was read, or no photo of the index can be used.")

    store_file(path, write)
    return count
