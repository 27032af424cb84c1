"""Model cards: a template, filled from the configuration and facts about the weights.

The Hub reads the block at their head. It names models and data sets by Hub ids only: it has results of an evaluation if their
photos are of a data set on the Hub, and otherwise only the card's table has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from d2vpr_hf.hub.cards import CARD_MARK, is_replaceable
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig, D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.utils.hub_ids import is_hub_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from d2vpr_hf.evaluation import Evaluation

_TEMPLATE = """---
{{ card_data }}
---

{{ mark }}

# {{ title }}

{{ summary }}

{{ title }} ([arXiv {{ arxiv }}](https://arxiv.org/abs/{{ arxiv }})) turns a photo into one descriptor, so that photos of the
same place lie close together: visual place recognition by nearest-neighbour search.

| | |
| --- | --- |
| parameters | {{ parameters }} M |
| descriptor | {{ descriptor_dim }} numbers, compared by L2 distance |
| input | RGB, {{ height }}×{{ width }} by default, any height and width that are multiples of {{ patch_size }} |
| cross-image encoder | {{ cross_image }} |
| trained on | {{ training_data }} |
| made from | {{ origin }} |

## Use

```python
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

name = "{{ name }}"
processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
with torch.inference_mode():
    descriptor = model(**processor(Image.open("photo.jpg"), return_tensors="pt")).pooler_output
```

With the package: `d2vpr index PHOTOS --model {{ name }} --out INDEX`, then `d2vpr search INDEX QUERY.jpg`.

## Limits

{% if batch_dependent %}A descriptor depends on the other photos of its batch: a photo that is encoded alone, as above, has
another descriptor than in a batch. Encode database and queries in batches of one size.

{% endif %}{% if untrained_parts %}**Not trained yet**: {{ untrained_parts }} were drawn at random and never trained. Places
that are found with this model are random; train it first.

{% endif %}{% if limits %}{{ limits }}

{% endif %}A match is the known photo that looks most like yours, even if yours was taken somewhere else.{%
if not measured and not sets %} No number
on this page was measured with this copy of the weights.{% endif %}

{% if sets %}## Measured on other photos

The model was neither trained on these places nor chosen by them.

| photos | queries | correct | R@1, % | 95 % interval |
| --- | ---: | --- | ---: | ---: |
{% for row in sets %}| {{ row.name }} | {{ row.queries }} | {{ row.rule }} | {{ row.recall }} | {{ row.interval }} |
{% endfor %}
{% endif %}{% if measured %}## Measured{% if sets %} in validation{% endif %}

Validation on {{ measured.database_count }} database photos and {{ measured.query_count }} queries.
Correct: {{ measured.rule }}. The best of several models was chosen by these numbers, so they are too high.
`validation.json` has the result of every query.

| | {{ measured.names }} |
| --- | {{ measured.rules }} |
| recall, % | {{ measured.recalls }} |
| 95 % interval | {{ measured.intervals }} |

{% endif %}{% if recipe %}## Training

```yaml
{{ recipe }}```

{% endif %}## Licence

{{ license_note }}

## Citation

```bibtex
{{ citation }}
```
"""


TAGS = ("visual-place-recognition", "image-retrieval", "geo-localization")
PLACEHOLDER = "path/or/hub-id"  # in cards of models that were not uploaded
# earlier versions wrote these names of licences, which no one can look up
_FORMER_LICENSES = ("as-the-source", "not-stated", "that-of-the-dinov2")


@dataclass(frozen=True)
class Method:
    """Facts about a method, independent of the weights."""

    title: str
    arxiv: str
    citation: str


METHODS = {
    D2VPRConfig.model_type: Method(
        title="D²-VPR",
        arxiv="2511.12528",
        citation="""@article{d2vpr2025,
  author = {Zhang, Zheyuan and Zhang, Jiwei and Zhou, Boyu and Duan, Linzhimeng and Chen, Hong},
  title = {D²-VPR: A Parameter-efficient Visual-foundation-model-based Visual Place Recognition Method via Knowledge
           Distillation and Deformable Aggregation},
  journal = {arXiv preprint arXiv:2511.12528},
  year = {2025}
}""",
    ),
    CricaVPRConfig.model_type: Method(
        title="CricaVPR",
        arxiv="2402.19231",
        citation="""@inproceedings{cricavpr2024,
  author = {Lu, Feng and Lan, Xiangyuan and Zhang, Lijun and Jiang, Dongmei and Wang, Yaowei and Yuan, Chun},
  title = {CricaVPR: Cross-image Correlation-aware Representation Learning for Visual Place Recognition},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024}
}""",
    ),
}


@dataclass(frozen=True)
class CardFacts:
    """Facts for a card that are not in the model.

    Attributes:
        summary: A sentence about these weights.
        license: The Hub's identifier of their licence, `"unknown"` if none is stated; `None` if no licence was chosen yet.
        license_note: The licence in a sentence.
        training_data: Their training data.
        base_model: Hub id of the model they started from, or `None`.
        datasets: Hub ids of data sets that they were trained on.
        limits: Sentences about photos for which these weights fail; empty for none.
    """

    summary: str
    license: str | None
    license_note: str
    training_data: str
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    limits: str = ""


def write_card(
    folder: Path,
    model: VPRPreTrainedModel,
    facts: CardFacts,
    *,
    origin: str,
    measured: Evaluation | None = None,
    recipe: str | None = None,
    sets: Mapping[str, Evaluation] | None = None,
) -> None:
    """Write `README.md` into a model folder, unless there is one without the mark of this package: a person wrote it.

    Args:
        folder: The model folder, with an image processor.
        model: The model.
        facts: Facts that are not in the model.
        origin: The source of the weights.
        measured: An evaluation of the model; `None` if it was not evaluated.
        recipe: The options of its training, as YAML; `None` if it was not trained here.
        sets: Evaluations by names of photos that the model was neither trained on nor chosen by.
    """
    path = folder / "README.md"
    if not path.exists() or is_replaceable(path.read_text(encoding="utf-8", errors="replace")):
        size = D2VPRImageProcessor.from_pretrained(folder).size
        make_card(model, facts, origin, (size["height"], size["width"]), measured, recipe, sets).save(path)


def make_card(
    model: VPRPreTrainedModel,
    facts: CardFacts,
    origin: str,
    size: tuple[int, int],
    measured: Evaluation | None = None,
    recipe: str | None = None,
    sets: Mapping[str, Evaluation] | None = None,
) -> ModelCard:
    """Fill the card's template; arguments as for [`write_card`], and the height and width that photos are resized to."""
    config, method = model.config, METHODS[model.config.model_type]
    card: ModelCard = ModelCard.from_template(
        _metadata(config.model_type, facts, measured),
        template_str=_TEMPLATE,
        mark=CARD_MARK,
        name=PLACEHOLDER,
        title=method.title,
        arxiv=method.arxiv,
        citation=method.citation,
        summary=facts.summary,
        parameters=f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f}",
        descriptor_dim=config.descriptor_dim,
        height=size[0],
        width=size[1],
        patch_size=config.patch_size,
        cross_image="yes: descriptors depend on their batch" if config.use_cross_image_encoder else "no",
        batch_dependent=config.use_cross_image_encoder,
        untrained_parts=", ".join(config.untrained_parts),
        training_data=facts.training_data,
        origin=origin,
        license_note=facts.license_note,
        measured=None if measured is None else _table(measured),
        recipe=recipe,
        limits=facts.limits,
        sets=[_set_row(name, evaluation) for name, evaluation in (sets or {}).items()],
    )
    return card


def set_license(text: str, license_id: str) -> str:
    """Set the licence of a card.

    Raises:
        ValueError: If a person wrote the card, and it has another licence or none.
    """
    card = _parse(text)
    if card.data.get("license") == license_id:
        return text
    if not is_replaceable(text):
        raise ValueError(
            f"README.md was written by a person and has the licence {card.data.get('license')}. Write `license: {license_id}` "
            f"into its head, and leave `license` out."
        )
    card.data["license"] = license_id
    card.data["license_name"] = card.data["license_link"] = None
    note = f"\\1`{license_id}`, as the person who uploaded the model stated. The code in this repository is Apache-2.0."
    card.text = re.sub(r"(## Licence\n\n).*?(?=\n\n## |\Z)", note, card.text, flags=re.DOTALL)
    return _with_head(card)


def complete_card(text: str, name: str) -> str:
    """Return a card for a model that is uploaded, after checking that its head names models and data sets by Hub ids.

    A card that this package wrote gets the model's Hub id, and a head of the present version. Another card stays unchanged.

    Args:
        text: The card.
        name: Hub id of the model.

    Raises:
        ValueError: If the head cannot be read, or names a folder of this machine.
    """
    card = _parse(text)
    if is_replaceable(text):
        text = re.sub(r'^(folder|name) = "[^"]*"$', rf'\1 = "{name}"', card.text, flags=re.MULTILINE)
        text = re.sub(r"(d2vpr index PHOTOS --model) \S+", rf"\1 {name}", text)
        card.text = text.replace("USER/NAME", name)
        data: Any = card.data
        data.eval_results = [result for result in data.eval_results or [] if "/" in result.dataset_type] or None
        data.model_name = data.model_name if data.eval_results else None
        if data.get("license_name") in _FORMER_LICENSES and not data.get("license_link"):
            data.license = "unknown"
            data.license_name = None
        text = _with_head(card)
    _check_ids(card)
    return text


def stated_base_model(folder: str | Path) -> str | None:
    """Return the Hub id of the model that a model's weights come from.

    That is the model itself if it is on the Hub, and otherwise the base model in the card of its folder.
    """
    path = Path(folder) / "README.md"
    if not Path(folder).exists():
        return str(folder) if is_hub_id(str(folder)) else None
    if not path.is_file():
        return None
    base = _parse(path.read_text(encoding="utf-8", errors="replace")).data.get("base_model")
    return base if isinstance(base, str) and is_hub_id(base, needs_user=False) else None


def _with_head(card: ModelCard) -> str:
    """Return a card with a head of its present metadata."""
    return f"---\n{card.data.to_yaml()}\n---\n{card.text}"


def _parse(text: str) -> ModelCard:
    try:
        return ModelCard(text if REGEX_YAML_BLOCK.match(text) else f"---\n{{}}\n---\n{text}")  # it warns of a missing head
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"The head of README.md, between its lines of three hyphens, cannot be read: {error}") from error


def _check_ids(card: ModelCard) -> None:
    """Raise ValueError if the head of a card names a model or a data set otherwise than by a Hub id."""
    for key in ("base_model", "datasets"):
        value = card.data.get(key) or []
        for name in value if isinstance(value, list) else [value]:
            if not is_hub_id(str(name), needs_user=False) or Path(str(name)).exists():
                raise ValueError(f"`{key}` in README.md must be Hub ids such as user/name, got {name!r}.")


def _metadata(model_type: str, facts: CardFacts, measured: Evaluation | None) -> ModelCardData:
    """Return the block at the head of a card that the Hub reads."""
    results = [] if measured is None else _results(measured)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        base_model=facts.base_model,
        base_model_relation=None if facts.base_model is None else "finetune",
        datasets=list(facts.datasets) or None,
        license=facts.license,
        tags=[*TAGS, model_type],
        model_name=METHODS[model_type].title if results else None,
        eval_results=results or None,
    )


def _results(measured: Evaluation) -> list[EvalResult]:
    """Return the results for the head of a card; none if the photos are not of a data set on the Hub."""
    if measured.dataset is None:
        return []
    name, revision = measured.dataset
    return [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="Visual place recognition",
            dataset_type=name,
            dataset_name=name,
            dataset_revision=revision,
            metric_type=metric,
            metric_name=metric.replace("recall", "Recall"),
            metric_value=round(100 * entry["recall"], 2),
        )
        for metric, entry in measured.recall().items()
    ]


def _set_row(name: str, evaluation: Evaluation) -> dict[str, Any]:
    """Return the values of a line of the table of sets."""
    from d2vpr_hf.evaluation.report import percent, percent_interval  # imported here: evaluation/ imports this module

    recall = evaluation.recall()["recall@1"]
    return {
        "name": name,
        "queries": evaluation.query_set["count"],
        "rule": evaluation.criterion,
        "recall": percent(recall["recall"]),
        "interval": percent_interval(recall["interval_95"]),
    }


def _table(measured: Evaluation) -> dict[str, Any]:
    """Return the values of the table of recalls."""
    from d2vpr_hf.evaluation.report import percent, percent_interval  # imported here: evaluation/ imports this module

    recalls = measured.recall()
    return {
        "database_count": measured.database["count"],
        "query_count": measured.query_set["count"],
        "rule": measured.criterion,
        "names": " | ".join(name.replace("recall", "R") for name in recalls),
        "rules": " | ".join("---:" for _ in recalls),
        "recalls": " | ".join(percent(entry["recall"]) for entry in recalls.values()),
        "intervals": " | ".join(percent_interval(entry["interval_95"]) for entry in recalls.values()),
    }
