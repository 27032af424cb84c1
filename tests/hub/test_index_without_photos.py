"""A Space of an index from the Hub has no photos: it shows thumbnails if the index was pushed with some, and says so."""

import io

import pytest
from PIL import Image

from d2vpr_hf import PlaceEncoder, index_photos
from d2vpr_hf.hub.push_index import push_index
from d2vpr_hf.space import pages
from d2vpr_hf.space.about import about_page
from d2vpr_hf.space.opened_space import open_space
from d2vpr_hf.space.photo_map import Question
from d2vpr_hf.space.pictures import jpeg_uri
from d2vpr_hf.space.settings import read_settings
from tests.photos import save_row


@pytest.fixture
def open_pushed(hub, tmp_path):
    """Push an index of a few photos, and open a Space of it; return the Space and the photos."""

    def open_it(*, thumbnails):
        photos = save_row(tmp_path / "photos")
        index, _ = index_photos(photos, tmp_path / "index", PlaceEncoder())
        index.close()
        push_index(tmp_path / "index", "user/map", thumbnails=thumbnails)
        opened = open_space(read_settings({"D2VPR_INDEX": "user/map", "D2VPR_CACHE": str(tmp_path / "cache")}))
        return opened, sorted(photos.glob("*.jpg"))

    return open_it


def test_thumbnails_are_examples_and_pictures_of_matches(open_pushed):
    opened, photos = open_pushed(thumbnails=True)
    assert not opened.has_photos and set(opened.thumbnails) == {photo.name for photo in photos}
    assert [photo.read_bytes() for photo in opened.examples] == [opened.thumbnails[photo.name] for photo in photos][:8]
    assert not any(photo.name in {example.name for example in opened.examples} for photo in photos)
    answer = opened.photo_map.answer([Question(opened.examples[1])])[0]
    assert answer.matches[0].place.path == photos[1].name and answer.truth is None
    thumbnail = opened.thumbnails[photos[1].name]
    assert opened.picture(answer.matches[0]) == jpeg_uri(thumbnail)
    assert max(Image.open(io.BytesIO(thumbnail)).size) <= 256
    cards = pages.match_cards(answer, opened.picture, explained=opened.has_photos)
    assert cards.count("<img") == len(answer.matches) and "Why?" not in cards
    assert "Why?" in pages.match_cards(answer, opened.picture)
    assert f"{len(photos)} thumbnails: the index came without photos" in about_page(opened)
    assert pages.photos_note(has_photos=False, num_thumbnails=len(photos)) == (
        "It came without photos: matches are shown as thumbnails and cannot be explained."
    )


def test_without_thumbnails_matches_have_no_pictures(open_pushed):
    opened, photos = open_pushed(thumbnails=False)
    assert opened.examples == [] and not opened.has_photos and len(opened.thumbnails) == 0
    answer = opened.photo_map.answer([Question(photos[2])])[0]
    cards = pages.match_cards(answer, opened.picture, explained=opened.has_photos)
    assert cards.count("no picture available") == len(answer.matches) and "<img" not in cards and "Why?" not in cards
    assert "neither photos nor thumbnails: the index came without photos" in about_page(opened)
    assert "by position only" in pages.photos_note(has_photos=False, num_thumbnails=0)


def test_photos_that_are_here_need_no_note():
    assert pages.photos_note(has_photos=True, num_thumbnails=0) == ""
    title = pages.title("m", "i", 3, "It came <without>")
    assert title.endswith("Searching 3 photos of i with m. It came &lt;without&gt;</span></p>")
