"""Results of an evaluation in the form of the Hub's leaderboards: `.eval_results/*.yaml` in a model repository.

A data set is a benchmark if its repository has an `eval.yaml`, which lists tasks. A result belongs to one task.
"""

import logging
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from d2vpr_hf.evaluation import Evaluation
from d2vpr_hf.utils.bounded_files import parse_yaml
from d2vpr_hf.utils.confirmed_names import token_for

logger = logging.getLogger(__name__)

FOLDER = ".eval_results"
_TASK = re.compile(r"r(?:ecall)?[@_-]?(?:at)?[_-]?(\d+)", re.IGNORECASE)  # recall@1, recall_at_1, R@1


def benchmark_results(evaluation: Evaluation, model: str, token: str | None = None) -> dict[str, bytes]:
    """Return the file of an evaluation's results by its path in the model repository.

    It is empty unless database and queries are of one data set on the Hub that is a benchmark with tasks such as `recall@1`.

    Args:
        evaluation: The evaluation. Recall is written in percent.
        model: Hub id of the model, whose `validation.json` is the source.
        token: Access token; it is sent only for a data set that the user named ([`token_for`]), because an evaluation may be
            from elsewhere.
    """
    dataset, revision = evaluation.dataset or (None, None)
    if dataset is None:
        return {}
    recalls = {number: recall["recall"] for number, recall in _recalls(evaluation).items()}
    tasks = {task: _TASK.fullmatch(task) for task in _read_tasks(dataset, revision, token)}
    entries = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=round(100 * recalls[int(match[1])], 2),
            dataset_revision=revision,
            source_url=f"https://huggingface.co/{model}/blob/main/validation.json",
            source_name="Evaluation by d2vpr-hf",
            notes=f"correct: {evaluation.criterion}",
        )
        for task, match in tasks.items()
        if match is not None and int(match[1]) in recalls
    ]
    if not entries:
        return {}
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return {f"{FOLDER}/{dataset.replace('/', '--')}.yaml": text.encode()}


def _recalls(evaluation: Evaluation) -> dict[int, dict[str, Any]]:
    return {int(name.partition("@")[2]): entry for name, entry in evaluation.recall().items()}


def _read_tasks(dataset: str, revision: str | None, token: str | None) -> list[str]:
    """Return the tasks of a benchmark; none if the data set is not a benchmark, or cannot be read."""
    try:
        path = hf_hub_download(
            dataset, "eval.yaml", repo_type="dataset", revision=revision, token=token_for("datasets", dataset, token)
        )
    except EntryNotFoundError:
        return []
    except (HfHubHTTPError, OSError) as error:
        logger.warning("The Hub gave no eval.yaml of %s, so that no results are written for leaderboards: %s", dataset, error)
        return []
    tasks = (parse_yaml(Path(path).read_text(encoding="utf-8")) or {}).get("tasks") or []
    return [str(task.get("id")) for task in tasks]
