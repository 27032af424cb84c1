"""Answers of the Space, without Gradio: the same as those of the command line, one by one or in batches."""

from dataclasses import replace
from pathlib import Path

import pytest

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import Match, PlaceIndex
from d2vpr_hf.localization import fit_calibration, localize_photos
from d2vpr_hf.places import Place
from d2vpr_hf.places.filters import PlaceFilter
from d2vpr_hf.reranking import Reranking
from d2vpr_hf.retrieval.index_photos import index_photos
from d2vpr_hf.retrieval.search_photos import search_photos
from d2vpr_hf.sequences import SequenceAnswer
from d2vpr_hf.space import pages
from d2vpr_hf.space.photo_map import Answer, PhotoMap, Question, SearchOptions, SequenceAnswers, place_of_photo
from d2vpr_hf.space.pictures import picture_uri
from d2vpr_hf.space.uploads import UploadError
from tests.localization.test_localization import draw_answers
from tests.photos import at_name, draw, gps_exif, save


@pytest.fixture(scope="module")
def encoder(tiny_folder):
    return PlaceEncoder(tiny_folder, num_workers=1)


@pytest.fixture(scope="module")
def photo_map(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    for number in range(12):
        save(folder / "photos" / at_name(544000 + 40 * number, 4172758, heading=str(30 * number)), number)
    index, _ = index_photos(folder / "photos", folder / "index", encoder)
    return PhotoMap(index, encoder)


@pytest.fixture
def queries(tmp_path):
    names = [at_name(544000 + 40 * number + 3, 4172758) for number in range(5)]
    return [save(tmp_path / name, number) for number, name in enumerate(names)]


def test_answers_agree_with_the_command_line(photo_map, queries):
    """The Space must give the answers of `d2vpr search` and `d2vpr localize`."""
    answers = photo_map.answer([Question(photo, top_k=3) for photo in queries])
    results = search_photos(photo_map.index, queries, photo_map.encoder, top_k=3)
    assert [answer.matches for answer in answers] == [result.matches for result in results]
    located = localize_photos(photo_map.index, queries, photo_map.encoder)
    assert [answer.localization.place for answer in answers] == [answer.place for answer in located]
    assert [answer.matches[0].row for answer in answers] == [0, 1, 2, 3, 4]


def test_slow_photos_do_not_hold_up_a_batch_for_minutes(photo_map, queries, monkeypatch):
    monkeypatch.setattr("d2vpr_hf.space.photo_map._READING_SECONDS", -1)
    first, second = photo_map.answer([Question(photo) for photo in queries[:2]])
    assert first.error is None and second.error == "The Space is busy with other photos. Try again."


def test_a_batch_gets_the_answers_of_single_questions(photo_map, queries, tmp_path):
    """A batch must not mix up its answers, and a bad photo must not fail the other questions."""
    (tmp_path / "text.jpg").write_text("hello")
    questions = [
        Question(queries[0]),
        Question(tmp_path / "text.jpg"),
        Question(queries[1], top_k=2, places=PlaceFilter(heading=(300, 40))),
        Question(queries[2], places=PlaceFilter(heading=(0, 999))),
        Question(tmp_path / "gone.jpg"),
        Question(queries[3], top_k=99),
    ]
    together = photo_map.answer(questions)
    for answer, question in zip(together, questions, strict=True):
        alone = photo_map.answer([question])[0]
        # a batch is rounded differently from a single photo, which may swap near ties after the best match
        assert [match.row for match in answer.matches[:1]] == [match.row for match in alone.matches[:1]]
        assert [match.similarity for match in answer.matches] == pytest.approx(
            [match.similarity for match in alone.matches], abs=1e-5
        )
        assert answer.error == alone.error
    assert [len(answer.matches) for answer in together] == [5, 0, 2, 0, 0, 12]
    assert together[1].error == "This photo cannot be used: not an image."
    assert "tolerance within 0 and 180" in together[3].error and "was deleted" in together[4].error


def test_a_wrong_option_is_the_error_of_its_answer(photo_map, queries):
    """A wrong option must not fail the other requests of its batch, or move the error to another answer."""
    options = [SearchOptions(2, 0.5, ""), SearchOptions(50, 0.5, ""), SearchOptions(3, 0.5, "here")]
    first, second, third = photo_map.answer_requests([str(photo) for photo in queries[:3]], options)
    assert [match.row for match in first.matches] == [
        match.row for match in photo_map.answer([Question(queries[0], 2)])[0].matches
    ]
    assert "Expected 1 to 20 matches" in second.error and "LAT,LON,METRES" in third.error
    assert photo_map.answer_requests([], []) == []


def test_typed_texts_become_a_question(tmp_path):
    question = SearchOptions(3.0, 0.9, " 46.3, 11.5, 200 ", None, "2024-05-01", " ").question(tmp_path)
    assert question == Question(tmp_path, 3, 0.9, PlaceFilter(near=(46.3, 11.5, 200.0), since="2024-05-01"))
    for arguments in ((0,), (21,), (5, 1.5), (5, 0.9, "1,2"), (5, 0.9, "", "north")):
        with pytest.raises(ValueError, match="Expected"):
            SearchOptions(*arguments).question(tmp_path)


def test_distances_are_from_the_truth_or_else_from_the_estimate(photo_map, queries, tmp_path):
    with_truth = photo_map.answer([Question(queries[2])])[0]
    assert with_truth.distance(with_truth.matches[0]) == pytest.approx(3.0)
    without_truth = photo_map.answer([Question(save(tmp_path / "plain.jpg", 2))])[0]
    assert without_truth.truth is None and without_truth.distance(without_truth.matches[0]) is not None
    assert with_truth.matches == without_truth.matches


def test_the_truth_is_read_from_exif_and_is_not_in_the_json(photo_map, tmp_path):
    """The position in a visitor's photo is private: the page's map shows it, and the JSON must not have it."""
    photo = tmp_path / "phone.jpg"
    draw(1).save(photo, exif=gps_exif(12.345678, 98.765432))
    answer = photo_map.answer([Question(photo)])[0]
    assert answer.truth.latitude == pytest.approx(12.345678, abs=1e-6)
    assert "12.34" not in str(answer.to_dict()) and str(tmp_path) not in str(answer.to_dict())
    assert place_of_photo(save(tmp_path / "@not a name.jpg", 1)) is None


MATCH_KEYS = [
    *("rank", "path", "similarity", "latitude", "longitude", "utm_east", "utm_north", "utm_zone"),
    *("heading", "yaw", "frame", "timestamp", "condition", "score"),
    *("reranked", "region_similarity", "fused_similarity"),
]


def test_a_match_has_the_same_keys_in_all_outputs(photo_map, queries):
    """The commands print these values with `--json`; the Space has `photo` for `path`, which Gradio's client would download."""
    index, encoder = photo_map.index, photo_map.encoder
    searched = search_photos(index, queries[:1], encoder)[0].to_dict()["matches"]
    localized = localize_photos(index, queries[:1], encoder)[0].to_dict()["matches"]
    answered = photo_map.answer([Question(queries[0])])[0].to_dict()["matches"]
    assert searched == localized[:5] and len(searched) == len(answered) == 5
    for match, answer in zip(searched, answered, strict=True):
        assert list(match) == MATCH_KEYS
        assert list(answer) == ["rank", "photo", *MATCH_KEYS[2:]]
        assert str(index.settings.photo_folder / answer["photo"]) == match["path"]
        assert [answer[key] for key in MATCH_KEYS if key != "path"] == [match[key] for key in MATCH_KEYS if key != "path"]
        assert match["similarity"] == match["score"] and match["utm_zone"] == "10S" and match["timestamp"] is not None


def test_a_match_in_a_local_frame_has_its_metres():
    place = Place("a.jpg", x=1.0, y=2.0, z=3.0, yaw=4.0, frame="hall")
    values = Match(1, 0, place, Path("a.jpg"), 0.5).to_dict()
    assert set(values) == {*MATCH_KEYS, "x", "y", "z"} and (values["x"], values["yaw"], values["frame"]) == (1.0, 4.0, "hall")
    assert values["latitude"] is None


def test_answers_name_no_folder_of_the_server(photo_map, queries):
    assert str(photo_map.index.settings.photo_folder) not in str(photo_map.answer([Question(queries[0])])[0].to_dict())


def calibrated(photo_map):
    calibration = replace(fit_calibration(*draw_answers(400)), fingerprint=photo_map.index.settings.fingerprint)
    photo_map.index.store_calibration(calibration.to_dict())
    return PhotoMap(PlaceIndex.open(photo_map.index.folder), photo_map.encoder)


def test_no_match_keeps_the_guess_for_the_map_only(photo_map, queries):
    calibrated_map = calibrated(photo_map)
    anyway = calibrated_map.answer([Question(queries[0], precision=0.0)])[0]
    never = calibrated_map.answer([Question(queries[0], precision=1.0)])[0]
    confidence = anyway.localization.confidence
    assert anyway.localization.place is not None and anyway.localization.no_match is False
    assert never.localization.confidence == confidence
    if never.localization.no_match:
        assert never.localization.place is None and never.guess is not None and "No match" in pages.verdict(never)
        assert "estimate" not in pages.map_panel(calibrated_map.drawing, replace(never, guess=None))
    assert ("over 99 % sure" if confidence > 0.99 else f"{100 * confidence:.0f} % sure") in pages.verdict(anyway)
    certain = replace(anyway, localization=replace(anyway.localization, confidence=1.0))
    assert "over 99 % sure" in pages.verdict(certain) and "100 %" not in pages.verdict(certain)


def test_re_ranked_answers_are_those_of_the_command_line_and_shown(photo_map, queries):
    """Other questions of the batch keep their order. A calibration without re-ranking keeps its confidence."""
    plain_map = PhotoMap(PlaceIndex.open(photo_map.index.folder), photo_map.encoder)
    plain, answer = plain_map.answer([Question(queries[0]), Question(queries[0], rerank=True)])
    options = Reranking("regions")
    result = search_photos(photo_map.index, queries[:1], photo_map.encoder, reranking=options)[0]
    assert answer.matches == result.matches and answer.is_reranked and not plain.is_reranked
    assert answer.to_dict()["reranked"] is True and answer.to_dict()["matches"][0]["region_similarity"] is not None
    assert "re-ranked by regions" in pages.verdict(answer) and " by regions</p>" in pages.match_cards(answer, picture_of)
    assert "by regions" not in pages.verdict(plain) + pages.match_cards(plain, picture_of)
    judged = calibrated(photo_map)
    first, second = judged.answer([Question(queries[0], precision=0.0), Question(queries[0], precision=0.0, rerank=True)])
    assert second.is_reranked and second.localization.confidence == first.localization.confidence


def test_requests_share_the_whitening_of_a_map(photo_map, queries, monkeypatch):
    """Its fit costs more than the search, and a Space has one map for all visitors."""
    fits = []
    monkeypatch.setattr("d2vpr_hf.reranking.region_sources.fit_whitening", fits.append)
    opened = PhotoMap(PlaceIndex.open(photo_map.index.folder), photo_map.encoder)
    for photo in queries[:2]:
        assert opened.answer([Question(photo, rerank=True)])[0].is_reranked
    assert len(fits) == 1


def test_a_map_without_stored_regions_refuses_re_ranking(photo_map, queries, monkeypatch):
    monkeypatch.setattr(photo_map, "reranking", None)
    assert photo_map.answer([Question(queries[0], rerank=True)])[0].error.startswith("The photos of this map have no stored")


def test_pages_escape_file_names(photo_map, queries):
    answer = photo_map.answer([Question(queries[0])])[0]
    evil = "<script>alert(1)</script>.jpg"
    match = replace(answer.matches[0], place=replace(answer.matches[0].place, path=evil))
    shown = pages.match_cards(Answer(answer.localization, [match]), picture_of) + pages.skipped_list({evil: "<b>"})
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "<b>:" not in shown


def picture_of(match):
    return picture_uri(match.photo)


def test_cards_show_similarity_distance_and_correctness(photo_map, queries):
    answer = photo_map.answer([Question(queries[2])])[0]
    cards = pages.match_cards(answer, picture_of)
    assert cards.count("<li") == 5 and cards.count('class="card correct"') == 1 and cards.count('class="card wrong"') == 4
    for match in answer.matches:
        assert f"<b>{match.similarity:.3f}</b>" in cards and f'data-rank="{match.rank}"' in cards
        assert f"{pages.metres(answer.distance(match))} from the true position" in cards
    assert "No photo passes the filters" in pages.match_cards(Answer(answer.localization, []), picture_of)


@pytest.mark.parametrize(("distance", "text"), [(0.0, "0.0 m"), (9.94, "9.9 m"), (25.4, "25 m"), (1234.0, "1.2 km")])
def test_metres(distance, text):
    assert pages.metres(distance) == text


def test_a_sequence_is_localized_in_the_order_of_names_and_bad_frames_are_named(photo_map, tmp_path):
    """Each upload is in a folder with a random name, which must not decide the order."""
    frames = []
    for number, folder in ((10, "a"), (2, "z"), (1, "m")):
        (tmp_path / folder).mkdir()
        frames.append(save(tmp_path / folder / f"frame{number}.jpg", min(number, 3) - 1))
    (tmp_path / "frame3.jpg").write_text("hello")
    answers = photo_map.answer_sequence([*frames, tmp_path / "frame3.jpg"], 20.0)
    assert [frame.query for frame in answers.frames] == ["frame1.jpg", "frame2.jpg", "frame3.jpg", "frame10.jpg"]
    assert answers.order == "natural order of names"
    assert [frame.seconds for frame in answers.frames] == [0.0, 20.0, None, 60.0]
    assert "cannot be used" in answers.frames[2].error
    assert [round((frame.place.utm_east - 544000) / 40) for frame in answers.frames if frame.place] == [0, 1, 2]
    table = pages.sequence_table(answers)
    assert table.count("<tr>") == 5 and "frame10.jpg" in table and str(tmp_path) not in table
    assert "3 of 4 frames have a position" in pages.sequence_verdict(answers)
    assert "<svg" in pages.sequence_map(photo_map.drawing, answers)


def test_too_few_too_many_and_unusable_frames_are_refused(photo_map, queries, tmp_path):
    for photos in (queries[:1], queries * 13):
        with pytest.raises(UploadError, match="A sequence has 2 to 60 photos"):
            photo_map.answer_sequence(photos, 1.0)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(UploadError, match="cannot be used"):
        photo_map.answer_sequence([tmp_path / "text.jpg", tmp_path / "zz-missing.jpg"], 1.0)
    with pytest.raises(ValueError, match="`frame_interval` above 0"):
        photo_map.answer_sequence(queries, 0.0)


def test_the_table_of_a_sequence_escapes_names():
    frame = SequenceAnswer("<b>.jpg", error="<i>")
    table = pages.sequence_table(SequenceAnswers([frame], "order of times"))
    assert "&lt;b&gt;.jpg" in table and "<i>" not in table
