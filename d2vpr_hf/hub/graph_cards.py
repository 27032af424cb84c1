"""Cards of exported graphs: a template for graphs that this package runs, and one for transformers.js."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.backends.formats.transformers_js import DTYPES, TransformersJsFormat
from d2vpr_hf.hub.cards import CARD_MARK, is_replaceable
from d2vpr_hf.hub.model_cards import METHODS, PLACEHOLDER, TAGS, stated_base_model, stated_license
from d2vpr_hf.pretrained.embedded_model import EMBEDDED_NAME

_TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ title }}, as a graph

A graph in the format {{ format }}, precision {{ precision }}, made of {{ source }} by `d2vpr export`.
{% if runs_here %}Its descriptors differed from the model's by {{ difference }} of their norm when it was made.{%
else %}It was not run then.{% endif %}

{% if untrained_parts %}{{ untrained_remark }}

{% endif %}| | |
| --- | --- |
| descriptor | {{ descriptor_dim }} numbers, compared by L2 distance |
| input of the graph | {{ input }} |
| fingerprint of the model | `{{ fingerprint }}` |

{% if runs_here %}## Use

```python
from d2vpr_hf import PlaceEncoder

name = "{{ name }}"
descriptors = PlaceEncoder(name).encode(["photo.jpg"]).descriptors
```

An index that was made by the model can be searched with the graph, and the reverse: the fingerprint is the same.

{% endif %}## Licence

{{ license_note }}

## Citation

```bibtex
{{ citation }}
```
"""

_TRANSFORMERS_JS_TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ title }}, for transformers.js

Photos of the same place have descriptors that lie close together.

{% if untrained_parts %}{{ untrained_remark }}

{% endif %}```js
import { pipeline } from '@huggingface/transformers';

const describe = await pipeline('image-feature-extraction', 'USER/NAME'); // id of this folder on the Hub
// a path, URL, Blob or RawImage; gives a Tensor of [1, {{ descriptor_dim }}] numbers
const descriptor = await describe('photo.jpg');
```

From a folder on the disk, `models/my-d2vpr` here, without a network:

```js
import { env, pipeline } from '@huggingface/transformers';

env.allowRemoteModels = false;
env.localModelPath = 'models';
const describe = await pipeline('image-feature-extraction', 'my-d2vpr');
```

- A photo may have any size: it is resized in the graph, not by the library.
- Call `describe` once for each photo. The library stacks the photos of one call without comparing their sizes: photos of
  different sizes in one call get wrong descriptors, often without an error.
- `{ pool: true }` gives the same descriptor.
- Weights: {{ dtypes }}. `pipeline(..., { dtype: 'fp32' })` selects them; the default is `{{ dtype }}`.
- `config.json` names a class of the library that runs a graph from `pixel_values`. The network is not a plain DINOv2.
- Made from {{ source }} by `d2vpr export --format transformers-js`, whose descriptors these are.

## Licence

{{ license_note }}

## Citation

```bibtex
{{ citation }}
```
"""

_LIBRARIES = {TransformersJsFormat.name: "transformers.js", "executorch-portable": "executorch"}  # the Hub's words


def make_graph_card(exported: ExportedModel) -> ModelCard:
    """Fill the card of an exported graph. It names the model by its Hub id, or by the last name of its folder."""
    info, config = exported.info, exported.config()
    source, license_id = info.get("model"), _license(info.get("model"))
    base_model = None if source in (None, EMBEDDED_NAME) else stated_base_model(source)
    is_for_js = isinstance(exported.format, TransformersJsFormat)
    card: ModelCard = ModelCard.from_template(
        ModelCardData(
            library_name=_LIBRARIES.get(info["format"], info["format"]),
            pipeline_tag="image-feature-extraction",
            base_model=base_model,
            base_model_relation=None if base_model is None else "quantized",  # the Hub's word for graphs too
            license=license_id,
            tags=[*TAGS, config.model_type],
        ),
        template_str=_TRANSFORMERS_JS_TEMPLATE if is_for_js else _TEMPLATE,
        mark=CARD_MARK,
        name=PLACEHOLDER,
        title=METHODS[config.model_type].title,
        citation=METHODS[config.model_type].citation,
        format=info["format"],
        precision=info["precision"],
        input=info.get("input", "fixed"),
        source=_source_text(source),
        difference=f"{info['relative_difference']:.1e}" if "relative_difference" in info else "an unknown share",
        descriptor_dim=config.descriptor_dim,
        fingerprint=info.get("fingerprint", "not recorded"),
        license_note=_license_text(source, license_id),
        runs_here=bool(exported.format.backends),
        untrained_parts=config.untrained_parts,
        untrained_remark=f"**Not trained yet**: {', '.join(config.untrained_parts)} were drawn at random and never trained. "
        "Places found with it are random.",
        **_words_of_transformers_js(exported) if is_for_js else {},
    )
    return card


def renew_graph_card(card: str | None, exported: ExportedModel) -> str:
    """Return the card of a graph that is uploaded.

    The present card stays if a person wrote it, or if the folder of the model, whose card it was made from, is gone.
    """
    source = exported.info.get("model")
    is_gone = source is not None and Path(source).is_absolute() and not Path(source).exists()
    if card is not None and (is_gone or not is_replaceable(card)):
        return card
    return str(make_graph_card(exported))


def _words_of_transformers_js(exported: ExportedModel) -> dict[str, Any]:
    precision = exported.info["precision"]
    dtypes = ", ".join(f"`{DTYPES[kind]}`" for kind in exported.format.graphs(precision))
    return {"dtypes": dtypes, "dtype": DTYPES[precision]}


def _source_text(source: str | None) -> str:
    """Return the text that names a model; the path of a folder means nothing to readers of a card."""
    if source == EMBEDDED_NAME:
        return "the model that comes with d2vpr-hf"
    return "a model" if source is None else source if stated_base_model(source) == source else Path(source).name


def _license(source: str | None) -> str | None:
    """Return the licence of a graph by the Hub's identifier, as the card of its model states it; `None` if it does not."""
    if source == EMBEDDED_NAME:
        return "apache-2.0"
    card = Path(source or "") / "README.md"
    return stated_license(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() and source else None


def _license_text(source: str | None, license_id: str | None) -> str:
    if source == EMBEDDED_NAME:
        return "Apache-2.0, code and weights."
    return f"The licence of the model that it was made of{'' if license_id is None else f': `{license_id}`'}."
