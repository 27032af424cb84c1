"""Every view shows names from files, tables and cards as texts: none becomes a tag, an attribute or a script."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from d2vpr_hf.index import Match
from d2vpr_hf.localization import Localization
from d2vpr_hf.maps import BaseMap, TileSource
from d2vpr_hf.places import Place
from d2vpr_hf.readers import Remark
from d2vpr_hf.space import pages
from d2vpr_hf.space.photo_map import Answer

ZOO = [
    "<script>window.hacked = 1</script>.jpg",
    "<img src=x onerror='window.hacked = 1'>.jpg",
    '"><svg onload=window.hacked=1>.jpg',
    "' onmouseover='window.hacked=1' x='.jpg",
    "</p></li></ol></div><iframe srcdoc='<script>parent.hacked=1</script>'>.jpg",
    "javascript:window.hacked=1//.jpg",
    "&lt;img src=x onerror=window.hacked=1&gt;.jpg",
    "{{7*7}}${7*7}`${window.hacked=1}`.jpg",
    "<style>*{display:none}</style>.jpg",
    "<a href='javascript:window.hacked=1'>click</a>.jpg",
    "<!--.jpg",
    "]]><script>window.hacked=1</script>.jpg",
    "\u202egpj.exe\x1b[31m\x07.jpg",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.hacked=1>.jpg",
]
TAGS = """
    b button circle details div figcaption figure g h1 image img li line ol p path pattern polyline polygon rect small span
    summary svg text title ul
""".split()  # noqa: SIM905 - as a list it would have 40 lines


class Reader(HTMLParser):
    """Collects what a browser would run, and all texts."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.dangers, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in TAGS:
            self.dangers.append(tag)
        for name, value in attributes:
            leads = name.endswith("href") and not (value or "").startswith("https://tiles.example.org/")
            if name.startswith("on") or name == "srcdoc" or leads:
                self.dangers.append((tag, name, value))
            if name == "src" and not (value or "").startswith("data:image/jpeg;base64,"):
                self.dangers.append((tag, name, value))
            self.texts.append(value or "")

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        self.dangers.append(("comment", data))


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def views(name):
    """Return the HTML of each view that shows texts of others, with a name in all of these."""
    place = Place(f"folder/{name}", latitude=46.1, longitude=11.0, condition=name)
    lost = Place(f"folder/{name}", condition=name)
    matches = [Match(1, 0, place, Path(name), 0.9), Match(2, 1, lost, Path(name), 0.8)]
    placed = Answer(Localization(name, place=place, confidence=0.9, radius_90=12.0, note=name), matches, place, place)
    unplaced = Answer(Localization(name, note=name, error=name), matches)
    drawing = BaseMap([place, lost], TileSource("https://tiles.example.org/{z}/{x}/{y}.png", name))
    remark = Remark("corrected", name, 1, name)
    for answer in (placed, unplaced):
        yield pages.verdict(answer)
        yield pages.map_panel(drawing, answer)
        yield pages.match_cards(answer, lambda match: "data:image/jpeg;base64,AAAA")
        yield pages.match_cards(answer, lambda match: None)
    yield pages.skipped_list({name: name})
    yield pages.own_summary(2, {name: name}, [remark])
    yield pages.title(name, name, 3, name, name)
    yield pages.why_intro(reason_against=name)
    yield pages.empty_state(name, name)
    yield pages.error_text(f"{name}: not an image", Path("/srv/visitors"))


@pytest.mark.parametrize("name", ZOO)
def test_hostile_names_are_texts(name):
    for html in views(name):
        assert read(html).dangers == [], html


@pytest.mark.parametrize("name", ZOO)
def test_hostile_names_are_shown(name):
    """A name that is cut or lost would hide which file was skipped."""
    for html in (pages.skipped_list({name: "not a photo"}), pages.error_text(name, Path("/srv"))):
        assert name in "".join(read(html).texts)


def test_errors_name_no_folder():
    folder = Path("/tmp/d2vpr-space-0123")
    assert str(folder) not in pages.error_text(f"[Errno 28] No space: '{folder}/own/ab/photos/a.jpg'", folder)
    assert pages.error_text('LAT,LON,METRES: it\'s "here"', folder) == 'LAT,LON,METRES: it\'s "here"'
