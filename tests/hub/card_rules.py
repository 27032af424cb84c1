"""The Hub's rules for the head of a model card, as its documentation states them."""

import re

import huggingface_hub

# of the identifiers in the Hub's list of licences, those that this package writes and a few usual ones
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-nd-4.0", "unknown", "other"}
RELATIONS = {"adapter", "merge", "quantized", "finetune"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def card_problems(content):
    """Return the reasons for which the Hub would not accept, or not understand, the head of a card."""
    data = huggingface_hub.ModelCard(content).data.to_dict()
    problems = []

    def require(condition, text):
        if not condition:
            problems.append(text)

    license_id = data.get("license")
    require(license_id is None or license_id in LICENSES, f"license {license_id}")
    require(license_id != "other" or {"license_name", "license_link"} <= data.keys(), "license other without name and link")
    bases = data.get("base_model", [])
    for name in [bases] if isinstance(bases, str) else bases:
        require(HUB_ID.fullmatch(name), f"base_model {name}")
    require(data.get("base_model_relation", "finetune") in RELATIONS, "base_model_relation")
    require(("base_model_relation" in data) <= ("base_model" in data), "base_model_relation without base_model")
    for name in data.get("datasets", []):
        require(HUB_ID.fullmatch(name), f"datasets {name}")
    require(all(isinstance(tag, str) for tag in data.get("tags", [])), "tags")
    require(data.get("pipeline_tag") == "image-feature-extraction", "pipeline_tag")
    require(isinstance(data.get("library_name"), str), "library_name")
    for index in data.get("model-index", []):
        require(index.get("name"), "model-index without name")
        for result in index["results"]:
            require(result["task"]["type"], "task without type")
            require(result["dataset"]["name"] and HUB_ID.fullmatch(result["dataset"]["type"]), f"dataset {result['dataset']}")
            require(all(isinstance(metric["value"], float) and metric["type"] for metric in result["metrics"]), "metrics")
    return problems
