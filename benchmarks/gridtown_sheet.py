"""Draw the contact sheet of Gridtown in the docs: `python benchmarks/gridtown_sheet.py [docs/images/gridtown.jpg]`.

Each row is a condition, each column a place and a view, each photo another visit. `--wild SHARE --textures DIR` shows wild
photos.
"""

import argparse

import torch
from PIL import Image

from d2vpr_hf.gridtown import TEST_SEEDS, WEATHERS, Variation, Wildness, cut_textures, draw_photo, make_town, make_wild

VIEWS = ((3, 0), (10, 1), (17, 2), (24, 0), (31, 3), (38, 2))  # place and heading
SIZE = (168, 168)


def main() -> None:
    """Render and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="docs/images/gridtown.jpg")
    parser.add_argument("--wild", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--textures", metavar="DIR")
    arguments = parser.parse_args()
    wildness = Wildness(arguments.wild, arguments.textures)
    textures = None if wildness.textures is None else cut_textures(wildness.textures, TEST_SEEDS[0])
    town = make_town(TEST_SEEDS[0], 120, textures=textures)
    rows = []
    for visit, weather in enumerate(WEATHERS):
        variation = Variation(weathers=(weather,))
        photos = [make_wild(town.city, draw_photo(town.city, *view, visit, variation), wildness) for view in VIEWS]
        rows.append(torch.cat(list(town.take(photos, SIZE)), dim=2))
    sheet = torch.cat(rows, dim=1).permute(1, 2, 0).contiguous()
    Image.fromarray(sheet.numpy()).save(arguments.file, quality=88)


if __name__ == "__main__":
    main()
