"""Any Hugging Face data set in the common form of [`d2vpr_hf.readers.place_dataset`]: from the Hub, or from this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from d2vpr_hf.readers.place_dataset import place_features
from d2vpr_hf.readers.remarks import RemarkCounter, report_remarks
from d2vpr_hf.readers.tables.dataset_columns import ImageFile, compute_columns, match_columns
from d2vpr_hf.utils.confirmed_names import confirm
from d2vpr_hf.utils.hub_ids import is_hub_id
from d2vpr_hf.utils.optional_imports import import_extra

if TYPE_CHECKING:
    import datasets

    from d2vpr_hf.readers.place_dataset import PlaceDataset

_STREAMED_ROWS = 16  # rows of a stream that are converted at once, with their images in memory


def load_places(
    name: str | Path,
    *,
    config: str | None = None,
    revision: str | None = None,
    split: str | None = None,
    streaming: bool = False,
    columns: Mapping[str, str] | None = None,
    remarks: RemarkCounter | None = None,
) -> PlaceDataset:
    """Load a Hugging Face data set of photos and bring it to the common form.

    Args:
        name: A Hub id (`user/name`); a folder of Parquet files, of images with `metadata.csv`, or of any other form that
            `datasets.load_dataset` reads; a Parquet file; or a folder that `save_to_disk` wrote.
        config: The configuration (subset), if there are several.
        revision: Branch, tag or commit on the Hub.
        split: Such as `"train"`; may be omitted if there is only one.
        streaming: Whether rows are read when they are needed, without downloading the data set first. The result is then an
            `IterableDataset`.
        columns: The columns of fields whose columns do not have the usual names, such as
            `{"image": "photo", "latitude": "y_wgs84"}`. The fields are `image`, `place_id` and those of [`Place`].
        remarks: Counts values that are corrected or assumed, those of a stream while it is read; give it to [`DatasetPhotos`]
            too. `None` logs a warning for each kind of them.

    Returns:
        A data set with the columns of [`d2vpr_hf.readers.place_dataset.place_features`]. `path` is the photo's file if the
        photo is in a file on this machine, and otherwise `<name>/<split>/<row>/<file name>`; rows count from 0.

    Raises:
        ImportError: If `datasets` is not installed.
        FileNotFoundError, ConnectionError: If there is no such data set, or the Hub cannot be reached.
        ValueError: If there are several splits and none is chosen, a column is missing, or a row holds half a position or
            a text in place of a number (raised when the row is read, if streaming).
    """
    import_extra("datasets", "datasets")
    dataset, loaded = _load(str(name), config, revision, split, streaming)
    fields = match_columns(str(name), dataset.features, columns or {})
    label = f"{name}/{loaded}" if loaded else str(name)
    return _map_stream(dataset, fields, label, remarks) if streaming else _add_columns(dataset, fields, label, remarks)


def _load(
    name: str, config: str | None, revision: str | None, split: str | None, streaming: bool
) -> tuple[PlaceDataset, str | None]:
    """Load a split, not converted, and its name; `None` if it has no name."""
    if not name:
        raise ValueError("The data set's name is empty. Give a Hub id such as user/name, or a folder.")
    if revision is not None and Path(name).exists():
        raise ValueError(f"{name} is on this machine and has no revisions. Leave `revision` out, or give a Hub id.")
    if any((Path(name) / marker).is_file() for marker in ("state.json", "dataset_dict.json")):
        return _load_saved(name, split, streaming)
    from datasets.exceptions import DatasetBuildError

    builder = _builder(name, config, revision)
    try:
        split = split or _only_split(name, list(builder.info.splits or builder.as_streaming_dataset()))
        if streaming:
            stream = builder.as_streaming_dataset(split)
            # files that do not declare the types of their columns: infer them from the first rows
            return stream if stream.features is not None else stream._resolve_features(), split
        builder.download_and_prepare()
        return builder.as_dataset(split), split
    except (DatasetBuildError, pa.ArrowInvalid) as error:
        raise ValueError(f"{name} cannot be read as a data set: {error.__cause__ or error}") from error


def _builder(name: str, config: str | None, revision: str | None) -> datasets.DatasetBuilder:
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    if Path(name).is_file():
        if Path(name).suffix.lower() != ".parquet":
            raise ValueError(f"Expected a Hub id, a folder or a .parquet file, got the file {name}.")
        return datasets.load_dataset_builder("parquet", data_files=name)
    if Path(name).exists():  # its card may list files of other people's repositories, for which no token is sent
        return datasets.load_dataset_builder(name, config, token=False)
    if is_hub_id(name, needs_user=False):
        confirm("datasets", name)
    builder = datasets.load_dataset_builder(name, config, revision=revision)
    if revision is not None and isinstance(builder, Cache):
        raise ValueError(
            f"The Hub cannot be reached, and `datasets` then uses the last revision of {name} that it loaded. Leave `revision` "
            "out to use that revision, or try again online."
        )
    return builder


def _load_saved(folder: str, split: str | None, streaming: bool) -> tuple[PlaceDataset, str | None]:
    """Load a split from a folder that `save_to_disk` wrote, and its name."""
    import datasets

    saved = datasets.load_from_disk(folder)
    if isinstance(saved, datasets.DatasetDict):
        split = split or _only_split(folder, list(saved))
        if split not in saved:
            raise ValueError(f"{folder} has no split {split}. It has {', '.join(saved)}.")
        saved = saved[split]
    elif split is not None and split != saved.split:
        raise ValueError(f"{folder} holds one split ({saved.split}), not {split}. Leave `split` out.")
    split = split or (str(saved.split) if saved.split else None)
    return (saved.to_iterable_dataset() if streaming else saved), split


def _only_split(name: str, splits: list[str]) -> str:
    if len(splits) != 1:
        raise ValueError(f"{name} has {len(splits)} splits ({', '.join(splits)}). Choose one with `split=...`.")
    return splits[0]


def _add_columns(
    dataset: datasets.Dataset, fields: dict[str, str], label: str, remarks: RemarkCounter | None
) -> datasets.Dataset:
    """Return a data set of the images, which are not read, and the computed columns of places."""
    import datasets

    images = _as_images(dataset.select_columns(fields["image"]), fields["image"])
    values = {field: dataset[column][:] for field, column in fields.items() if field != "image"}
    features = place_features()
    del features["image"]
    counter = RemarkCounter() if remarks is None else remarks
    columns = compute_columns(values, list(_image_files(images)), range(len(dataset)), label, counter)
    if remarks is None:
        report_remarks(counter.summary())
    return datasets.concatenate_datasets([images, datasets.Dataset.from_dict(columns, features)], axis=1)


def _map_stream(
    dataset: datasets.IterableDataset, fields: dict[str, str], label: str, remarks: RemarkCounter | None
) -> datasets.IterableDataset:
    """Compute the columns of places while rows are read; the images stay undecoded.

    A remark is logged once, with the count of the first rows that it applies to.
    """
    import datasets

    reported: set[str] = set()

    def convert(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        values = {field: batch[column] for field, column in fields.items() if field != "image"}
        images = batch[fields["image"]]
        files = [(image["path"], image["bytes"] is None) if image else (None, True) for image in images]
        counter = RemarkCounter() if remarks is None else remarks
        columns = compute_columns(values, files, rows, label, counter)
        if remarks is None:
            report_remarks(remark for remark in counter.summary() if remark.text not in reported)
            reported.update(remark.text for remark in counter.summary())
        return {"image": images} | columns

    undecoded = dataset.cast_column(fields["image"], datasets.Image(decode=False))
    converted = undecoded.map(
        convert, batched=True, batch_size=_STREAMED_ROWS, with_indices=True, remove_columns=list(undecoded.features)
    )
    return converted.cast(place_features())


def _as_images(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    """Return a data set with one column of images, contents or paths of files, as the column `image`."""
    import datasets

    named = dataset if column == "image" else dataset.rename_column(column, "image")
    try:
        return named.cast_column("image", datasets.Image())
    except (TypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"The column {column} holds {dataset.features[column]}, which are not images.") from error


def _image_files(images: datasets.Dataset) -> Iterator[ImageFile]:
    """Yield the path of each undecoded image, and whether its pixels are in that file, without reading them."""
    column = images.with_format("arrow")[:]["image"]
    is_elsewhere = pc.is_null(pc.struct_field(column, "bytes"))
    yield from zip(pc.struct_field(column, "path").to_pylist(), is_elsewhere.to_pylist(), strict=True)
