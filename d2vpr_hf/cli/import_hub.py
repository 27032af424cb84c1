"""The command that makes an encoder of a torch.hub model."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from d2vpr_hf.cli.models import parse_changes
from d2vpr_hf.cli.onnx_cards import CardOptions
from d2vpr_hf.cli.options import parse_path
from d2vpr_hf.cli.terminal import echo, notice


def import_hub(
    name: Annotated[
        str,
        typer.Argument(
            metavar="REPO@COMMIT:ENTRY",
            help="GitHub repository, full commit and function of its hubconf.py; or a name of `d2vpr models`, FOLDER:ENTRY, or "
            "FILE.zip:ENTRY.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", parser=parse_path, metavar="FOLDER", help="Folder to write, which --model takes.")
    ],
    *,
    card_options: CardOptions,
    i_trust_this_code: Annotated[
        bool, typer.Option("--i-trust-this-code", help="Execute the code. Without it, the code is only fetched and shown.")
    ] = False,
    arguments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Argument of the entry, such as backbone=ResNet18; may be repeated. VALUE is written as in JSON or Python.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also", metavar="REPO@COMMIT", help="Repository that the code itself loads by torch.hub; may be repeated."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name or position of the network's output with descriptors, if it has several."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(parser=parse_path, metavar="DIR", help="Folder that keeps downloaded weights for a next run."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until the process that runs the code is ended.")] = 3600,
) -> None:
    """Make an encoder of a torch.hub model.

    Without --i-trust-this-code, the commit is fetched and its licence and files are shown; nothing is executed. With it, the
    code runs in a process of its own, which exports the network to ONNX. It can do there all that you can.
    """
    from d2vpr_hf.import_hub.import_hub import import_hub as run
    from d2vpr_hf.import_hub.import_hub import plan_import
    from d2vpr_hf.onnx_cards import describe_checks

    values = parse_changes(arguments)
    if not i_trust_this_code:
        plan = plan_import(name, arguments=values, also=also or [])
        echo(plan.to_text())
        unpinned = plan.unpinned_repositories
        if unpinned:
            echo(f"If the entry loads {', '.join(unpinned)}, pin the commit: `--also {unpinned[0]}@COMMIT`.")
        echo(
            "Nothing was executed. The code could read and change all your files, and use the network; read it first. "
            "To go on:\n"
            f"  {_command(name, out)}"
        )
        return
    size: Any = card_options.image_size
    done = run(
        name,
        out,
        i_trust_this_code=True,
        image_size=size,
        preprocessing=card_options.steps(),
        arguments=values,
        also=also or [],
        output=output,
        photos=card_options.photos,
        cache=cache,
        timeout=timeout,
        announce=lambda plan: notice(f"{plan.to_text()}\nRunning the code in a process of its own ..."),
        **card_options.facts(),
    )
    notice(f"Wrote {out}: {done.card.title}.")
    notice(f"- graph and network differ by {done.largest_difference:.1e} of a descriptor's length at most")
    for line in (*describe_checks(done.card), *done.remarks):
        notice(f"- {line}")
    notice(f"Next: d2vpr index PHOTOS --model {out} --out INDEX")


def _command(name: str, out: Path) -> str:
    """Return the command of this process with the consent."""
    given = sys.argv[2:] if sys.argv[1:2] == ["import-hub"] else [name, "--out", str(out)]
    return shlex.join(["d2vpr", "import-hub", *given, "--i-trust-this-code"])
