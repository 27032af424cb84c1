"""Draw the contact sheet of Gridtown in the docs: `python benchmarks/gridtown_sheet.py [docs/images/gridtown.jpg]`.

Each row is a condition, each column a place and a view, each photo another visit.
"""

import sys

import torch
from PIL import Image

from d2vpr_hf.gridtown import TEST_SEEDS, WEATHERS, Variation, draw_photo, make_town

VIEWS = ((3, 0), (10, 1), (17, 2), (24, 0), (31, 3), (38, 2))  # place and heading
SIZE = (168, 168)


def main() -> None:
    """Render and save."""
    town = make_town(TEST_SEEDS[0], 120)
    rows = []
    for visit, weather in enumerate(WEATHERS):
        variation = Variation(weathers=(weather,))
        photos = [draw_photo(town.city, place, heading, visit, variation) for place, heading in VIEWS]
        rows.append(torch.cat(list(town.take(photos, SIZE)), dim=2))
    sheet = torch.cat(rows, dim=1).permute(1, 2, 0).contiguous()
    Image.fromarray(sheet.numpy()).save(sys.argv[1] if len(sys.argv) > 1 else "docs/images/gridtown.jpg", quality=88)


if __name__ == "__main__":
    main()
