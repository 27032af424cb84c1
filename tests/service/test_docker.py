"""The files for Docker, which is not run here: their form, and that the program accepts every command in them."""

import json
import re
from pathlib import Path

import pytest
import typer
import yaml

from d2vpr_hf.cli import app

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
LAST_STAGE = DOCKERFILE.rpartition("\nFROM ")[2]
OWN = [service for service in COMPOSE["services"].values() if service["image"] == "d2vpr"]


def accept(words):
    """Parse a command as the program does, without running it."""
    command = typer.main.get_command(app).commands[words[0]]
    return command.make_context(words[0], [str(word) for word in words[1:]]).params


@pytest.mark.parametrize(
    "words", [json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])] + [s["command"] for s in OWN]
)
def test_the_program_accepts_the_commands(words):
    assert accept(words)


def test_the_image_runs_as_a_user_and_is_asked_whether_it_is_ready():
    instructions = re.findall(r"^([A-Z]+) ", LAST_STAGE, re.MULTILINE)
    assert {"USER", "HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL", "EXPOSE", "VOLUME"} <= set(instructions)
    user = re.search(r"^USER (\w+)$", LAST_STAGE, re.MULTILINE)[1]
    assert user == "10001" and "--uid 10001 " in LAST_STAGE  # by number: Kubernetes checks that it is not 0
    assert instructions.index("USER") < instructions.index("ENTRYPOINT") and "/ready" in LAST_STAGE
    assert "API_KEY" not in "".join(re.findall(r"^(?:ENV|ARG) .*$", DOCKERFILE, re.MULTILINE))  # no secret in a layer


def test_the_build_gets_all_files_of_the_package():
    """A file that is ignored would be missing in the wheel, and one that is not needed would be in the image's cache."""
    allowed = re.findall(r"^!(\S+)$", (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    assert all((ROOT / name).exists() for name in allowed)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    folders = set(re.findall(r'^"d2vpr_hf\.(?:\w+)" = "(\w+)"', project, re.MULTILINE)) | {"d2vpr_hf"}
    assert folders | {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} == set(allowed)


def test_services_name_volumes_and_secrets_that_exist():
    for service in COMPOSE["services"].values():
        names = {volume.partition(":")[0] for volume in service.get("volumes", ()) if not volume.startswith("$")}
        assert names <= set(COMPOSE["volumes"]) and set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
    watch, served = COMPOSE["services"]["watch"], COMPOSE["services"]["serve"]
    address = watch["command"][watch["command"].index("--uri") + 1]
    assert served["environment"]["D2VPR_ADDRESSES"] == address  # or the service would search without Milvus
    assert served["ports"] == ["127.0.0.1:8000:8000"] and served["environment"]["D2VPR_API_KEY_FILE"] == "/run/secrets/keys"
