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
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VISITORS = Path(tempfile.gettempdir()) / f"d2vpr-space-{secrets.token_hex(8)}"  # all files of visitors
UPLOADS = VISITORS / "uploads"
os.environ["GRADIO_TEMP_DIR"] = str(UPLOADS)  # Gradio reads it when it is imported
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from d2vpr_hf.space.zero_gpu import import_spaces, is_zero_gpu  # noqa: E402

import_spaces()  # before torch

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402

from d2vpr_hf.explanation import Explanation, PatchSimilarity  # noqa: E402
from d2vpr_hf.index import Match  # noqa: E402
from d2vpr_hf.localization.localize import PRECISION  # noqa: E402
from d2vpr_hf.readers import UnreadablePhotoError  # noqa: E402
from d2vpr_hf.readers.photo_listing import PHOTO_SUFFIXES  # noqa: E402
from d2vpr_hf.space import pages  # noqa: E402
from d2vpr_hf.space.about import about_page  # noqa: E402
from d2vpr_hf.space.opened_space import OpenedSpace, open_space  # noqa: E402
from d2vpr_hf.space.own_map import OwnMaps, build_own_map, pack_index  # noqa: E402
from d2vpr_hf.space.photo_map import MAX_MATCHES, Answer, PhotoMap, SearchOptions  # noqa: E402
from d2vpr_hf.space.pictures import map_picture_uri, picture_uri  # noqa: E402
from d2vpr_hf.space.private_files import PrivateFiles, visitor_of  # noqa: E402
from d2vpr_hf.space.settings import read_settings  # noqa: E402
from d2vpr_hf.space.uploads import LIMITS  # noqa: E402
from d2vpr_hf.space.visitors import Visitors  # noqa: E402

_BATCH = 16  # requests of programs that are encoded together
_IS_BATCHED = not is_zero_gpu()  # there each request is paid by the quota of its visitor
_THREADS = 6  # threads of Gradio: each thread that ran the network once keeps memory
_M_ARENA_MAX = -8  # a constant of glibc's malloc.h
_QUEUE = 400  # requests that may wait; Gradio refuses more
_MAX_AGE = 3600  # seconds after which uploads and states are deleted, also those of programs, which close no page
_NETWORK: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "network"}
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
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

    def __init__(self, opened: OpenedSpace, visitors: Visitors) -> None:
        self.opened, self.visitors = opened, visitors
        self.own_maps = OwnMaps(VISITORS / "own")

    # ---- localise

    def locate(self, photo: str | None, *options: Any) -> tuple[Any, ...]:
        """Search the Space's map with a photo."""
        return self._answer(self.opened.photo_map, photo, SearchOptions(*options), self.opened.picture)

    def choose_example(self, event: gr.EventData, *options: Any) -> tuple[Any, ...]:
        """Show an example and search the Space's map with it."""
        photo = str(self.opened.examples[int(event.index)])
        return (photo, *self.locate(photo, *options))

    def show_nothing(self) -> tuple[Any, ...]:
        """Show the map without an answer: at the beginning, and after an error, when the last answer would mislead."""
        empty = pages.empty_state("Where was it taken?", "Upload, paste or take a photo, or try an example.")
        return empty, pages.map_panel(self.opened.photo_map.drawing, None), "", None, None

    def _answer(
        self, photo_map: PhotoMap, photo: str | None, options: SearchOptions, picture: pages.Picture
    ) -> tuple[Any, ...]:
        if photo is None:
            raise _page_error("There is no photo yet. Upload one, or choose an example.")
        answer = _ask(photo_map, Path(photo), options)
        return (
            pages.verdict(answer),
            pages.map_panel(photo_map.drawing, answer),
            pages.match_cards(answer, picture, explained=self._explains(photo_map)),
            (photo, answer),
            (photo, answer),
        )

    def _explains(self, photo_map: PhotoMap) -> bool:
        """Return whether matches of a map can be explained: by this model, and with their photos here."""
        has_photos = photo_map is not self.opened.photo_map or self.opened.has_photos
        return has_photos and self.opened.reason_against is None

    # ---- why

    def explain_rank(self, search: tuple[str, Answer] | None, rank: int) -> str:
        """Explain a match of a search: a photo and its answer."""
        if search is None or not search[1].matches:
            raise _page_error("There is nothing to explain yet. Locate a photo first, then choose a match.")
        photo, matches = Path(search[0]), search[1].matches
        if rank > len(matches):
            raise _page_error(
                f"There is no match {rank}: the search returned {len(matches)}. Search for more, or choose another."
            )
        match = matches[rank - 1]
        explanation = _explain(self.opened.photo_map, photo, match.photo)
        pictures = [picture_uri(side, 640) or "" for side in (photo, match.photo)]
        return pages.explanation_panel(explanation, pictures[0], pictures[1], rank)

    def explain_card(self, search: tuple[str, Answer] | None, event: gr.EventData) -> tuple[Any, ...]:
        """Explain the match whose button was pressed, and show that view."""
        rank = int(event.index)
        return gr.Tabs(selected="why"), search, gr.Slider(value=rank), self.explain_rank(search, rank)

    # ---- your photos

    def build(self, files: list[str] | None, request: gr.Request, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        """Index a visitor's photos."""
        if not files:
            raise _page_error("There are no photos yet. Choose some with GPS, or a zip of them.")
        session, encoder = str(request.session_hash), self.opened.photo_map.encoder
        folder = self.own_maps.begin(session)
        try:
            own_map = build_own_map([Path(file) for file in files], folder, encoder, progress=_bar(progress))
        except (ValueError, OSError) as error:
            raise _page_error(str(error)) from None
        photo_map = self.own_maps.keep(session, own_map, PhotoMap(own_map.index, encoder, self.opened.tiles))
        packed = pack_index(own_map, UPLOADS / folder.name / "my-index.zip")
        self.visitors.add_file(_visitor(request), packed)
        summary = pages.own_summary(len(own_map.index), own_map.skipped, own_map.remarks)
        drawing = pages.map_panel(photo_map.drawing, None)
        return summary, drawing, gr.DownloadButton(value=str(packed), interactive=True)

    def search_own(self, photo: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Search the visitor's own map with a photo."""
        photo_map = self.own_maps.get(str(request.session_hash))
        if photo_map is None:
            raise _page_error("There is no map of your photos, or it was deleted after an hour. Make one first.")
        return self._answer(photo_map, photo, SearchOptions(), _own_picture)

    # ---- opening and closing the page

    def arrive(self, request: gr.Request) -> None:
        """Record that a page was opened."""
        self.visitors.arrive(_visitor(request), str(request.session_hash))

    def leave(self, request: gr.Request) -> None:
        """Delete the map and the files of a page that was closed."""
        self.own_maps.remove(str(request.session_hash))
        self.visitors.leave(_visitor(request), str(request.session_hash))


class Endpoints:
    """The functions that programs call: the same answers as JSON. Arguments are columns of a batch of requests."""

    def __init__(self, photo_map: PhotoMap) -> None:
        self.photo_map = photo_map

    def localize(
        self,
        photo: list[str],
        top_k: list[int],
        precision: list[float],
        near: list[str],
        heading: list[str],
        since: list[str],
        until: list[str],
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
        """
        columns = zip(top_k, precision, near, heading, since, until, strict=True)
        answers = self.photo_map.answer_requests(photo, [SearchOptions(*row) for row in columns])
        return ([_json_of(answer, answer.to_dict()) for answer in answers],)

    def search(self, photo: list[str], top_k: list[int]) -> tuple[list[dict[str, Any]]]:
        """Find the photos of the map that are most similar to a photo.

        Args:
            photo: The photo's file.
            top_k: Number of matches, 1 to 20.
        """
        answers = self.photo_map.answer_requests(photo, [SearchOptions(number) for number in top_k])
        return ([_json_of(answer, {"matches": answer.to_dict()["matches"]}) for answer in answers],)

    def explain(self, photo: str, rank: int) -> dict[str, Any]:
        """Explain the similarity of a photo and a match: the share of each region and the sampling points in both photos, or
        the similarity of their patches, for a vision transformer without regions.

        Args:
            photo: The photo's file.
            rank: Rank of the match, 1 for the most similar.
        """
        answer = _ask(self.photo_map, Path(photo), SearchOptions(top_k=max(1, int(rank))))
        if len(answer.matches) < rank:
            raise _page_error(f"There is no match of rank {rank}.")
        match = answer.matches[int(rank) - 1]
        return {"photo": match.place.path, **_explain(self.photo_map, Path(photo), match.photo).to_dict()}


def build(opened: OpenedSpace, visitors: Visitors) -> gr.Blocks:
    """Lay out the page and connect its events."""
    views = Views(opened, visitors)
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
            with gr.Tab("Why", id="why"):
                rank, why = _why_view(views, latest)
            with gr.Tab("Your photos", id="own"):
                own_cards = _own_view(views, latest)
            with gr.Tab("About", id="about"):
                gr.HTML(about_page(opened))
        for cards, search in (map_cards, own_cards):
            explained = cards.select(views.explain_card, search, [tabs, latest, rank, why], **_PRIVATE, **_NETWORK)
            explained.success(js=_TO_TOP, **_PRIVATE)
        _endpoints(Endpoints(opened.photo_map))
        page.load(views.arrive, **_PRIVATE, queue=False)
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
            options = _options()
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
        event.failure(views.show_nothing, None, outputs, **_PRIVATE, queue=False, show_progress="hidden")
    return cards, search


def _cards() -> tuple[gr.HTML, gr.State]:
    """Make the empty cards and the state of their search: the photo and its answer."""
    return gr.HTML("", js_on_load=_SEND_BUTTON.format(what="data-rank")), gr.State(None, time_to_live=_MAX_AGE)


def _options() -> list[Any]:
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
    return [top_k, precision, near, heading, since, until]


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
    make.click(views.build, files, [summary, drawing, download], show_progress_on=drawing, **_PRIVATE, **_NETWORK)
    outputs = [verdict, drawing, cards, search, latest]
    event = go.click(views.search_own, photo, outputs, **_PRIVATE, **_NETWORK)
    cleared = [verdict, cards, search, latest]
    event.failure(lambda: ("", "", None, None), None, cleared, **_PRIVATE, queue=False, show_progress="hidden")
    return cards, search


def _endpoints(endpoints: Endpoints) -> None:
    """Define the endpoints; hidden components name their arguments."""
    batch: dict[str, Any] = {"batch": True, "max_batch_size": _BATCH} if _IS_BATCHED else {}
    with gr.Row(visible=False):
        photo = gr.File(label="photo", type="filepath")
        result = gr.JSON(label="answer")
        call = gr.Button()
        top_k = gr.Number(5, label="top_k", precision=0)
        precision = gr.Number(PRECISION, label="precision")
        rank = gr.Number(1, label="rank", precision=0)
        texts = [gr.Textbox("", label=name) for name in ("near", "heading", "since", "until")]
    inputs = [photo, top_k, precision, *texts]
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
    image.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return image


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
        raise _page_error(f"This match cannot be explained: {error}") from None


def _json_of(answer: Answer, values: dict[str, Any]) -> dict[str, Any]:
    return values if answer.error is None else {"error": answer.error}


def _page_error(text: str) -> gr.Error:
    """Make an error for the page that is not written to the log, because it may name visitors' photos."""
    return gr.Error(text, duration=12, title="Not possible", print_exception=False)


def _bar(progress: gr.Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress((done, total), desc="Encoding your photos", unit="photos")


def _visitor(request: gr.Request) -> str | None:
    return None if request.request is None else visitor_of(request.request.scope)


def serve() -> None:
    """Open the Space and serve it until the process is stopped; then delete all files of visitors."""
    logging.getLogger("d2vpr_hf").setLevel(logging.ERROR)  # warnings name photos, and their names may hold positions
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _limit_heaps()
    VISITORS.mkdir(mode=0o700)
    try:
        _launch(open_space(read_settings()))
    finally:
        shutil.rmtree(VISITORS, ignore_errors=True)


def _limit_heaps() -> None:
    """Let all threads share two of glibc's heaps: freed memory stays in a heap, and many threads would have many heaps."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 2)


def _launch(opened: OpenedSpace) -> None:
    visitors = Visitors(UPLOADS)
    public = frozenset(photo.resolve() for photo in opened.examples)
    gr.set_static_paths([str(photo) for photo in opened.examples])
    build(opened, visitors).queue(max_size=_QUEUE).launch(
        theme=_THEME,
        css_paths=HERE / "style.css",
        js=(HERE / "behaviour.js").read_text(encoding="utf-8"),
        mcp_server=True,
        max_threads=_THREADS,
        max_file_size=LIMITS.unpacked_bytes,
        app_kwargs={"middleware": [Middleware(PrivateFiles, visitors=visitors, public=public)]},
        ssr_mode=False,
        footer_links=["api"],
    )


if __name__ == "__main__":
    serve()
