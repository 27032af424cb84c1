"""Real photos: the split that keeps places apart, pictures that change them, and the table of docs/real_photos.md."""

import csv

import numpy as np
import pytest
from PIL import Image

from benchmarks import page_tables, real_photos
from benchmarks.baselines import thumbnails
from benchmarks.handmade_model import HandmadeModel
from benchmarks.other_light import LIGHTS, change_light, crop
from benchmarks.split_real import part_of_clip, part_of_panorama, split
from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.evaluation import PositiveRule, evaluate
from d2vpr_hf.readers import find_photos, read_places

ROADS = [f"Dataset/{road}{photo}_RS_1_{road}_00/x.jpg" for road in range(13) for photo in range(3)]


def draw(path, seed, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Draw 9 clips, 9 panoramas with two photos cut of each, and 13 sections of a highway."""
    root = tmp_path_factory.mktemp("real")
    for number, side in enumerate(("database", "queries")):
        rows = [(f"c{clip}_{second}.jpg", 1000 * clip, second) for clip in range(9) for second in range(number, 12, 2)]
        for seed, (name, *_) in enumerate(rows):
            draw(root / "ie_tower" / side / name, seed)
        with (root / "ie_tower" / side / "places.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "x", "y"), *rows])
    lines, origins = ["file\trepository\tpath"], []
    for number in range(9):
        draw(root / "panoramas" / f"p{number}.jpg", number, (32, 64))
        origins.append(f"p{number}\trepository\t{number}.hdr")
        for view in range(2):
            draw(root / "unlabelled" / "polyhaven_hdri" / f"{number}{view}.jpg", number)
            lines.append(f"polyhaven_hdri/{number}{view}.jpg\trepository\t{number}.hdr")
    for number, origin in enumerate(ROADS):
        draw(root / "unlabelled" / "brazil_highways" / f"{number:03}.jpg", 100 + number)
        lines.append(f"brazil_highways/{number:03}.jpg\troads\t{origin}")
    (root / "panoramas" / "sources.tsv").write_text("\n".join(origins) + "\n")
    (root / "unlabelled" / "sources.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def work(root, tmp_path_factory):
    work = tmp_path_factory.mktemp("work") / "split"
    split(root, work)
    return work


def names(folder):
    return {path.relative_to(folder).as_posix() for path in find_photos(folder)}


def test_the_rules_of_the_split():
    assert [part_of_clip(clip, list(range(9))) for clip in range(9)] == [
        *("test", "validation", "train", "test", "train", "train", "test", "train", "train")
    ]
    assert [number for number in range(36) if part_of_panorama(number) != "train"] == list(range(0, 36, 4))


def test_no_place_is_in_two_parts(root, work):
    """Clips 0, 3, 6 are for tests and 1 for validation; panoramas 0 and 8 for validation and 4 for tests; roads likewise."""
    clips = {part: {name.split("_")[0] for side in sides for name in names(work / side)} for part, sides in (
        ("train", ["train/walks"]),
        ("validation", ["validation/walks/database", "validation/walks/queries"]),
        ("test", ["test/walks/database", "test/walks/queries"]),
    )}  # fmt: skip
    assert clips == {"train": {"c2", "c4", "c5", "c7", "c8"}, "validation": {"c1"}, "test": {"c0", "c3", "c6"}}
    assert names(work / "train" / "panoramas") == {f"p{number}.jpg" for number in (1, 2, 3, 5, 6, 7)}
    assert {name.split("-")[0] for name in names(work / "validation" / "views" / "queries")} == {"p0", "p8"}
    assert {name.split("-")[0] for name in names(work / "test" / "views" / "queries")} == {"p4"}
    trained = names(work / "train" / "unlabelled")
    assert names(work / "train" / "overlapping") == {  # parts of the panoramas, which would be wrong negatives of their views
        f"polyhaven_hdri/{number}{view}.jpg" for number in (1, 2, 3, 5, 6, 7) for view in range(2)
    }
    # sections in the order of their names are 0, 1, 10, 11, 12, 2, 3, ..., 9; the first, the seventh and the last are held out
    photos = {f"brazil_highways/{number:03}.jpg": origin.split("_")[3] for number, origin in enumerate(ROADS)}
    assert {road for name, road in photos.items() if name not in trained} == {"0", "3", "9"}
    assert {road for name, road in photos.items() if name in trained}.isdisjoint({"0", "3", "9"})


def test_each_part_has_its_own_queries_in_a_common_database(work):
    for name in ("views", "light"):
        assert names(work / "validation" / name / "database") == names(work / "test" / name / "database")
        assert not names(work / "validation" / name / "queries") & names(work / "test" / name / "queries")


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("name", ["walks", "views", "light"])
def test_every_query_has_a_match(work, part, name):
    folder = work / part / name
    encoder = PlaceEncoder(HandmadeModel("thumbnails", thumbnails, (32, 32)))
    evaluation = evaluate(folder / "database", folder / "queries", encoder)
    assert evaluation.num_without_positives == 0 and not evaluation.skipped["queries"]
    conditions = {row["condition"] for row in evaluation.conditions()}
    assert conditions == (set(LIGHTS) if name == "light" else set())


def test_places_to_train_on_are_seconds_of_one_clip(work):
    """4 seconds are a place, and places of one group are at least 12 seconds apart."""
    with (work / "train" / "walks" / "places.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 and read_places(work / "train" / "walks").group_ids is not None
    for row in rows:
        clip, second = (int(number) for number in row["path"][1:-4].split("_"))
        assert (int(row["place_id"]), int(row["group_id"])) == (1000 * clip + second // 4, second // 4)


def test_a_split_is_reproducible_and_made_once(root, work, tmp_path):
    counts = split(root, tmp_path / "again")
    assert split(root, work) == counts
    for path in find_photos(work):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(work)).read_bytes()


def test_a_split_refuses_other_folders(root, work, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"panoramas and unlabelled in .*; ie_tower, panoramas, unlabelled is missing"):
        split(tmp_path, tmp_path / "out")
    draw(tmp_path / "mine" / "photo.jpg", 0)
    with pytest.raises(FileExistsError, match="Give another folder"):
        split(root, tmp_path / "mine")
    for name in ("ie_tower", "panoramas", "unlabelled"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match="has a split of"):
        split(tmp_path, work)


@pytest.mark.parametrize("light", LIGHTS)
def test_light_changes_colours_and_keeps_the_scene(light):
    photo = np.full((40, 60, 3), 120, np.uint8)
    photo[10:30, 20:40] = (200, 60, 60)
    changed = change_light(photo, light, np.random.default_rng(0))
    assert changed.shape == photo.shape and np.abs(changed.astype(int) - photo).mean() > 10
    assert abs(changed[15:25, 25:35].mean(axis=(0, 1)) - changed[:5].mean(axis=(0, 1))).max() > 10
    assert changed.mean() < 60 or light != "night"


def test_a_crop_is_a_part_of_the_photo():
    photo = np.arange(40 * 60 * 3, dtype=np.int64).reshape(40, 60, 3)
    for seed in range(20):
        part = crop(photo, np.random.default_rng(seed))
        top, left = divmod(int(part[0, 0, 0]) // 3, 60)
        assert np.array_equal(part, photo[top : top + part.shape[0], left : left + part.shape[1]])
        assert 0.4 < part[..., 0].size / photo[..., 0].size < 0.85


def test_handmade_descriptors_run_as_a_model(tmp_path):
    draw(tmp_path / "photo.png", 0, (50, 40))
    photo = np.asarray(Image.open(tmp_path / "photo.png").resize((32, 48), Image.Resampling.BICUBIC))
    encoded = PlaceEncoder(HandmadeModel("thumbnails", thumbnails, (48, 32))).encode([tmp_path / "photo.png"])
    assert encoded.descriptors == pytest.approx(thumbnails(photo[None]), abs=1e-6)


@pytest.fixture
def streets(tmp_path):
    for name in ("db1", "db2", "db3"):
        draw(tmp_path / "streets" / "database" / f"{name}.png", int(name[-1]))
    for name, seed in (("q1", 3), ("q2", 1)):
        draw(tmp_path / "streets" / "queries" / f"{name}.png", seed)
    return tmp_path / "streets"


def test_ranks_follow_from_pairs(streets, tmp_path):
    """The first query is its match itself; the second one is db1 itself, so that its match db2 or db3 is second at best."""
    real_photos.place_streets(streets, ["q1=db3", "q2=db2"], tmp_path / "placed")
    encoder = PlaceEncoder(HandmadeModel("thumbnails", thumbnails, (32, 32)))
    folder = tmp_path / "placed"
    ranks = evaluate(folder / "database", folder / "queries", encoder, recall_values=(1, 2, 3)).ranks
    assert ranks[0] == 1 and ranks[1] > 1
    real_photos.place_streets(streets, ["q1=db3", "q2=db2,db1"], folder)
    assert evaluate(folder / "database", folder / "queries", encoder).ranks.tolist() == [1, 1]


@pytest.mark.parametrize("pairs", [["q1=db1"], ["q1=db1", "q2=db9"], ["q1=db1", "q2=db2", "q3=db3"]])
def test_pairs_must_name_every_query_and_photos(streets, tmp_path, pairs):
    with pytest.raises(ValueError, match="Expected a pair QUERY=MATCH for each of the queries q1, q2"):
        real_photos.place_streets(streets, pairs, tmp_path / "placed")


def test_the_table_has_a_column_for_each_set_that_exists(root, streets, tmp_path):
    work = tmp_path / "work"
    sets, missing = real_photos.find_sets(root, streets, ["q1=db3", "q2=db1"], work)
    assert [photos.name for photos in sets] == ["walks", "views", "light", "streets"]
    assert missing == ["corridor: there is no folder `corridor` in --real"]
    encoders = {
        title: PlaceEncoder(HandmadeModel(title, thumbnails, size)) for title, size in (("new", (32, 32)), ("old", (8, 8)))
    }
    evaluations = real_photos.measure(sets, encoders, work / "reports")
    record = real_photos.summarize(evaluations, ["old"])
    assert record["sets"]["walks"] == {"database": 18, "queries": 18, "places": 3, "correct": "within 25 m"}
    assert len(record["differences"]) == 4 and (work / "reports" / "walks-new.json").exists()
    lines = real_photos.table(record, sets).splitlines()
    assert lines[0] == (
        "| R@1, % | indoor walks, 18 queries | hard viewpoints, 24 queries | other light, 32 queries | "
        "street photos: ranks of the matches |"
    )
    assert lines[2].startswith("| new | ") and lines[2].endswith(" | 1, 1 |")
    assert lines[-1].startswith("| new − old | ")


def test_nothing_is_measured_without_folders(tmp_path):
    sets, missing = real_photos.find_sets(None, None, [], tmp_path)
    assert not sets and [line.split(":")[0] for line in missing] == ["corridor", "walks, views, light", "streets"]


def test_the_corridor_is_compared_by_frames_and_with_published_numbers(tmp_path):
    for side in ("database", "queries"):
        for number in range(6):
            draw(tmp_path / "corridor" / side / f"{number:07}.png", number)
    sets, _ = real_photos.find_sets(tmp_path, None, [], tmp_path / "work")
    assert [(photos.name, photos.rule) for photos in sets] == [("corridor", PositiveRule(frame_tolerance=2))]
    encoders = {"one": PlaceEncoder(HandmadeModel("one", thumbnails, (32, 32)))}
    record = real_photos.summarize(real_photos.measure(sets, encoders, tmp_path / "reports"), [])
    lines = real_photos.table(record, sets).splitlines()
    assert lines[2].startswith("| one | 100.0") and lines[3] == "| NetVLAD, quoted | 67.6 |"


def test_a_page_keeps_all_but_one_table(tmp_path):
    page = tmp_path / "page.md"
    (start, end), (other_start, other_end) = (page_tables.markers(name) for name in ("a", "b"))
    page.write_text(f"# Title\n\n{start}\nold\n{end}\n\n{other_start}\n{other_end}\n")
    page_tables.write_page(page, "| new |", "a")
    assert page.read_text() == f"# Title\n\n{start}\n\n| new |\n\n{end}\n\n{other_start}\n{other_end}\n"
    with pytest.raises(ValueError, match="needs the lines <!-- table of c -->"):
        page_tables.write_page(page, "| new |", "c")
