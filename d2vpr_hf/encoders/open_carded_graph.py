"""Find the ONNX graph with a card in a folder, or in a repository on the Hub. Importing this module loads no torch."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d2vpr_hf.backends.onnx_file import read_outline
from d2vpr_hf.encoders.carded_graphs import CardedGraph
from d2vpr_hf.encoders.known_graphs import OTHER_NAMES, find_known_card, known_repository, recognise_graph
from d2vpr_hf.model_info.encoder_card import CARD_FILE, EncoderCard, has_card, is_plain_name, locate_file, read_card
from d2vpr_hf.pretrained.model_files import fetch_file

_ADVICE = "`d2vpr card-onnx {} --image-size SIZE --out FOLDER` writes FOLDER with a card; that folder is the model to give."


def open_carded_graph(model: str | Path, revision: str | None = None, **arguments: Any) -> CardedGraph | None:
    """Open the ONNX graph with a card that a folder or a repository on the Hub holds.

    Args:
        model: A folder, or a Hub id.
        revision: Commit of a model from the Hub; `None` for a folder.
        arguments: Other arguments of [`CardedGraph`].

    Returns:
        The graph; `None` if the folder or the repository holds another model.

    Raises:
        FileNotFoundError, ValueError: As [`read_card`] and [`CardedGraph`] raise them, or for a graph without a card.
    """
    if revision is not None:
        downloaded = download_carded_graph(str(model), revision)
        return None if downloaded is None else CardedGraph(*downloaded, revision=revision, **arguments)
    path = Path(model)
    if path.is_file() and path.suffix.lower() == ".onnx":
        raise ValueError(
            f"{path} is a graph without a card: `d2vpr card-onnx {path} --out FOLDER` writes FOLDER, the model to give."
        )
    if has_card(path):
        card = read_card(path)
        return None if card.graph is None else CardedGraph(path, card, **arguments)
    if not path.is_dir():
        return None
    known_card = find_known_card(path)
    if known_card is not None:
        return CardedGraph(path, known_card, **arguments)
    graphs = sorted(path.glob("*.onnx"))
    if graphs and not (path / "config.json").is_file():
        raise ValueError(f"{path} holds a graph, but no {CARD_FILE}. {_ADVICE.format(graphs[0])}")
    return None


def download_carded_graph(name: str, commit: str) -> tuple[Path, EncoderCard] | None:
    """Download a graph from the Hub with the files that it needs and no others, unless they are in the cache.

    Returns:
        Its folder and its card; `None` if the repository holds another model.

    Raises:
        ValueError: If the card or the graph is damaged.
    """
    card_file = fetch_file(name, CARD_FILE, commit)
    if card_file is not None:
        card = read_card(card_file.parent)
        if card.graph is None:
            return None
        _download(name, commit, [card.graph, card.projection])
        folder = card_file.parent
    else:
        row = known_repository(name)
        names = () if row is None or row.onnx is None else (row.onnx.name, *OTHER_NAMES)
        graph_file = next(filter(None, (fetch_file(name, file_name, commit) for file_name in names)), None)
        known_card = None if graph_file is None else recognise_graph(graph_file.parent, graph_file.name, name)
        if graph_file is None or known_card is None:
            return None
        folder, card = graph_file.parent, known_card
    outline = read_outline(locate_file(folder, str(card.graph)))
    _download(name, commit, sorted(outline.external_files))
    return folder, card


def refuse_graph_without_card(name: str, revision: str | None) -> None:
    """Raise ValueError if a repository on the Hub that has no `config.json` holds ONNX graphs, with the way to use one."""
    from huggingface_hub import list_repo_files

    try:
        graphs = [file for file in list_repo_files(name, revision=revision) if file.endswith(".onnx")]
    except Exception:  # without a connection, versions of the Hub's client raise errors of different libraries
        return
    if graphs:
        advice = _ADVICE.format(f"DOWNLOAD/{graphs[0]}")
        raise ValueError(
            f"{name} holds a graph, {graphs[0]}, but no {CARD_FILE}. After `hf download {name} --local-dir DOWNLOAD`, {advice}"
        )


def _download(name: str, commit: str, file_names: Iterable[str | None]) -> None:
    """Download files of a repository; those that it does not have, and paths, are reported when the graph is opened."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for file_name in file_names:
        if file_name is not None and is_plain_name(file_name):
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(name, file_name, revision=commit)
