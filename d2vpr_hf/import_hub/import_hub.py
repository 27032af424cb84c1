"""Make an encoder of a torch.hub model: fetch a pinned commit, show it, run it once in a process of its own, keep its graph."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2vpr_hf.encoders.carded_graphs import CardedGraph
from d2vpr_hf.encoders.graph_checks import relative_difference
from d2vpr_hf.encoders.rgb_images import to_rgb
from d2vpr_hf.hub.encoder_cards import make_encoder_card
from d2vpr_hf.import_hub.archive import fetch_code
from d2vpr_hf.import_hub.hub_source import HubSource, parse_entry, parse_source
from d2vpr_hf.import_hub.inspection import Inspection, inspect_code
from d2vpr_hf.import_hub.isolated_run import ChildResult, ChildTask, run_child
from d2vpr_hf.model_info.encoder_card import EncoderCard
from d2vpr_hf.model_info.known_models import KnownModel, find_known, find_torch_hub
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.onnx_cards import card_onnx, draw_check_photos, open_check_photos
from d2vpr_hf.utils.atomic_files import check_free, check_writable, new_folder, scratch_folder
from d2vpr_hf.utils.optional_imports import check_extra
from d2vpr_hf.utils.printable import printable_line

MAX_DIFFERENCE = 1e-3  # of graph and network, as a share of a descriptor's norm; as for exports in float32

_SHOWN_FILES = 40


@dataclass(frozen=True)
class HubCode:
    """The files of one repository.

    Attributes:
        source: The repository and its commit.
        folder: The folder that they are in for now.
        inspection: Licence, entries and dependencies.
        sha256: SHA-256 of all names and contents.
    """

    source: HubSource
    folder: Path
    inspection: Inspection
    sha256: str


@dataclass(frozen=True)
class HubPlan:
    """Facts about code that was fetched and not executed.

    Attributes:
        entry: The function that makes the model.
        arguments: Its arguments.
        code: The repository.
        also: Other repositories that its code may load.
        known: The entry's row in the table of known models, or the first row of the same function; `None` if there is none.
        is_known: Whether that row has the same arguments.
    """

    entry: str
    arguments: Mapping[str, Any]
    code: HubCode
    also: tuple[HubCode, ...] = ()
    known: KnownModel | None = None
    is_known: bool = False

    @property
    def text(self) -> str:
        """The entry as a call."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        repository = self.code.source.repository
        return f"{Path(repository).name if self.code.source.is_local else repository} {self.entry}({arguments})"

    @property
    def known_output(self) -> str | None:
        """The output that the table of known models names."""
        hub = None if self.known is None or not self.is_known else self.known.torch_hub
        return None if hub is None else hub.output

    def to_text(self) -> str:
        """Return the facts in lines."""
        lines = [line for code in (self.code, *self.also) for line in _code_lines(code)]
        if self.known is not None:
            note = "" if self.known.note is None else f" {self.known.note}"
            lines.append(f"Known as {self.known.title}, licence {self.known.license or 'not stated'}.{note}")
        return "\n".join(printable_line(line) for line in [*lines, f"Call: {self.text}"])

    @property
    def unpinned_repositories(self) -> list[str]:
        """Repositories that the code names in calls of torch.hub and that are not among `also`."""
        pinned = {code.source.repository.lower() for code in (self.code, *self.also)}
        named = {name for code in (self.code, *self.also) for name in code.inspection.repositories}
        return sorted(name for name in named if name.lower() not in pinned)

    def check(self) -> None:
        """Check that the code can run, before it does.

        Raises:
            ValueError: If there is no such entry.
            ImportError: If packages are missing that the code needs.
        """
        self.code.inspection.check_entry(self.entry)
        missing = {name for code in (self.code, *self.also) for name in code.inspection.missing_dependencies}
        if missing:
            names = " ".join(sorted(missing))
            raise ImportError(f"hubconf.py depends on packages that are not installed here: pip install {names}")


@dataclass(frozen=True)
class HubImport:
    """An encoder that was made of a torch.hub model.

    Attributes:
        folder: The folder, which [`PlaceEncoder`] and all commands take as a model.
        card: Its card.
        largest_difference: Largest difference between a descriptor of the graph and of the network, as a share of its norm.
        remarks: Lines about assumptions and properties of the model.
    """

    folder: Path
    card: EncoderCard
    largest_difference: float
    remarks: tuple[str, ...] = field(default=())


def plan_import(name: str, *, arguments: Mapping[str, Any] | None = None, also: Sequence[str] = ()) -> HubPlan:
    """Fetch the code of an entry, and read its licence and files without executing any; arguments as for [`import_hub`]."""
    with _fetch(name, arguments, also) as plan:
        plan.code.inspection.check_entry(plan.entry)
        return plan


def import_hub(
    name: str,
    out: str | Path,
    *,
    i_trust_this_code: bool = False,
    image_size: tuple[int, int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
    output: str | None = None,
    license: str | None = None,
    training_data: str | None = None,
    title: str | None = None,
    arxiv: str | None = None,
    photos: str | Path | None = None,
    cache: str | Path | None = None,
    timeout: float = 3600,
    announce: Callable[[HubPlan], None] = lambda plan: None,
) -> HubImport:
    """Make an encoder of a torch.hub model.

    The code of a full commit is fetched and unpacked. It is executed in a process of its own, without the tokens and keys in
    the environment of this process, but with all rights of its user: it can read and change all files and use the network.
    The process exports the network to ONNX; the graph is then checked here like any foreign graph. This process imports none
    of the code.

    Entries in the table of known models ([`find_torch_hub`]) have defaults for what is not given.

    Args:
        name: `REPO@COMMIT:ENTRY`, such as `"gmberton/MegaLoc@COMMIT:get_trained_model"`, its name in the table of known models,
            such as `"salad"`, or `FOLDER:ENTRY` or `FILE.zip:ENTRY` for code on this machine.
        out: The folder to write.
        i_trust_this_code: Consent to the execution of the code. [`plan_import`] shows the code without executing it.
        image_size: Height and width in pixels that photos are resized to.
        preprocessing: Other values of [`Preprocessing`]; by default pixels are normalised by the mean and std of ImageNet.
        arguments: Arguments of the entry.
        also: Other repositories `owner/name@COMMIT` that the code loads by torch.hub; all others are refused.
        output: Name or position of the output with descriptors, if the network returns several tensors; `None` for the first
            that has a row for each image.
        license: Licence of the weights, as the Hub's identifier; `None` for that of the code, which a remark says.
        training_data: One sentence about the photos that the weights were trained on.
        title: Name of the model for people; `None` for the repository and entry.
        arxiv: Identifier of the paper on arXiv.
        photos: A folder of photos to compare network and graph on; `None` for drawn images.
        cache: A folder that keeps downloaded weights for the next call; `None` to keep none.
        timeout: Seconds until the process is ended.
        announce: Called with the facts about the code, before it is executed.

    Raises:
        PermissionError: Without `i_trust_this_code`.
        FileExistsError: If `out` exists and is not an empty folder.
        FileNotFoundError: If there is no such repository, commit or file.
        ImportError: If packages are missing that the code, or exporting, needs.
        ValueError: If the code fails or the model is refused; a [`HubCodeError`] for failures of the code.
    """
    if not i_trust_this_code:
        raise PermissionError(
            "This would execute code of other people on this machine, and nothing was executed. Read the code, then give "
            "`i_trust_this_code=True`."
        )
    out = Path(out)
    check_free(out)
    check_writable(out)
    check_extra("torch", "models")
    check_extra("onnxscript", "export")
    check_extra("onnxruntime", "onnxruntime")
    stated = {"license": license, "training_data": training_data, "title": title, "arxiv": arxiv}
    with _fetch(name, arguments, also) as plan, scratch_folder(out) as scratch, new_folder(out) as folder:
        steps = _choose_steps(plan.known, image_size, preprocessing or {})
        announce(plan)
        plan.check()
        images = draw_check_photos() if photos is None else open_check_photos(photos)
        pixel_values = np.stack([steps(to_rgb(image)) for image in images])
        repositories = {code.source.repository.lower(): code.folder for code in plan.also}
        task = ChildTask(plan.code.folder, plan.entry, plan.arguments, repositories, output or plan.known_output, pixel_values)
        downloads = scratch / "cache" if cache is None else Path(cache) / plan.code.sha256[:16]
        result = run_child(task, (scratch / "child").resolve(), downloads.resolve(), timeout)
        card = card_onnx(
            result.graph,
            folder,
            preprocessing=steps,
            **_describe(plan, stated),
            num_parameters=result.num_parameters,
            photos=photos,
            source=_origin(plan, result),
        )
        difference = _compare(CardedGraph(folder, card), result, pixel_values)
        summary = f"A graph of {plan.text}, made by `d2vpr import-hub`."
        make_encoder_card(card, summary).save(folder / "README.md")
    return HubImport(out, card, difference, _remarks(plan, result, card, license))


@contextlib.contextmanager
def _fetch(name: str, arguments: Mapping[str, Any] | None, also: Sequence[str]) -> Iterator[HubPlan]:
    """Fetch repositories into a temporary folder, which is removed at the end."""
    named = find_known(name)
    if named is not None and named.torch_hub is not None:
        name = named.torch_hub.source
        arguments = {**named.torch_hub.arguments, **(arguments or {})}
    source, entry = parse_entry(name)
    row = None if source.is_local else find_torch_hub(source.repository, entry, arguments or None)
    family = None if source.is_local else find_torch_hub(source.repository, entry)
    hub = None if row is None else row.torch_hub
    if hub is not None:
        arguments, also = arguments or hub.arguments, also or hub.also
    others = [parse_source(text) for text in also]
    with tempfile.TemporaryDirectory(prefix="d2vpr-import-hub-") as folder:
        codes = [_fetch_code(each, Path(folder).resolve() / str(number)) for number, each in enumerate([source, *others])]
        yield HubPlan(entry, dict(arguments or {}), codes[0], tuple(codes[1:]), row or family, row is not None)


def _fetch_code(source: HubSource, folder: Path) -> HubCode:
    sha256 = fetch_code(source, folder)
    return HubCode(source, folder, inspect_code(folder), sha256)


def _choose_steps(known: KnownModel | None, image_size: tuple[int, int] | None, values: Mapping[str, Any]) -> Preprocessing:
    """Return the steps from an image to pixel values, with one size for all images."""
    steps = Preprocessing() if known is None or known.preprocessing is None else known.preprocessing
    size = image_size or steps.size
    if size is None:
        raise ValueError("The graph takes images of one size. Give the one that the model was trained for, by `image_size`.")
    return replace(steps, **{**values, "size": size})


def _describe(plan: HubPlan, stated: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return title, licence, training data and paper: the stated ones, or else those of a known model, or of the code."""
    values: dict[str, str | None] = {"title": plan.text, "license": plan.code.inspection.license}
    if plan.known is not None:
        facts = plan.known.facts
        values |= {"license": facts.license, "training_data": facts.training_data, "arxiv": facts.arxiv}
        if plan.is_known:
            values["title"] = facts.title
    values |= {name: value for name, value in stated.items() if value is not None}
    license_id = values["license"]
    return values | {"license": None if license_id is None else license_id.lower()}


def _origin(plan: HubPlan, result: ChildResult) -> dict[str, Any]:
    """Return the origin of a graph for its card; folders of this machine are named by their last part."""
    source = plan.code.source
    return {
        "kind": "torch.hub",
        "repository": Path(source.repository).name if source.is_local else source.repository,
        **({} if source.commit is None else {"commit": source.commit}),
        "entry": plan.entry,
        "arguments": dict(plan.arguments),
        "code_sha256": plan.code.sha256,
        "code_license": plan.code.inspection.license,
        "also": [f"{code.source.repository}@{code.source.commit}" for code in plan.also if not code.source.is_local],
        "weights_sha256": result.weights,
        "output": result.output,
        "exporter": result.exporter,
    }


def _compare(graph: CardedGraph, result: ChildResult, pixel_values: NDArray[np.float32]) -> float:
    """Return the largest difference between graph and network, in one batch and alone, as a share of a descriptor's norm.

    Raises:
        ValueError: If it is larger than `MAX_DIFFERENCE`.
    """
    alone = np.concatenate([graph.run_graph(image[None]) for image in pixel_values])
    pairs = [(graph.run_graph(pixel_values), result.together), (alone, result.alone)]
    difference = max(relative_difference(outputs, expected) for outputs, expected in pairs)
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"Descriptors of the exported graph differ from those of the network by up to {difference:.2g} of their length, "
            f"accepted is {MAX_DIFFERENCE}. Nothing was written. The network may choose its way by values of the images, which "
            "a graph cannot."
        )
    return float(difference)


def _remarks(plan: HubPlan, result: ChildResult, card: EncoderCard, license: str | None) -> tuple[str, ...]:
    """Return lines about assumptions, and about properties that users of the model must know."""
    remarks = []
    if len(result.outputs) > 1:
        shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in result.outputs.items())
        remarks.append(f"The network returns {shapes}; the descriptors are output {result.output}.")
    if card.license is None:
        remarks.append("No licence is stated: without one, only the authors may use code and weights.")
    elif license is None and plan.known is None:
        remarks.append(f"Assumed that the weights have the licence of the code, {card.license}; `license` states another.")
    if "gpl" in (card.license or ""):
        remarks.append(f"NOTE: {card.license} is a copyleft licence. Its terms bind all who distribute the graph.")
    if card.training_data is None:
        remarks.append("The photos that the weights were trained on are not known; their terms may restrict the use.")
    remarks += [f"Weights {name}: SHA-256 {digest}." for name, digest in result.weights.items()]
    if not result.weights:
        remarks.append("The code downloaded no weights, so that the network may be untrained.")
    if result.exporter == "tracing":
        remarks.append("torch.export could not export the network, so that one run of it was traced.")
    return tuple(remarks)


def _code_lines(code: HubCode) -> list[str]:
    """Return lines about a repository for people who decide whether to execute it."""
    it = code.inspection
    if it.license_file is None:
        license_text = "none stated: without one, no one may use the code"
    else:
        license_text = f"{it.license or 'not one of the usual ones'} ({it.license_file})"
    if it.license is not None and "GPL" in it.license:
        license_text += ". NOTE: a copyleft licence; what you distribute with this code or model may have to carry it too"
    shown = ", ".join(it.python_files[:_SHOWN_FILES])
    more = f" and {len(it.python_files) - _SHOWN_FILES} more" if len(it.python_files) > _SHOWN_FILES else ""
    dependencies = ", ".join(it.dependencies) or "none listed"
    missing = f" (not installed here: {', '.join(it.missing_dependencies)})" if it.missing_dependencies else ""
    return [
        f"Code: {code.source}, SHA-256 of its files {code.sha256}",
        *([] if code.source.is_local else [f"Read it at {code.source.page_url}"]),
        f"Licence of the code: {license_text}",
        f"Files: {it.num_files}, of them Python: {shown}{more}",
        f"Entries of hubconf.py: {', '.join(it.entries) or 'none'}{', and imported ones' if it.imports_all else ''}",
        f"Dependencies: {dependencies}{missing}",
        *([f"Loads other repositories: {', '.join(it.repositories)}"] if it.repositories else []),
    ]
