"""Ranks of correct matches among a few photos without positions, as a Markdown table.

    python benchmarks/photo_pairs.py PHOTOS q1=db2 q2=db5 q4=db15,db16,db17

`PHOTOS` contains `database` and `queries`. A pair is a query and the database photos of the same place, by file names without
endings. The methods are those of gridtown_tiers.py, on photos resized to the embedded model's 112×112.
"""

import argparse
from pathlib import Path

import numpy as np
from baselines import METHODS, Encode, Photos
from PIL import Image

from d2vpr_hf.readers import find_photos, open_photo

_SIZE = (112, 112)


def main() -> None:
    """Encode all photos by every method, and print the ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("pairs", nargs="+", metavar="QUERY=MATCH[,MATCH]")
    arguments = parser.parse_args()
    pairs = {query: matches.split(",") for query, matches in (pair.split("=") for pair in arguments.pairs)}
    names, database = load(arguments.photos / "database")
    query_names, queries = load(arguments.photos / "queries")
    wanted = [[names.index(match) for match in pairs[query]] for query in query_names]
    print(f"| rank among {len(names)} | " + " | ".join(query_names) + " |\n" + "| --- " * (1 + len(query_names)) + "|")
    for name, encode in METHODS.items():
        print(f"| {name} | " + " | ".join(str(rank) for rank in ranks(encode, database, queries, wanted)) + " |")


def load(folder: Path) -> tuple[list[str], Photos]:
    """Read the photos of a folder; return their names without endings, and pixels."""
    paths = find_photos(folder)
    resized = [open_photo(path).convert("RGB").resize(_SIZE, Image.Resampling.BICUBIC) for path in paths]
    return [path.stem for path in paths], np.stack([np.asarray(photo) for photo in resized])


def ranks(encode: Encode, database: Photos, queries: Photos, wanted: list[list[int]]) -> list[int]:
    """Return, for each query, the rank of the first of its matches."""
    similarities = encode(queries) @ encode(database).T  # (Q, N)
    best = [row[matches].max() for row, matches in zip(similarities, wanted, strict=True)]
    return [1 + int((row > value).sum()) for row, value in zip(similarities, best, strict=True)]


if __name__ == "__main__":
    main()
