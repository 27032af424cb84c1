"""Cards of exported graphs: a template for graphs that this package runs, and one for transformers.js."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.backends.formats.transformers_js import DTYPES, TransformersJsFormat
from d2vpr_hf.hub.cards import CARD_MARK, citation_of, is_replaceable, license_metadata
from d2vpr_hf.hub.model_cards import METHODS, PLACEHOLDER, TAGS, stated_base_model
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_entry import ENCODER_KEY, EncoderEntry
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.pretrained.stated_facts import find_card, stated_license
from d2vpr_hf.utils.bounded_files import parse_json

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
{% if citation %}
## Citation

{{ citation }}
{% endif %}"""

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
- `config.json` names a class of the library that runs a graph from `pixel_values`{{ network_remark }}.
- Made from {{ source }} by `d2vpr export --format transformers-js`, whose descriptors these are.

## Licence

{{ license_note }}
{% if citation %}
## Citation

{{ citation }}
{% endif %}"""

_LIBRARIES = {TransformersJsFormat.name: "transformers.js", "executorch-portable": "executorch"}  # the Hub's words


def make_graph_card(exported: ExportedModel) -> ModelCard:
    """Fill the card of an exported graph. It names the model by its Hub id, or by the last name of its folder."""
    info, facts = exported.info, _facts(exported)
    model_type = _model_type(exported)
    source, method = info.get("model"), METHODS.get(model_type or "")
    base_model = None if source in (None, EMBEDDED_NAME) else stated_base_model(source)
    license_name = _license(source) or facts.license
    is_for_js = isinstance(exported.format, TransformersJsFormat)
    card: ModelCard = ModelCard.from_template(
        ModelCardData(
            library_name=_LIBRARIES.get(info["format"], info["format"]),
            pipeline_tag="image-feature-extraction",
            base_model=base_model,
            base_model_relation=None if base_model is None else "quantized",  # the Hub's word for graphs too
            tags=[*TAGS, *([] if model_type is None else [model_type])],
            **license_metadata(license_name, base_model),  # type: ignore[arg-type] # all are texts
        ),
        template_str=_TRANSFORMERS_JS_TEMPLATE if is_for_js else _TEMPLATE,
        mark=CARD_MARK,
        name=PLACEHOLDER,
        title=facts.title if method is None else method.title,
        citation=citation_of(facts.arxiv) if method is None else f"```bibtex\n{method.citation}\n```",
        network_remark=". The network is not a plain DINOv2" if model_type != "dinov2" else "; it ends in the pooling",
        format=info["format"],
        precision=info["precision"],
        input=info.get("input", "fixed"),
        source=_source_text(source),
        difference=f"{info['relative_difference']:.1e}" if "relative_difference" in info else "an unknown share",
        descriptor_dim=_descriptor_dim(exported),
        fingerprint=info.get("fingerprint", "not recorded"),
        license_note=_license_text(source, license_name, facts),
        runs_here=bool(exported.format.backends),
        untrained_parts=facts.untrained_parts,
        untrained_remark=f"**Not trained yet**: {', '.join(facts.untrained_parts)} were drawn at random and never trained. "
        "Places found with it are random.",
        **_words_of_transformers_js(exported) if is_for_js else {},
    )
    return card


def _facts(exported: ExportedModel) -> ModelFacts:
    """Return the facts of the model that was exported; an export of an earlier version has them in its configuration."""
    if ENCODER_KEY in exported.info:
        return EncoderEntry.from_dict(exported.info[ENCODER_KEY]).facts
    config = exported.config()
    return ModelFacts(METHODS[config.model_type].title, untrained_parts=tuple(config.untrained_parts))


def _descriptor_dim(exported: ExportedModel) -> int:
    entry = exported.info.get(ENCODER_KEY)
    return exported.config().descriptor_dim if entry is None else int(entry["descriptor_dim"])


def _model_type(exported: ExportedModel) -> str | None:
    """Return the type in the configuration of the model that was exported; `None` for a model without a configuration."""
    path = exported.folder / exported.format.config_file
    if not path.is_file():
        return None
    model_type = parse_json(path.read_text(encoding="utf-8")).get("model_type")
    return None if model_type is None else str(model_type)


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
    card = find_card(source) if source is not None and Path(source).is_dir() else None
    return None if card is None else stated_license(card)


def _license_text(source: str | None, license_name: str | None, facts: ModelFacts) -> str:
    """Return the sentences about the licence, and about training data that may restrict the use of the weights."""
    if source == EMBEDDED_NAME:
        return "Apache-2.0, code and weights."
    sentence = f"The licence of the model that it was made of{'' if license_name is None else f': `{license_name}`'}."
    data = None if facts.training_data is None else f"Its weights were trained on {facts.training_data.rstrip('.')}."
    return " ".join(text for text in (sentence, data, facts.question) if text is not None)
