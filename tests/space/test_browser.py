"""The Space in a real headless Chromium; `make browser` installs Playwright and Chromium."""

import base64
import re
import shutil
import time
import zipfile

import pytest
from PIL import Image

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation import explain_match
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.retrieval.search_photos import search_photos
from tests.photos import draw, gps_exif, jpeg, zipped
from tests.space.test_hostile_names import ZOO

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright and Chromium: make browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: make browser"),
]
# for root in a container without a GPU; Chromium must not connect to servers of its own
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
CAMERA = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]  # a simulated camera, and no question for permission
PATIENCE = 120_000  # milliseconds, for a machine with other load


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS + CAMERA)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, space):
    """Open the Space as a new visitor; an error on any of the pages fails the test at its end."""
    troubles, contexts = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("response", lambda answer: troubles.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
        page.goto(space.url)
        page.wait_for_selector(".strip button")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == [] and "Traceback" not in space.log


def photo_input(page, number=0):
    return page.locator('[data-testid="image"] input[type="file"]').nth(number)


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def sentence(page):
    """Return the text of the error that is shown, and close it."""
    text = page.locator(".toast-body").last.inner_text()
    page.locator(".toast-close").last.click()
    return text


def names_of_matches(page):
    return page.locator(".card img").evaluate_all("images => images.map(image => image.alt)")


def test_an_example_is_chosen_by_mouse_and_by_keyboard(visit):
    page = visit()
    page.locator(".strip button").first.click()
    page.wait_for_selector(".verdict")
    assert page.locator(".card").count() == 5 and page.locator(".map .match").count() == 5
    assert "0.0 m from the true position" in page.locator(".card").first.inner_text()  # the examples are photos of this map
    assert page.locator(".verdict").inner_text().startswith("Best guess")
    second = page.locator(".strip button").nth(1)
    before = page.locator(".verdict").inner_text()
    second.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("before => document.querySelector('.verdict')?.innerText !== before", arg=before)
    assert "0.0 m from the true position" in page.locator(".card").first.inner_text()


def test_the_map_zooms_and_has_a_caption(visit):
    page = visit()
    page.locator(".strip button").first.click()
    page.wait_for_selector(".verdict")
    drawing = page.locator("svg.map").first
    assert "Map with 5 matches, estimate at 46.35" in drawing.get_attribute("aria-label")
    whole = drawing.get_attribute("viewBox")
    page.get_by_role("button", name="Zoom in").first.click()
    width = float(drawing.get_attribute("viewBox").split()[2])
    assert width == pytest.approx(720 / 1.5)
    drawing.focus()
    page.keyboard.press("ArrowRight")
    assert float(drawing.get_attribute("viewBox").split()[0]) > (720 - width) / 2
    page.keyboard.press("0")
    assert drawing.get_attribute("viewBox") == whole


def test_an_upload_is_found(visit, space):
    page = visit()
    results = search_photos(PlaceIndex.open(space.folder / "index"), [space.queries[3]], PlaceEncoder(), top_k=5)
    photo_input(page).set_input_files(space.queries[3])
    page.wait_for_selector(".verdict")
    shown = page.locator(".card b").all_inner_texts()
    assert shown == [f"{match.similarity:.3f}" for match in results[0].matches]
    assert all(re.fullmatch(r"Match \d: .+", text) for text in names_of_matches(page))


COPY_PHOTO = """async data => {
  const bitmap = await createImageBitmap(await (await fetch("data:image/jpeg;base64," + data)).blob());
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/png" });
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}"""


def test_a_photo_is_pasted(visit, space):
    """Gradio sends an empty photo before the pasted one; to search with it would show an error in place of the answer."""
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    results = search_photos(PlaceIndex.open(space.folder / "index"), [space.queries[1]], PlaceEncoder(), top_k=5)
    page.evaluate(COPY_PHOTO, base64.b64encode(space.queries[1].read_bytes()).decode())
    page.get_by_role("button", name="Paste from clipboard").first.click()
    page.wait_for_selector(".verdict")
    shown = [float(text) for text in page.locator(".card b").all_inner_texts()]
    assert shown == pytest.approx(
        [match.similarity for match in results[0].matches], abs=2e-3
    )  # Chromium's JPEG decoder differs
    assert page.locator(".toast-body").count() == 0


def test_a_photo_is_taken(visit):
    page = visit(permissions=["camera"])
    page.get_by_role("button", name="Capture from camera").first.click()
    page.get_by_text("Click to Access Webcam").first.click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")  # before, the camera has no picture
    page.get_by_role("button", name="capture photo").first.click()
    page.wait_for_selector(".verdict")
    assert page.locator(".card").count() == 5 and page.locator(".toast-body").count() == 0


def test_search_options(visit, space):
    page = visit()
    page.get_by_role("button", name="Search options").click()
    heading = PlaceIndex.open(space.folder / "index").places[0].heading + 45  # the headings of the town are 90 degrees apart
    page.get_by_label("Looking towards").fill(f"{heading % 360}, 10")
    photo_input(page).set_input_files(space.queries[0])
    page.get_by_text("No photo passes the filters").wait_for()
    page.get_by_label("Looking towards").fill("north")
    page.get_by_role("button", name="Locate").click()
    assert "Expected `DEGREES,TOLERANCE` in numbers" in sentence(page)


def test_why_shows_every_number_of_the_explanation(visit, space):
    page = visit()
    photo_input(page).set_input_files(space.queries[2])
    page.wait_for_selector(".verdict")
    page.locator(".card button").nth(1).click()
    page.wait_for_selector(".bars")
    index, encoder = PlaceIndex.open(space.folder / "index"), PlaceEncoder()
    match = search_photos(index, [space.queries[2]], encoder, top_k=2)[0].matches[1]
    alone = explain_match(encoder, space.queries[2], match.photo)
    shown = dict(
        zip(page.locator(".bars .name").all_inner_texts(), page.locator(".bars .share").all_inner_texts(), strict=True)
    )
    assert {name: float(share) for name, share in shown.items()} == pytest.approx(
        dict(zip(alone.names, alone.shares.tolist(), strict=True)), abs=6e-5
    )
    total = float(page.locator(".total b").inner_text())
    assert total == pytest.approx(alone.cosine, abs=6e-5) and total == pytest.approx(
        sum(map(float, shown.values())), abs=14 * 6e-5
    )
    assert page.locator(".sampled").count() == 4 and page.locator(".sampled circle").count() == 4 * len(alone.query.points)
    page.locator(".bars li").nth(3).focus()
    region = page.locator(".bars li").nth(3).get_attribute("data-region")
    bright = page.locator(".sampled circle.active").evaluate_all("dots => [...new Set(dots.map(dot => dot.dataset.region))]")
    assert bright == ([region] if region != "0" else [])
    page.mouse.move(3, 3)
    assert page.locator(".sampled circle.active").count() > 0 or region == "0"  # the keyboard's choice stays


def test_why_before_a_search_asks_for_a_search(visit):
    page = visit()
    tab(page, "Why")
    page.get_by_role("button", name="Explain").click()
    assert "Locate a photo first" in sentence(page)


@pytest.fixture
def own_photos(tmp_path):
    """Three phone photos with GPS, one of them HEIC, and one without."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    files = []
    for number, suffix in enumerate((".jpg", ".heic", ".jpg")):
        files.append(tmp_path / f"IMG_{number}{suffix}")
        draw(number + 50, 240, 320).save(files[-1], exif=gps_exif(46.123456 + 0.001 * number, 11.0))
    draw(60).save(tmp_path / "plain.jpg")
    return [*files, tmp_path / "plain.jpg"]


def make_own(page, files):
    tab(page, "Your photos")
    page.locator('input[type="file"][multiple]').set_input_files(files)
    page.get_by_text(files[-1].stem, exact=True).first.wait_for()  # Gradio lists names in two parts
    page.get_by_role("button", name="Make my map").click()


def test_own_photos(visit, space, own_photos, tmp_path):
    page = visit()
    make_own(page, own_photos)
    page.get_by_text("3 photos are in your map").wait_for()
    page.get_by_text("1 file was skipped").click()
    assert "no GPS position" in page.locator(".skipped").inner_text()
    photo_input(page, 1).set_input_files(own_photos[1])
    page.get_by_role("button", name="Search my photos").click()
    card = page.get_by_role("tabpanel").locator(".card").first
    card.wait_for()
    assert "0.0 m from the true position" in card.inner_text()
    with page.expect_download() as download:
        page.get_by_text("Download the index").click()
    download.value.save_as(tmp_path / "index.zip")
    with zipfile.ZipFile(tmp_path / "index.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert len(PlaceIndex.open(tmp_path / "unpacked" / "my-index")) == 3
    assert "46.12" not in space.log
    _check_privacy(visit, page, space, download.value.url)


def test_hostile_names_run_nothing(visit, tmp_path):
    """The names of files are shown in lists, cards and errors: none may become a part of the page."""
    page = visit()
    names = [name.replace("/", "\u2215").replace("\x07", "") for name in ZOO]
    for number, name in enumerate(names):
        draw(number + 70).save(tmp_path / name, "JPEG", exif=gps_exif(46.1 + 0.001 * number, 11.0) if number % 2 else b"")
    archive = zipped(tmp_path / "zoo.zip", [(f"{name}/{name}", (tmp_path / name).read_bytes()) for name in names])
    make_own(page, [*sorted(tmp_path.glob("*.jpg")), archive])
    page.get_by_text("photos are in your map").wait_for()
    page.locator(".skipped summary").click()
    photo_input(page, 1).set_input_files(tmp_path / names[1])
    page.get_by_role("button", name="Search my photos").click()
    page.get_by_role("tabpanel").locator(".card").first.wait_for()
    (tmp_path / f"text {names[0]}").write_text("hello")
    photo_input(page, 1).set_input_files(tmp_path / f"text {names[0]}")
    page.get_by_role("button", name="Search my photos").click()
    assert "not an image" in sentence(page)
    evil = zipped(tmp_path / "evil.zip", [(f"../{names[0]}", jpeg())])
    page.locator('button[aria-label="Clear"]').last.click()
    make_own(page, [evil])
    page.wait_for_function("document.body.innerText.includes('path out of its folder')")
    assert page.evaluate("window.hacked") is None


WATCH_PROGRESS = """() => {
  window.seen = new Set();
  const look = () => document.body.innerText.split("\\n").forEach(line => seen.add(line));
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


def test_progress_is_shown_while_an_own_map_is_made(visit, tmp_path):
    """Ninety photos take a moment; without progress the page would seem to hang."""
    page = visit()
    page.evaluate(WATCH_PROGRESS)
    photos = [(f"{number}.jpg", jpeg(number, exif=gps_exif(46.1 + 0.0001 * number, 11.0))) for number in range(90)]
    make_own(page, [zipped(tmp_path / "many.zip", photos)])
    page.get_by_text("90 photos are in your map").wait_for()
    assert any("Encoding your photos" in line for line in page.evaluate("[...seen]"))


def test_why_of_an_own_map_and_then_of_the_spaces_map(visit, space, own_photos):
    """The buttons of each view explain the matches of that view, not those of the latest search."""
    page = visit()
    page.locator(".strip button").first.click()
    page.wait_for_selector(".verdict")
    similarity = float(page.locator(".card b").nth(1).inner_text())
    make_own(page, own_photos)
    page.get_by_text("3 photos are in your map").wait_for()
    photo_input(page, 1).set_input_files(own_photos[1])
    page.get_by_role("button", name="Search my photos").click()
    second = page.get_by_role("tabpanel").locator(".card:visible").nth(1)
    second.wait_for()
    match = next(photo for photo in own_photos if photo.name in second.locator("img").get_attribute("alt"))
    second.get_by_role("button", name="Why?").click()
    page.wait_for_selector(".bars")
    own_similarity = float(page.locator(".total b").inner_text())
    assert own_similarity == pytest.approx(explain_match(PlaceEncoder(), own_photos[1], match).cosine, abs=6e-5)
    tab(page, "Localise")
    page.locator(".card button:visible").nth(1).click()
    page.wait_for_function("last => Number(document.querySelector('.total b').innerText) !== last", arg=own_similarity)
    assert float(page.locator(".total b").inner_text()) == pytest.approx(similarity, abs=1e-3)


def _check_privacy(visit, page, space, url):
    """Another visitor can neither download the index nor search the map, and all files are deleted after the visit."""
    stranger = visit()
    assert stranger.request.get(url).status == 403 and page.request.get(url).status == 200
    tab(stranger, "Your photos")
    photo_input(stranger, 1).set_input_files(space.queries[0])
    stranger.get_by_role("button", name="Search my photos").click()
    assert "no map of your photos" in sentence(stranger)
    assert [path for path in space.visitors_files() if path.name.startswith("IMG_")]
    page.context.close()
    until = time.monotonic() + PATIENCE / 1000
    while any(path.name.startswith(("IMG_", "my-index")) for path in space.visitors_files()) and time.monotonic() < until:
        time.sleep(0.5)
    assert not [path for path in space.visitors_files() if path.name.startswith(("IMG_", "my-index"))]


def test_photos_that_cannot_be_used(visit, space, tmp_path):
    page = visit()
    page.locator(".strip button").first.click()
    page.wait_for_selector(".verdict")
    (tmp_path / "text.jpg").write_text("not a photo")
    page.get_by_label("Remove Image").first.click()
    photo_input(page).set_input_files(tmp_path / "text.jpg")
    assert "This photo cannot be used: not an image." in sentence(page)
    page.get_by_text("Where was it taken?").wait_for()  # the answer to the last photo would mislead
    Image.new("L", (7100, 7100)).save(tmp_path / "large.png")
    page.reload()
    page.wait_for_selector(".strip button")
    photo_input(page).set_input_files(tmp_path / "large.png")
    assert "it has 50.4 megapixels, and photos must have fewer than 50" in sentence(page)
    page.locator(".strip button").first.click()  # the page still works
    page.wait_for_selector(".verdict")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (lambda: [("ok.jpg", jpeg()), ("../../evil.jpg", jpeg())], "has a path out of its folder"),
        (lambda: [(f"{number}.jpg", bytes(30_000_000)) for number in range(10)], "The zip would unpack to 300 MB"),
        (lambda: [(f"{number}.jpg", b"x") for number in range(500)], "The zip has 500 photos. Up to 300 photos"),
        (lambda: [("one.jpg", jpeg()), ("two.jpg", jpeg())], "None of the 2 photos has a GPS position"),
        (lambda: [("notes.txt", b"hello")], "no photo that can be used"),
    ],
    ids=["leads-out", "bomb", "500-photos", "no-gps", "no-photo"],
)
def test_uploads_without_a_map_show_the_reason(visit, space, tmp_path, entries, message):
    page = visit()
    archive = zipped(tmp_path / "pack.zip", entries())
    make_own(page, [archive])
    assert message in sentence(page)
    assert page.get_by_text("It appears here when your photos are indexed.").is_visible()
    assert not [path for path in space.visitors_files() if "own" in path.parts]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit, space, scheme):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    photo_input(page).set_input_files(space.queries[0])
    page.wait_for_selector(".verdict")
    page.wait_for_function("document.querySelector('.verdict').getBoundingClientRect().top < innerHeight / 2")
    page.locator(".card button").first.click()
    page.wait_for_selector(".bars")
    for name in ("Localise", "Why", "Your photos", "About"):
        tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
    assert (red + green + blue < 200) == (scheme == "dark")


def test_pictures_have_texts_and_one_heading(visit):
    page = visit()
    page.locator(".strip button").first.click()
    page.wait_for_selector(".verdict")
    unnamed = page.locator("main img:visible").evaluate_all(
        "images => images.filter(i => !i.hasAttribute('alt') || (!i.alt && !i.closest('button[aria-label]'))).length"
    )
    assert unnamed == 0
    assert page.locator("svg.map").first.get_attribute("role") == "img"
    assert page.locator("h1").count() == 1 and page.locator('.verdict[role="status"]').count() == 1
