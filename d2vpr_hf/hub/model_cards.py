"""Model cards: a template, filled from the configuration and facts about the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from d2vpr_hf.hub.cards import CARD_MARK, is_replaceable
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig, D2VPRImageProcessor, VPRPreTrainedModel

if TYPE_CHECKING:
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

folder = "path/or/hub-id"
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.inference_mode():
    descriptor = model(**processor(Image.open("photo.jpg"), return_tensors="pt")).pooler_output
```

With the package: `d2vpr index PHOTOS --model path/or/hub-id --out INDEX`, then `d2vpr search INDEX QUERY.jpg`.

## Limits

{% if batch_dependent %}A descriptor depends on the other photos of its batch: a photo that is encoded alone, as above, has
another descriptor than in a batch. Encode database and queries in batches of one size.

{% endif %}{% if untrained_parts %}**Not trained yet**: {{ untrained_parts }} were drawn at random and never trained. Places
that are found with this model are random; train it first.

{% endif %}A match is the known photo that looks most like yours, even if yours was taken somewhere else.{%
if not measured %} No number
on this page was measured with this copy of the weights.{% endif %}

{% if measured %}## Measured

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
        license: The Hub's identifier of their licence; `"other"` needs `license_name`; `None` if no licence was chosen yet.
        license_note: The licence in a sentence.
        training_data: Their training data.
        base_model: Hub id of the model they started from, or `None`.
        license_name: Name of a licence that the Hub has no identifier for.
    """

    summary: str
    license: str | None
    license_note: str
    training_data: str
    base_model: str | None = None
    license_name: str | None = None


def write_card(
    folder: Path,
    model: VPRPreTrainedModel,
    facts: CardFacts,
    *,
    origin: str,
    measured: Evaluation | None = None,
    recipe: str | None = None,
) -> None:
    """Write `README.md` into a model folder, unless there is one without the mark of this package: a person wrote it.

    Args:
        folder: The model folder, with an image processor.
        model: The model.
        facts: Facts that are not in the model.
        origin: The source of the weights.
        measured: An evaluation of the model; `None` if it was not evaluated.
        recipe: The options of its training, as YAML; `None` if it was not trained here.
    """
    path = folder / "README.md"
    if not path.exists() or is_replaceable(path.read_text(encoding="utf-8", errors="replace")):
        size = D2VPRImageProcessor.from_pretrained(folder).size
        make_card(model, facts, origin, (size["height"], size["width"]), measured, recipe).save(path)


def make_card(
    model: VPRPreTrainedModel,
    facts: CardFacts,
    origin: str,
    size: tuple[int, int],
    measured: Evaluation | None = None,
    recipe: str | None = None,
) -> ModelCard:
    """Fill the card's template; arguments as for [`write_card`], and the height and width that photos are resized to."""
    config, method = model.config, METHODS[model.config.model_type]
    return ModelCard.from_template(
        _metadata(config.model_type, facts, measured),
        template_str=_TEMPLATE,
        mark=CARD_MARK,
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
    )


def _metadata(model_type: str, facts: CardFacts, measured: Evaluation | None) -> ModelCardData:
    """Return the block at the head of a card that the Hub reads."""
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        base_model=facts.base_model,
        license=facts.license,
        license_name=facts.license_name,
        tags=["visual-place-recognition", "image-retrieval", "geo-localization", model_type],
        model_name=None if measured is None else METHODS[model_type].title,
        eval_results=None if measured is None else _results(measured),
    )


def _results(measured: Evaluation) -> list[EvalResult]:
    name = Path(str(measured.query_set["path"])).name
    return [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="Visual place recognition",
            dataset_type=name,
            dataset_name=name,
            metric_type=metric,
            metric_name=metric.replace("recall", "Recall"),
            metric_value=round(100 * entry["recall"], 2),
        )
        for metric, entry in measured.recall().items()
    ]


def _table(measured: Evaluation) -> dict[str, Any]:
    """Return the values of the table of recalls."""
    from d2vpr_hf.evaluation.report import percent, percent_interval  # imported here: evaluation/ imports this module

    recalls = measured.recall()
    return {
        "database_count": measured.database["count"],
        "query_count": measured.query_set["count"],
        "rule": measured.rule,
        "names": " | ".join(name.replace("recall", "R") for name in recalls),
        "rules": " | ".join("---:" for _ in recalls),
        "recalls": " | ".join(percent(entry["recall"]) for entry in recalls.values()),
        "intervals": " | ".join(percent_interval(entry["interval_95"]) for entry in recalls.values()),
    }
