"""What stands in `cluster/`, read as the tools read it."""

import re
import shlex
from pathlib import Path

import click
import yaml
from ray.scripts.scripts import cli as ray_cli

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "cluster"
LAUNCHER = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def ray_cluster_specs() -> dict[str, dict]:
    """The specification of the Ray cluster in every KubeRay manifest that has one."""
    specs = {}
    for path in KUBERAY:
        for document in documents(path):
            if document["kind"] == "RayCluster":
                specs[path.name] = document["spec"]
            elif document["kind"] == "RayJob":
                specs[path.name] = document["spec"]["rayClusterSpec"]
            elif document["kind"] == "RayService":
                specs[path.name] = document["spec"]["rayClusterConfig"]
    return specs


def pod_templates(spec: dict) -> dict[str, dict]:
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {name: group["template"] for name, group in groups.items()} | {
        "head": spec["headGroupSpec"]["template"]
    }


def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and their arguments, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def commands(text: str) -> list[list[str]]:
    """The commands of a page's console blocks, those inside quotes and after `--` too."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found += split(line[2:])
    return found


def split(line: str) -> list[list[str]]:
    """A shell line as its simple commands."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    for token in lexer:
        if token in ("&&", "&", "|", ";"):
            found.append([])
        else:
            found[-1].append(token)
    nested = []
    for command in found:
        if "--" in command:
            cut = command.index("--")
            nested.append(command[cut + 1 :])
            del command[cut:]
        elif command[:2] == ["ray", "exec"]:
            nested += split(command.pop())
    return [command for command in found + nested if command]


def parse_ray(command: list[str], cli: click.Group = ray_cli) -> None:
    """Parse `ray …`, or `serve …`, with Ray's own command line; click.UsageError if it is wrong."""
    group, arguments = cli, command[1:]
    while isinstance(group, click.Group):
        name = arguments.pop(0)
        if name not in group.commands:
            raise click.UsageError(f"ray has no command {name}")
        group = group.commands[name]
    if group.name in ("exec", "submit"):
        arguments.append("what `split` took away")
    group.make_context(group.name, arguments)
