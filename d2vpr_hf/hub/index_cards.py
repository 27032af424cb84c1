"""Cards of indexes on the Hub: the data set's name, licence and files for the Hub, and its use for people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from huggingface_hub import DatasetCard, DatasetCardData
from numpy.typing import NDArray

from d2vpr_hf import __version__
from d2vpr_hf.hub.cards import CARD_MARK
from d2vpr_hf.hub.index_models import PublicModel
from d2vpr_hf.index import IndexSettings
from d2vpr_hf.index.hub import TABLE_FILES
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.pretrained.find_facts import find_facts

TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ title }}

A map for visual place recognition: {{ count }} {{ "place" if count == "1" else "places" }}, each with the descriptor of its
photo. The Python package d2vpr-hf finds the places that look most like another photo.

| | |
| --- | --- |
| places | {{ count }}, {{ positioned }} with a position |
| area | {{ area }} |
| model | {{ model }} |
{% if options %}| options of the model | {{ options }} |
{% endif %}{% if rights %}| rights of the model | {{ rights }} |
{% endif %}| fingerprint of the model | `{{ fingerprint }}` |
| descriptors | {{ descriptor_dim }} numbers, {{ dtype }}, compared by L2 distance |

## Use

```
d2vpr search {{ name }} photo.jpg
```

```python
from d2vpr_hf import PlaceEncoder, PlaceIndex, search_photos

index = PlaceIndex.from_pretrained("{{ name }}")
results = search_photos(index, ["photo.jpg"], PlaceEncoder.for_index(index))
```

The places are a table too, in the order of the descriptors:

```python
from datasets import load_dataset

places = load_dataset("{{ name }}", split="train")
```

## Contents

The positions of all places are public here, and so are the names of their photos, the times and headings that are known, and
the hashes of the photos' files. {{ photos }}

`manifest.json`, `descriptors-*.safetensors` and `places-*.parquet` are the index; `data/` is the table.
"""

_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"), (1e8, "10M<n<100M"))


@dataclass(frozen=True)
class IndexFacts:
    """Facts for the card of an index.

    Attributes:
        name: The data set, such as `"user/name"`.
        settings: The settings of the index.
        model: Its model.
        places: The table of its places.
        license: The Hub's identifier of the licence of the data set, or `None`.
        thumbnails: Number of photos that come as thumbnails; `None` for an index without thumbnails.
    """

    name: str
    settings: IndexSettings
    model: PublicModel
    places: pa.Table
    license: str | None = None
    thumbnails: int | None = None


def make_index_card(facts: IndexFacts) -> str:
    """Return the text of a card."""
    title = facts.name.rpartition("/")[2]
    latitudes, longitudes = _numbers(facts.places, "latitude"), _numbers(facts.places, "longitude")
    positioned = ~np.all([np.isnan(_numbers(facts.places, name)) for name in ("latitude", "utm_east", "x")], axis=0)
    card: DatasetCard = DatasetCard.from_template(
        DatasetCardData(
            pretty_name=title,
            license=facts.license,
            task_categories=["image-feature-extraction"],
            tags=["visual-place-recognition", "image-retrieval", "geo-localization", "d2vpr"],
            size_categories=[_size_category(facts.places.num_rows)],
            configs=[{"config_name": "default", "data_files": [{"split": "train", "path": TABLE_FILES}]}],
        ),
        template_str=TEMPLATE,
        mark=CARD_MARK,
        title=title,
        name=facts.name,
        count=f"{facts.places.num_rows:,}",
        positioned=f"{positioned.sum():,}",
        area=_area(latitudes, longitudes),
        model=_model_text(facts.model),
        options=", ".join(f"{name} {value}" for name, value in facts.settings.model_options.items()),
        rights=_rights_text(facts),
        fingerprint=facts.settings.fingerprint,
        descriptor_dim=facts.settings.descriptor_dim,
        dtype=facts.settings.dtype,
        photos=_photos_text(facts.thumbnails),
    )
    return str(card)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column of numbers (N,); NaN for values that are not known."""
    return table.column(name).to_numpy().astype(np.float64)


def _area(latitudes: NDArray[np.float64], longitudes: NDArray[np.float64]) -> str:
    """Return the box of all positions in degrees, rounded to about a kilometre."""
    has_position = ~(np.isnan(latitudes) | np.isnan(longitudes))
    if not has_position.any():
        return "not known in degrees"
    south, north = latitudes[has_position].min(), latitudes[has_position].max()
    west, east = longitudes[has_position].min(), longitudes[has_position].max()
    return f"latitude {south:.2f} to {north:.2f}, longitude {west:.2f} to {east:.2f}"


def _model_text(model: PublicModel) -> str:
    if model.name == EMBEDDED_NAME:
        return f"the small one in d2vpr-hf {__version__}"
    return f"[{model.name}](https://huggingface.co/{model.name}), commit `{model.revision}`"


def _rights_text(facts: IndexFacts) -> str | None:
    """Return the sentences about licence and training data of a model of others; `None` if they are not known here."""
    source = facts.settings.model_name if facts.settings.model_name != facts.model.name else None
    model = find_facts(facts.model.name, facts.model.revision) or find_facts(source)
    if model is None or facts.model.name == EMBEDDED_NAME:
        return None
    return model.rights if model.question is None else f"{model.rights} {model.question}"


def _photos_text(thumbnails: int | None) -> str:
    if thumbnails is None:
        return "The photos are not here."
    return f"The photos are not here, but thumbnails of {thumbnails:,} of them, in the column `image` of the table."


def _size_category(count: int) -> str:
    """Return the size in the Hub's words."""
    return next((name for limit, name in _SIZES if count < limit), "n>100M")
