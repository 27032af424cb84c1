"""The published variants of data sets, by their numbers of photos: two variants of a set must never be mixed up.

Counts are those of the data sets' papers and of the scripts that write them: VPR-datasets-downloader, gsv-cities, VPR-Bench,
mapillary_sls and AnyLoc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PARTS = 5  # folders of a path that may name the data set
_DATA_FOLDERS = re.compile(r"images|test|val|train|processed|database|gallery|raw_data|data|datasets?|train_val", re.IGNORECASE)


@dataclass(frozen=True)
class Variant:
    """A published variant of a data set.

    Attributes:
        family: Name of the data set: `"nordland"`.
        title: Name of the variant.
        database: Number of its database photos.
        queries: Number of its queries.
        rule: Rule of its positives where variants differ in it, else empty.
    """

    family: str
    title: str
    database: int
    queries: int
    rule: str = ""


VARIANTS: tuple[Variant, ...] = (
    Variant("pitts30k", "Pitts30k test", 10_000, 6_816),
    Variant("pitts30k", "Pitts30k val", 10_000, 7_608),
    Variant("pitts30k", "Pitts30k train", 10_000, 7_416),
    Variant("pitts250k", "Pitts250k test", 83_952, 8_280),
    Variant("pitts250k", "Pitts250k val", 78_648, 7_608),
    Variant("pitts250k", "Pitts250k train", 91_464, 7_824),
    Variant("msls", "MSLS val, official", 18_871, 740),
    Variant("msls", "MSLS val, all queries", 18_871, 11_084),
    Variant("msls", "MSLS test (challenge)", 38_770, 27_092),
    Variant("nordland", "Nordland, every frame", 27_592, 27_592, "±10 frames"),
    Variant("nordland", "Nordland, every tenth query", 27_592, 2_760, "±1 frame"),
    Variant("tokyo247", "Tokyo 24/7", 75_984, 315),
    Variant("tokyo247", "Tokyo 24/7, all queries", 75_984, 1_125),
    Variant("sf-xl", "SF-XL test v1", 2_805_840, 1_000),
    Variant("sf-xl", "SF-XL test v2", 2_805_840, 598),
    Variant("sf-xl", "SF-XL night", 2_805_840, 466),
    Variant("sf-xl", "SF-XL occlusion", 2_805_840, 76),
    Variant("sf-xl", "SF-XL val", 8_015, 7_993),
    Variant("sf-xs", "SF-XS test", 27_191, 1_000),
    Variant("svox", "SVOX", 17_166, 14_278),
    Variant("svox", "SVOX night", 17_166, 823),
    Variant("svox", "SVOX overcast", 17_166, 872),
    Variant("svox", "SVOX rain", 17_166, 937),
    Variant("svox", "SVOX snow", 17_166, 870),
    Variant("svox", "SVOX sun", 17_166, 854),
    Variant("amstertime", "AmsterTime", 1_231, 1_231),
    Variant("sped", "SPED", 607, 607),
    Variant("st-lucia", "St Lucia", 1_549, 1_464),
    Variant("eynsham", "Eynsham", 23_935, 23_935),
    Variant("baidu", "Baidu Mall", 689, 2_292),
    Variant("gardens-point", "Gardens Point", 200, 200),
    Variant("essex3in1", "ESSEX3IN1", 210, 210),
    Variant("cross-season", "Cross-Season", 191, 191),
)
_NAMES = {  # of the folders of a data set, without separators
    "pitts30k": r"pitts?(burgh)?30k",
    "pitts250k": r"pitts?(burgh)?250k",
    "msls": r"msls|mapillary(sls)?",
    "nordland": r"nordland",
    "tokyo247": r"tokyo(247|xs)",
    "sf-xl": r"sfx[lsm]|sanfranciscoxl",
    "svox": r"svox",
    "amstertime": r"amstertime",
    "sped": r"sped",
    "st-lucia": r"(st|saint)lucia",
    "eynsham": r"ey[n]?sham",
    "baidu": r"baidu",
    "gardens-point": r"gardens?points?",
    "essex3in1": r"essex(3in1)?",
    "cross-season": r"crossseasons?",
}
_PATTERNS = {family: re.compile(pattern) for family, pattern in _NAMES.items()}


def find_family(root: Path, counts: Sequence[tuple[int, int]] = ()) -> str | None:
    """Return the name of a data set, from its folders' names or else from its numbers of photos; `None` if it is unknown.

    Args:
        root: The folder of the data set.
        counts: Numbers of database photos and queries of the query sets.
    """
    for part in reversed(root.absolute().parts[-_PARTS:]):
        plain = re.sub(r"[^a-z0-9]", "", part.lower())
        for family, pattern in _PATTERNS.items():
            if pattern.match(plain):
                return family
    families = {variant.family for variant in VARIANTS if (variant.database, variant.queries) in counts}
    return families.pop() if len(families) == 1 else None


def data_set_name(root: Path) -> str:
    """Return the name of the folder of a data set, without the folders that every data set has."""
    for part in reversed(root.absolute().parts):
        if not _DATA_FOLDERS.fullmatch(part):
            return part
    return root.name


def variant_name(root: Path, database: int, queries: Mapping[str, int], rule: str = "", family: str | None = None) -> str:
    """Return the name of a data set's variant with its counts.

    Args:
        root: The folder of the data set, which names it if no variant has its counts.
        database: Number of its database photos.
        queries: Number of the queries of each query set.
        rule: Rule of the positives, such as `"±10 frames"`; empty for the usual one.
        family: Name of the data set, if its form tells it; `None` to find it by names and counts.
    """
    family = family or find_family(root, [(database, count) for count in queries.values()])
    names = []
    for query_set, count in queries.items():
        title = _published_title(family, database, count, rule)
        counted = f"{count:,} {query_set if len(queries) > 1 else 'queries'}"
        names.append(f"{title}, {counted}" if title else counted)
    tail = f"{database:,} database photos" + (f", {rule}" if rule else "")
    if any(_published_title(family, database, count, rule) for count in queries.values()):
        return f"{'; '.join(names)}; {tail}"
    return f"{data_set_name(root)}: {'; '.join(names)}; {tail} (no published variant)"


def _published_title(family: str | None, database: int, queries: int, rule: str) -> str:
    for variant in VARIANTS:
        if variant.family != family or (variant.database, variant.queries) != (database, queries):
            continue
        if not rule or not variant.rule or variant.rule == rule:
            return variant.title
    return ""
