"""Make the pages of the Python reference for the documentation: the public names of the package, by room."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TITLES = {  # rooms in the order of the pages
    "encoders": "Encoders",
    "model_info": "Known models",
    "index": "Indexes",
    "places": "Places",
    "readers": "Readers of photos and positions",
    "retrieval": "Indexing and searching",
    "stores": "Vector stores",
    "localization": "Localization",
    "evaluation": "Evaluation",
    "modeling": "Models of transformers",
    "pretrained": "Opening models and teachers",
    "convert": "Conversion of weights",
    "gridtown": "Gridtown",
}
_OTHER = "Files of models"  # functions of modules without a room, such as `fit_projection`


def public_names() -> dict[str, list[str]]:
    """Return the public names of the package by the title of their room."""
    tree = ast.parse((ROOT / "d2vpr_hf" / "__init__.pyi").read_text(encoding="utf-8"))
    titles: dict[str, list[str]] = {title: [] for title in (*_TITLES.values(), _OTHER)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            room = node.module.split(".")[1]
            title = _TITLES.get(room) or (_OTHER if (ROOT / "d2vpr_hf" / f"{room}.py").exists() else _new_title(room))
            titles.setdefault(title, []).extend(alias.name for alias in node.names)
    return {title: names for title, names in titles.items() if names}


def _new_title(room: str) -> str:
    """Return a title for a room that the table of titles lacks."""
    return room.replace("_", " ").capitalize()


def reference_pages() -> dict[str, str]:
    """Return the text of each page by its path in the documentation, the overview first."""
    overview = [
        "# Python\n",
        "*Made from the docstrings when the documentation is built.* All names here are imported from `d2vpr_hf`; each loads",
        "its module when it is first used. Other modules are not public, except those that other pages name.\n",
        "| subject | names |",
        "| --- | --- |",
    ]
    pages = {"python/index.md": ""}
    for title, names in public_names().items():
        path = f"{title.lower().replace(' ', '-')}.md"
        overview.append(f"| [{title}]({path}) | {', '.join(f'[`{name}`][d2vpr_hf.{name}]' for name in names)} |")
        sections = [f"# {title}\n"]
        sections += [f"::: d2vpr_hf.{name}\n" for name in names]
        pages[f"python/{path}"] = "\n".join(sections)
    return pages | {"python/index.md": "\n".join(overview) + "\n"}
