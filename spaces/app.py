"""The Space: a page that shows where a photo was taken, and why. It lays out the answers of `d2vpr_hf.space` with Gradio.

Run it with `d2vpr space`, or `python spaces/app.py`. `D2VPR_MODEL` and `D2VPR_INDEX` (folders or Hub ids) name its model and
its map; by default these are the embedded model and a simulated town, which need no network.
"""

import contextlib
import ctypes
import functools
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VISITORS = Path(tempfile.gettempdir()) / f"d2vpr-space-{secrets.token_hex(8)}"  # all files of visitors
UPLOADS = VISITORS / "uploads"
FETCHED = VISITORS / "fetched"  # photos from addresses; no request can name a file of this folder
os.environ["GRADIO_TEMP_DIR"] = str(UPLOADS)  # Gradio reads it when it is imported
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # records of requests that Gradio keeps in memory

from d2vpr_hf.space.zero_gpu import import_spaces, is_zero_gpu  # noqa: E402

import_spaces()  # before torch

import gradio as gr  # noqa: E402

from d2vpr_hf.explanation import Explanation, PatchSimilarity  # noqa: E402
from d2vpr_hf.index import Match  # noqa: E402
from d2vpr_hf.localization.calibration import PRECISION  # noqa: E402
from d2vpr_hf.readers import UnreadablePhotoError  # noqa: E402
from d2vpr_hf.readers.photo_listing import PHOTO_SUFFIXES  # noqa: E402
from d2vpr_hf.space import pages  # noqa: E402
from d2vpr_hf.space.about import about_page  # noqa: E402
from d2vpr_hf.space.credentials import forget_token  # noqa: E402
from d2vpr_hf.space.expiry import start_deleting  # noqa: E402
from d2vpr_hf.space.fair_queue import FairQueue  # noqa: E402
from d2vpr_hf.space.fetched_photos import fetch_photo  # noqa: E402
from d2vpr_hf.space.opened_space import OpenedSpace, open_space  # noqa: E402
from d2vpr_hf.space.own_map import OwnMaps, build_own_map, pack_index  # noqa: E402
from d2vpr_hf.space.photo_map import MAX_FRAMES, MAX_MATCHES, Answer, PhotoMap, SearchOptions  # noqa: E402
from d2vpr_hf.space.pictures import map_picture_uri, picture_uri  # noqa: E402
from d2vpr_hf.space.private_files import PrivateFiles, address_of, visitor_of  # noqa: E402
from d2vpr_hf.space.settings import read_settings  # noqa: E402
from d2vpr_hf.space.uploads import LIMITS, NO_ROOM, UploadError  # noqa: E402
from d2vpr_hf.space.visitors import Visitors  # noqa: E402
from d2vpr_hf.web.hosts import allowed_hosts, content_policy  # noqa: E402

_BATCH = 16  # requests of programs that are encoded together
_IS_BATCHED = not is_zero_gpu()  # there each request is paid by the quota of its visitor
_THREADS = 6  # threads of Gradio: each thread that ran the network once keeps memory
_M_ARENA_MAX = -8  # a constant of glibc's malloc.h
_QUEUE = 400  # requests that may wait; Gradio refuses more
_MAX_AGE = 3600  # seconds after which uploads and states are deleted, also those of programs, which close no page
_SESSIONS = 500  # pages whose values Gradio keeps; each may have a megabyte of pictures
_NETWORK: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "network"}
_MAPS: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "maps"}  # a long map leaves room for searches
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
_BEHIND_PROXY = "SPACE_HOST" in os.environ  # the Hub's proxy states the address of a visitor; uvicorn reads that of others
_CLOSED: dict[str, Any] = {  # features of Gradio that the page does not use
    "share": False,
    "debug": False,
    "show_error": False,
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "num_workers": 0,
    "pwa": False,
    "strict_cors": True,
}
_DELETED = "This photo was deleted. Upload it again."
# sends the number of the button that was pressed in a drawing
_SEND_BUTTON = """element.addEventListener("click", (event) => {{
  const button = event.target.closest("button[{what}]");
  if (button) trigger("select", {{ index: Number(button.getAttribute("{what}")) }});
}});"""
# on a phone the answer is below the photo and the examples, out of sight
_SHOW_VERDICT = "() => { if (innerWidth <= 720) document.querySelector('.verdict')?.scrollIntoView({ behavior: 'smooth' }); }"
_TO_TOP = "() => { scrollTo({ top: 0, behavior: 'smooth' }); }"
_FONTS = [
    "Inter",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Arial",
    "sans-serif",
]  # fonts of the visitor's system: no font is downloaded
_THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=_FONTS,
    font_mono=["ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace"],
    radius_size="lg",
)


class Views:
    """The visitors' actions; each method handles one event of the page."""

    def __init__(self, opened: OpenedSpace, files: "Files") -> None:
        self.opened, self.files = opened, files
        self.own_maps = OwnMaps(VISITORS / "own")

    # ---- localise

    def locate(self, photo: str | None, request: gr.Request, *options: Any) -> tuple[Any, ...]:
        """Search the Space's map with a photo."""
        return self._answer(
            self.opened.photo_map, self.files.open(photo, request), SearchOptions(*options), self.opened.picture
        )

    def choose_example(self, event: gr.EventData, *options: Any) -> tuple[Any, ...]:
        """Show an example and search the Space's map with it."""
        photo = _choose(self.opened.examples, event)
        return (str(photo), *self._answer(self.opened.photo_map, photo, SearchOptions(*options), self.opened.picture))

    def show_nothing(self) -> tuple[Any, ...]:
        """Show the map without an answer: at the beginning, and after an error, when the last answer would mislead."""
        empty = pages.empty_state("Where was it taken?", "Upload, paste or take a photo, or try an example.")
        return empty, pages.map_panel(self.opened.photo_map.drawing, None), "", None, None

    def _answer(self, photo_map: PhotoMap, photo: Path, options: SearchOptions, picture: pages.Picture) -> tuple[Any, ...]:
        answer = _ask(photo_map, photo, options)
        return (
            pages.verdict(answer),
            pages.map_panel(photo_map.drawing, answer),
            pages.match_cards(answer, picture, explained=self._explains(photo_map)),
            (str(photo), answer),
            (str(photo), answer),
        )

    def _explains(self, photo_map: PhotoMap) -> bool:
        """Return whether matches of a map can be explained: by this model, and with their photos here."""
        has_photos = photo_map is not self.opened.photo_map or self.opened.has_photos
        return has_photos and self.opened.reason_against is None

    # ---- sequence

    def locate_sequence(
        self, files: list[str] | None, interval: float, precision: float, request: gr.Request
    ) -> tuple[str, str, str]:
        """Localize photos of a drive or walk together in the Space's map."""
        if not files:
            raise _page_error("There are no photos yet. Choose the frames of a drive or walk.")
        photos = [self.files.open(file, request) for file in files]
        try:
            answers = self.opened.photo_map.answer_sequence(photos, interval, precision)
        except (ValueError, OSError) as error:
            raise _page_error(_reason(error)) from None
        drawing = self.opened.photo_map.drawing
        return pages.sequence_verdict(answers), pages.sequence_map(drawing, answers), pages.sequence_table(answers)

    # ---- why

    def explain_rank(self, search: tuple[str, Answer] | None, rank: int, request: gr.Request) -> str:
        """Explain a match of a search: a photo and its answer."""
        if search is None or not search[1].matches:
            raise _page_error("There is nothing to explain yet. Locate a photo first, then choose a match.")
        photo, matches = self.files.open(search[0], request), search[1].matches
        if not 1 <= rank <= len(matches):
            raise _page_error(
                f"There is no match {rank}: the search returned {len(matches)}. Search for more, or choose another."
            )
        match = matches[rank - 1]
        explanation = _explain(self.opened.photo_map, photo, match.photo)
        pictures = [picture_uri(side, 640) or "" for side in (photo, match.photo)]
        return pages.explanation_panel(explanation, pictures[0], pictures[1], rank)

    def explain_card(self, search: tuple[str, Answer] | None, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Explain the match whose button was pressed, and show that view."""
        rank = _number(event)
        return gr.Tabs(selected="why"), search, gr.Slider(value=rank), self.explain_rank(search, rank, request)

    # ---- your photos

    def build(self, files: list[str] | None, request: gr.Request, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        """Index a visitor's photos."""
        if not files:
            raise _page_error("There are no photos yet. Choose some with GPS, or a zip of them.")
        uploads = [self.files.open(file, request) for file in files]
        owner, encoder = _owner(request), self.opened.photo_map.encoder
        folder = self.own_maps.begin(owner)
        try:
            own_map = build_own_map(uploads, folder, encoder, progress=_bar(progress))
            photo_map = self.own_maps.keep(owner, own_map, PhotoMap(own_map.index, encoder, self.opened.tiles))
            if photo_map is None:
                raise _page_error("The page was closed, so the map was deleted.")
            packed = pack_index(own_map, UPLOADS / folder.name / "my-index.zip")
        except (ValueError, OSError) as error:
            self.own_maps.remove(owner)
            raise _page_error(_reason(error)) from None
        self.files.visitors.add_file(_visitor(request), packed)
        summary = pages.own_summary(len(own_map.index), own_map.skipped, own_map.remarks)
        drawing = pages.map_panel(photo_map.drawing, None)
        return summary, drawing, gr.DownloadButton(value=str(packed), interactive=True)

    def search_own(self, photo: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Search the visitor's own map with a photo."""
        photo_map = self.own_maps.get(_owner(request))
        if photo_map is None:
            raise _page_error("There is no map of your photos, or it was deleted after an hour. Make one first.")
        return self._answer(photo_map, self.files.open(photo, request), SearchOptions(), _own_picture)

    # ---- opening and closing the page

    def arrive(self, request: gr.Request) -> None:
        """Record that a page was opened."""
        self.files.visitors.arrive(_visitor(request), str(request.session_hash))

    def leave(self, request: gr.Request) -> None:
        """Delete the map and the files of a page that was closed."""
        visitor, session = _visitor(request), str(request.session_hash)
        self.own_maps.remove((visitor, session))
        self.files.visitors.leave(visitor, session)


class Endpoints:
    """The functions that programs call: the same answers as JSON. Arguments are columns of a batch of requests."""

    def __init__(self, photo_map: PhotoMap, files: "Files") -> None:
        self.photo_map, self.files = photo_map, files

    def localize(
        self,
        photo: list[str],
        top_k: list[int],
        precision: list[float],
        near: list[str],
        heading: list[str],
        since: list[str],
        until: list[str],
        rerank: list[bool],
    ) -> tuple[list[dict[str, Any]]]:
        """Estimate where a photo was taken: position, radius in metres (90 % of cases), confidence, matches, or no match.

        Args:
            photo: The photo's file.
            top_k: Number of matches, 1 to 20.
            precision: Share of correct answers among the answers given, 0 to 1; less sure ones are "no match".
            near: "LAT,LON,METRES" to search photos within METRES of a position, or empty.
            heading: "DEGREES,TOLERANCE" to search photos with this heading, within the tolerance, or empty.
            since: Search photos of this time or later, such as 2024-05-01, or empty.
            until: Search photos of this time or earlier, or empty.
            rerank: Whether to order the best matches by the similarity of their regions too.
        """
        columns = zip(top_k, precision, near, heading, since, until, rerank, strict=True)
        answers = self.photo_map.answer_requests(self.files.open_uploads(photo), [SearchOptions(*row) for row in columns])
        return ([_json_of(answer, answer.to_dict()) for answer in answers],)

    def search(self, photo: list[str], top_k: list[int]) -> tuple[list[dict[str, Any]]]:
        """Find the photos of the map that are most similar to a photo.

        Args:
            photo: The photo's file.
            top_k: Number of matches, 1 to 20.
        """
        answers = self.photo_map.answer_requests(self.files.open_uploads(photo), [SearchOptions(number) for number in top_k])
        return ([_json_of(answer, {"matches": answer.to_dict()["matches"]}) for answer in answers],)

    def explain(self, photo: str, rank: int, request: gr.Request) -> dict[str, Any]:  # noqa: D417 - Gradio shows the arguments
        """Explain the similarity of a photo and a match: the share of each region and the sampling points in both photos, or
        the similarity of their patches, for a vision transformer without regions.

        Args:
            photo: The photo's file.
            rank: Rank of the match, 1 for the most similar.
        """
        path = self.files.open(photo, request)
        answer = _ask(self.photo_map, path, SearchOptions(top_k=max(1, int(rank))))
        if not 1 <= rank <= len(answer.matches):
            raise _page_error(f"There is no match of rank {rank}.")
        match = answer.matches[int(rank) - 1]
        return {"photo": match.place.path, **_explain(self.photo_map, path, match.photo).to_dict()}


class Files:
    """The files that functions may open: uploads of the visitor, examples, and photos that were fetched for the request.

    The names of files come from requests, which were checked before; here they are checked again, where a file is opened.

    Args:
        visitors: The owners of uploads.
        public: Files that all visitors may use, such as examples.
    """

    def __init__(self, visitors: Visitors, public: frozenset[Path]) -> None:
        self.visitors, self.public = visitors, public

    def open(self, file: str | None, request: gr.Request) -> Path:
        """Return a file that a visitor may use."""
        if file is None:
            raise _page_error("There is no photo yet. Upload one, or choose an example.")
        if not (self._is_open(file) or self.visitors.may_use(_visitor(request), file)):
            raise _page_error(_DELETED)
        return Path(file)

    def open_uploads(self, files: list[str]) -> list[Path]:
        """Return the files of several visitors' requests; one that is not an upload becomes a file that does not exist.

        Gradio passes on the request of the first visitor of a batch alone, so that owners are not known here.
        """
        return [
            Path(file) if file and (self._is_open(file) or self.visitors.has_owner(file)) else VISITORS / "deleted"
            for file in files
        ]

    def _is_open(self, file: str) -> bool:
        path = Path(file).resolve()
        return path in self.public or path.is_relative_to(FETCHED.resolve())


def build(opened: OpenedSpace, files: Files) -> gr.Blocks:
    """Lay out the page and connect its events."""
    views = Views(opened, files)
    with gr.Blocks(
        title=f"{opened.method}: where was this photo taken?", delete_cache=(600, _MAX_AGE), fill_width=False
    ) as page:
        note = pages.photos_note(has_photos=opened.has_photos, num_thumbnails=len(opened.thumbnails))
        head = pages.title(opened.model_name, opened.index_name, len(opened.photo_map.index), note, opened.method)
        gr.HTML(head, elem_id="title")
        latest = gr.State(None, time_to_live=_MAX_AGE)  # the search that the Why view explains, of either map
        with gr.Tabs(selected="localise") as tabs:
            with gr.Tab("Localise", id="localise"):
                map_cards = _localise_view(views, latest)
            with gr.Tab("Sequence", id="sequence"):
                _sequence_view(views)
            with gr.Tab("Why", id="why"):
                rank, why = _why_view(views, latest)
            with gr.Tab("Your photos", id="own"):
                own_cards = _own_view(views, latest)
            with gr.Tab("About", id="about"):
                gr.HTML(about_page(opened))
        for cards, search in (map_cards, own_cards):
            explained = cards.select(views.explain_card, search, [tabs, latest, rank, why], **_PRIVATE, **_NETWORK)
            explained.success(js=_TO_TOP, **_PRIVATE)
        _endpoints(Endpoints(opened.photo_map, files))
        page.load(views.arrive, **_PRIVATE)
        page.unload(views.leave)
    return page


def _localise_view(views: Views, latest: gr.State) -> tuple[gr.HTML, gr.State]:
    """Lay out the first view; return its cards and the search that they show."""
    pictures = [map_picture_uri(photo, 200) for photo in views.opened.examples]
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            photo = _photo_input("Your photo")
            go = gr.Button("Locate", variant="primary", size="lg")
            strip = gr.HTML(pages.example_strip(pictures), js_on_load=_SEND_BUTTON.format(what="data-example"))
            options = _options(can_rerank=views.opened.photo_map.reranking is not None)
        with gr.Column(scale=7, min_width=320):
            nothing = views.show_nothing()
            verdict, drawing = gr.HTML(nothing[0]), gr.HTML(nothing[1])
    cards, search = _cards()
    outputs = [verdict, drawing, cards, search, latest]
    events = (
        go.click(views.locate, [photo, *options], outputs, **_PRIVATE, **_NETWORK),
        strip.select(views.choose_example, options, [photo, *outputs], **_PRIVATE, **_NETWORK),
        # not `input`, which also happens without a photo, when a visitor opens the camera or the clipboard
        photo.upload(views.locate, [photo, *options], outputs, **_PRIVATE, **_NETWORK),
    )
    for event in events:
        event.success(js=_SHOW_VERDICT, **_PRIVATE)
        event.failure(views.show_nothing, None, outputs, **_PRIVATE, show_progress="hidden")
    return cards, search


def _sequence_view(views: Views) -> None:
    """Lay out the view of sequences."""
    gr.HTML(pages.sequence_intro(MAX_FRAMES))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            types = sorted(PHOTO_SUFFIXES)
            files = gr.File(label="Photos of a drive or walk", file_count="multiple", file_types=types, height=180)
            _pass_on_files(files)
            interval = gr.Slider(0.1, 60, value=1, step=0.1, label="Seconds between photos", info="For photos without times.")
            precision = gr.Slider(0, 1, value=PRECISION, step=0.01, label="Smallest precision")
            go = gr.Button("Locate the sequence", variant="primary", size="lg")
        with gr.Column(scale=7, min_width=320):
            verdict = gr.HTML("")
            drawing = gr.HTML(pages.map_panel(views.opened.photo_map.drawing, None))
    frames = gr.HTML("")
    outputs = [verdict, drawing, frames]
    event = go.click(views.locate_sequence, [files, interval, precision], outputs, **_PRIVATE, **_NETWORK)
    event.failure(lambda: ("", ""), None, [verdict, frames], **_PRIVATE, show_progress="hidden")


def _cards() -> tuple[gr.HTML, gr.State]:
    """Make the empty cards and the state of their search: the photo and its answer."""
    return gr.HTML("", js_on_load=_SEND_BUTTON.format(what="data-rank")), gr.State(None, time_to_live=_MAX_AGE)


def _options(*, can_rerank: bool) -> list[Any]:
    """Lay out the inputs of a search, in the order of the fields of [`SearchOptions`]."""
    with gr.Accordion("Search options", open=False):
        top_k = gr.Slider(1, MAX_MATCHES, value=5, step=1, label="Matches")
        precision = gr.Slider(
            0, 1, value=PRECISION, step=0.01, label="Smallest precision", info="Less sure answers become “no match”."
        )
        near = gr.Textbox(label="Near", placeholder="latitude, longitude, metres", max_lines=1)
        heading = gr.Textbox(label="Looking towards", placeholder="degrees, tolerance", max_lines=1)
        with gr.Row():
            since = gr.Textbox(label="Since", placeholder="2024-05-01", max_lines=1, min_width=120)
            until = gr.Textbox(label="Until", placeholder="2025-01-01", max_lines=1, min_width=120)
        rerank = gr.Checkbox(
            label="Compare regions of the best matches",
            info="Order the best matches by their regions too."
            if can_rerank
            else "The photos of this map have no stored regions.",
            interactive=can_rerank,
        )
    return [top_k, precision, near, heading, since, until, rerank]


def _why_view(views: Views, latest: gr.State) -> tuple[gr.Slider, gr.HTML]:
    """Lay out the view of explanations; return its rank and its explanation."""
    opened = views.opened
    gr.HTML(pages.why_intro(by_patches=opened.by_patches, reason_against=opened.reason_against))
    with gr.Row(equal_height=False, elem_id="why-choice"):
        rank = gr.Slider(1, MAX_MATCHES, value=1, step=1, label="Match", scale=4)
        go = gr.Button("Explain", variant="primary", scale=1)
    why = gr.HTML(pages.empty_state("Nothing to explain yet", "Locate a photo, then press “Why?” on one of its matches."))
    go.click(views.explain_rank, [latest, rank], why, **_PRIVATE, **_NETWORK)
    return rank, why


def _own_view(views: Views, latest: gr.State) -> tuple[gr.HTML, gr.State]:
    """Lay out the view of visitors' own maps; return its cards and the search that they show."""
    gr.HTML(pages.own_intro(LIMITS))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            types = [*sorted(PHOTO_SUFFIXES), ".zip"]
            files = gr.File(label="Photos with GPS, or a zip of them", file_count="multiple", file_types=types, height=180)
            _pass_on_files(files)
            make = gr.Button("Make my map", variant="primary")
            summary = gr.HTML("")
            download = gr.DownloadButton("Download the index", interactive=False)
        with gr.Column(scale=7, min_width=320):
            drawing = gr.HTML(pages.empty_state("Your map", "It appears here when your photos are indexed."))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            photo = _photo_input("A photo to search for")
            go = gr.Button("Search my photos", variant="primary")
        with gr.Column(scale=7, min_width=320):
            verdict = gr.HTML("")
            cards, search = _cards()
    make.click(views.build, files, [summary, drawing, download], show_progress_on=drawing, **_PRIVATE, **_MAPS)
    outputs = [verdict, drawing, cards, search, latest]
    event = go.click(views.search_own, photo, outputs, **_PRIVATE, **_NETWORK)
    cleared = [verdict, cards, search, latest]
    event.failure(lambda: ("", "", None, None), None, cleared, **_PRIVATE, show_progress="hidden")
    return cards, search


def _endpoints(endpoints: Endpoints) -> None:
    """Define the endpoints; hidden components name their arguments."""
    batch: dict[str, Any] = {"batch": True, "max_batch_size": _BATCH} if _IS_BATCHED else {}
    with gr.Row(visible=False):
        photo = gr.File(label="photo", type="filepath")
        _pass_on_files(photo)
        result = gr.JSON(label="answer")
        call = gr.Button()
        top_k = gr.Number(5, label="top_k", precision=0)
        precision = gr.Number(PRECISION, label="precision")
        rank = gr.Number(1, label="rank", precision=0)
        texts = [gr.Textbox("", label=name) for name in ("near", "heading", "since", "until")]
        rerank = gr.Checkbox(False, label="rerank")
    inputs = [photo, top_k, precision, *texts, rerank]
    call.click(_one_by_one(endpoints.localize), inputs, result, api_name="localize", **batch, **_NETWORK)
    call.click(_one_by_one(endpoints.search), [photo, top_k], result, api_name="search", **batch, **_NETWORK)
    call.click(endpoints.explain, [photo, rank], result, api_name="explain", **_NETWORK)


def _one_by_one(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return an endpoint for single requests, or the endpoint itself if requests are batched."""
    if _IS_BATCHED:
        return endpoint

    @functools.wraps(endpoint)
    def answer(*arguments: Any) -> Any:
        return endpoint(*([argument] for argument in arguments))[0][0]

    return answer


def _photo_input(label: str) -> gr.Image:
    """Make an image input that passes on the uploaded file: Gradio would write it again, without its EXIF."""
    image = gr.Image(label=label, sources=["upload", "clipboard", "webcam"], height=300, buttons=["fullscreen"], alt_text=label)
    _pass_on_files(image)
    return image


def _pass_on_files(component: Any) -> None:
    """Let a component pass on the names of uploads: Gradio would copy or fetch files before it is known who asks for them."""
    component.preprocess = _paths_of
    component.async_move_resource_to_block_cache = _take_file


def _paths_of(payload: Any) -> Any:
    """Return the path of a file, or the paths of a list of files, that a page sent."""
    if payload is None:
        return None
    return [file.path for file in payload.root] if hasattr(payload, "root") else payload.path


async def _take_file(file: str | Path | None) -> str | None:
    """Return the path of a file; a photo that is named by its address is fetched."""
    if file is None or not str(file).startswith(("http://", "https://")):
        return None if file is None else str(file)
    try:
        return str(await fetch_photo(str(file), FETCHED))
    except UploadError as error:
        raise _page_error(str(error)) from None


def _choose(examples: list[Path], event: gr.EventData) -> Path:
    """Return the example whose button was pressed."""
    number = _number(event)
    if not 0 <= number < len(examples):
        raise _page_error("There is no such example.")
    return examples[number]


def _number(event: gr.EventData) -> int:
    """Return the number of the button that was pressed."""
    number = event._data.get("index") if isinstance(event._data, dict) else None
    if not isinstance(number, int):
        raise _page_error("The request does not state which button was pressed.")
    return number


def _ask(photo_map: PhotoMap, photo: Path, options: SearchOptions) -> Answer:
    """Answer a question about one photo; an error becomes a sentence on the page."""
    try:
        answer = photo_map.answer([options.question(photo)])[0]
    except ValueError as error:
        raise _page_error(str(error)) from None
    if answer.error is not None:
        raise _page_error(answer.error)
    return answer


def _own_picture(match: Match) -> str | None:
    return picture_uri(match.photo)


def _explain(photo_map: PhotoMap, photo: Path, match: Path) -> Explanation | PatchSimilarity:
    if not match.is_file():
        raise _page_error("This match cannot be explained: its photo is not here. An index from the Hub comes without photos.")
    try:
        return photo_map.encoder.explain(photo, match)
    except (ValueError, UnreadablePhotoError, OSError) as error:
        raise _page_error(f"This match cannot be explained: {_reason(error)}") from None


def _json_of(answer: Answer, values: dict[str, Any]) -> dict[str, Any]:
    return values if answer.error is None else {"error": answer.error}


def _page_error(text: str) -> gr.Error:
    """Make an error for the page that is not written to the log, because it may name visitors' photos."""
    return gr.Error(pages.error_text(text, VISITORS), duration=12, title="Not possible", print_exception=False)


def _reason(error: Exception) -> str:
    """Return the reason of an error without the server's folders, which errors of files name."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in NO_ROOM:
        return "The Space has no room for this at the moment. Try again later."
    return _DELETED


def _bar(progress: gr.Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress((done, total), desc="Encoding your photos", unit="photos")


def _visitor(request: gr.Request) -> str | None:
    return None if request.request is None else visitor_of(request.request.scope)


def _owner(request: gr.Request) -> tuple[str, str]:
    """Return the owner of an own map: the visitor and the session of the page."""
    visitor, session = _visitor(request), request.session_hash
    if visitor is None or session is None:
        raise _page_error("A map of your photos needs a cookie, so that only you can search it. Allow cookies for this page.")
    return visitor, session


def serve() -> None:
    """Open the Space and serve it until the process is stopped; then delete all files of visitors."""
    logging.getLogger("d2vpr_hf").setLevel(logging.ERROR)  # warnings name photos, and their names may hold positions
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _limit_heaps()
    VISITORS.mkdir(mode=0o700)
    try:
        opened = open_space(read_settings())
        forget_token()
        start_deleting(VISITORS, _MAX_AGE)
        _launch(opened)
    finally:
        shutil.rmtree(VISITORS, ignore_errors=True)


def _limit_heaps() -> None:
    """Let all threads share two of glibc's heaps: freed memory stays in a heap, and many threads would have many heaps."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 2)


def _launch(opened: OpenedSpace) -> None:
    files = Files(Visitors(UPLOADS), frozenset(photo.resolve() for photo in opened.examples))
    gr.set_static_paths([str(photo) for photo in opened.examples])
    page = build(opened, files).queue(max_size=_QUEUE, api_open=False)
    app, *_ = page.launch(
        theme=_THEME,
        css_paths=HERE / "style.css",
        js=(HERE / "behaviour.js").read_text(encoding="utf-8"),
        mcp_server=True,
        max_threads=_THREADS,
        state_session_capacity=_SESSIONS,
        max_file_size=LIMITS.unpacked_bytes,
        app_kwargs={"lifespan": _guard(page, files, opened)},
        footer_links=["api"],
        prevent_thread_lock=True,
        **_CLOSED,
    )
    if not isinstance(app.middleware_stack, PrivateFiles):
        page.close()
        raise RuntimeError("The Space's guard was not put in front of Gradio, so nothing is served.")
    page.block_thread()


def _guard(page: gr.Blocks, files: Files, opened: OpenedSpace) -> Callable[[Any], Any]:
    """Return a function of the server's start that puts the guard in front of Gradio and of its own middleware."""
    waiting = _take_turns(page)

    @asynccontextmanager
    async def start(app: Any) -> AsyncIterator[None]:
        app.middleware_stack = PrivateFiles(
            app.middleware_stack,
            files.visitors,
            files.public,
            allowed_hosts(os.environ),
            functions=frozenset(page.fns),
            waiting=waiting,
            policy=content_policy(opened.tiles, on_hub=_BEHIND_PROXY),
            behind_proxy=_BEHIND_PROXY,
        )
        yield

    return start


def _take_turns(page: gr.Blocks) -> Callable[[str], int]:
    """Let visitors take turns in Gradio's queues; return a function that counts a visitor's requests in these."""

    def owner(event: Any) -> str:
        scope = event.request.scope
        name: str = event.__dict__.setdefault("visitor", visitor_of(scope) or address_of(scope, behind_proxy=_BEHIND_PROXY))
        return name

    for function in page.fns.values():
        page._queue.create_event_queue_for_fn(function)
    queues = [FairQueue(owner) for _ in page._queue.event_queue_per_concurrency_id]
    for turns, queue in zip(queues, page._queue.event_queue_per_concurrency_id.values(), strict=True):
        queue.queue = turns
    return lambda visitor: sum(turns.count_of(visitor) for turns in queues)


if __name__ == "__main__":
    serve()
