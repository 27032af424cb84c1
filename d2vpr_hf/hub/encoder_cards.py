"""Cards of folders that hold a model of another library with `encoder.json`: rights and use."""

from huggingface_hub import ModelCard, ModelCardData

from d2vpr_hf.hub.cards import CARD_MARK, citation_of, license_metadata
from d2vpr_hf.hub.model_cards import PLACEHOLDER, TAGS
from d2vpr_hf.model_info.encoder_card import EncoderCard
from d2vpr_hf.model_info.model_facts import ModelFacts

_TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ title }}, for d2vpr-hf

{{ summary }}

| | |
| --- | --- |
{% if parameters %}| parameters | {{ parameters }} M |
{% endif %}| descriptor | {{ descriptor_dim }} numbers, compared by L2 distance |
| input | RGB, {{ size }} |
{% if options %}| options | {{ options }} |
{% endif %}| descriptors depend on the batch | {{ depends_on_batch }} |
| trained on | {{ training_data }} |

## Use

```python
from d2vpr_hf import PlaceEncoder

name = "{{ name }}"
descriptors = PlaceEncoder(name).encode(["photo.jpg"]).descriptors
```

`d2vpr index PHOTOS --model {{ name }} --out INDEX`, then `d2vpr search INDEX QUERY.jpg`. The file `encoder.json` has the
preprocessing and the way to compute descriptors.

## Licence

{{ license_note }}
{% if citation %}
## Citation

{{ citation }}
{% endif %}"""


def make_encoder_card(card: EncoderCard, summary: str, base_model: str | None = None) -> ModelCard:
    """Fill the card of a folder with `encoder.json`.

    Args:
        card: The content of `encoder.json`.
        summary: A sentence about the files.
        base_model: Hub id of the model whose weights these are, or `None`.
    """
    facts, size = card.facts, card.preprocessing.input_size
    model_card: ModelCard = ModelCard.from_template(
        ModelCardData(
            library_name="onnx" if card.graph is not None else "transformers",
            pipeline_tag="image-feature-extraction",
            base_model=base_model,
            base_model_relation=None if base_model is None else "finetune",
            tags=list(TAGS),
            **license_metadata(facts.license, base_model),  # type: ignore[arg-type] # all are texts
        ),
        template_str=_TEMPLATE,
        mark=CARD_MARK,
        name=PLACEHOLDER,
        title=facts.title,
        summary=summary,
        parameters=None if facts.num_parameters is None else f"{facts.num_parameters / 1e6:.1f}",
        descriptor_dim=card.descriptor_dim,
        size="of the shape of the photo" if size is None else f"{size[0]}×{size[1]}",
        options=", ".join(f"{name} {value}" for name, value in card.model_options.items()),
        depends_on_batch="yes" if card.depends_on_batch else "no",
        training_data=facts.training_data or "not recorded",
        license_note=license_text(facts),
        citation=citation_of(facts.arxiv),
    )
    return model_card


def license_text(facts: ModelFacts) -> str:
    """Return the sentences of a card about the licence of weights of other people, and about what may restrict their use."""
    licence = "none is stated" if facts.license is None else f"`{facts.license}`"
    sentence = f"The weights are those of {facts.title}; their licence: {licence}. The licence of d2vpr-hf does not cover them."
    return sentence if facts.question is None else f"{sentence} {facts.question}"
