"""`cluster/`: manifests that Kubernetes takes, an image that fits them, commands that exist.

KubeRay's own schema is in no package: the fields of its resources are listed here, as its API
reference 1.6 has them, and what they hold of Kubernetes is checked with Kubernetes' schemas.
"""

import copy
import os
import re
import subprocess
import sys
import tomllib

import click
import kubernetes_validate
import pytest
import ray
import yaml
from cluster_files import (
    CLUSTER,
    KUBERAY,
    LAUNCHER,
    ROOT,
    commands,
    dockerfile,
    documents,
    parse_ray,
    pod_templates,
    ray_cluster_specs,
    split,
)
from command_lines import parse_raydiar
from packaging.requirements import Requirement
from ray.serve.scripts import cli as serve_cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
KUBERNETES = "1.34"
RAY_CLUSTER = {
    "required": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "optional": {"enableInTreeAutoscaling", "autoscalerOptions"},
}
RAY_JOB = {
    "required": {"entrypoint", "rayClusterSpec"},
    "optional": {
        "submissionMode",
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
    },
}
RAY_SERVICE = {"required": {"serveConfigV2", "rayClusterConfig"}, "optional": set()}
AUTOSCALER = {"required": set(), "optional": {"version", "idleTimeoutSeconds", "resources"}}
HEAD = {"required": {"rayStartParams", "template"}, "optional": {"serviceType"}}
WORKERS = {
    "required": {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "optional": {"replicas"},
}


def check_fields(value: dict, fields: dict, where: str) -> None:
    assert fields["required"] <= value.keys(), f"{where} lacks fields"
    assert value.keys() <= fields["required"] | fields["optional"], f"{where} has unknown fields"


def check_resource(document: dict) -> None:
    """A resource as Kubernetes with KubeRay takes it; AssertionError or ValidationError if not."""
    if document["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    spec = document["spec"]
    if document["kind"] == "RayJob":
        check_fields(spec, RAY_JOB, "RayJob")
        assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode")
        spec = spec["rayClusterSpec"]
    elif document["kind"] == "RayService":
        check_fields(spec, RAY_SERVICE, "RayService")
        spec = spec["rayClusterConfig"]
    else:
        assert document["kind"] == "RayCluster"
    check_fields(spec, RAY_CLUSTER, "RayCluster")
    check_fields(spec["autoscalerOptions"], AUTOSCALER, "autoscalerOptions")
    check_fields(spec["headGroupSpec"], HEAD, "headGroupSpec")
    for group in spec["workerGroupSpecs"]:
        check_fields(group, WORKERS, "workerGroupSpecs")
        assert 0 <= group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for name, template in pod_templates(spec).items():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}}
        kubernetes_validate.validate(pod | {"template": template}, KUBERNETES, strict=True)
        for container in template["spec"]["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"], (
                "KubeRay takes a Ray node's size from the limits: no more may be promised"
            )


def check_private(document: dict) -> None:
    """No way from outside to Ray's ports, and a token for who is inside."""
    assert document["kind"] != "Ingress"
    if document["apiVersion"] == "ray.io/v1":
        spec = document["spec"]
        spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
        assert spec["authOptions"] == {"mode": "token"}
        head = spec["headGroupSpec"]
        assert head.get("serviceType", "ClusterIP") == "ClusterIP"
        assert not head.get("enableIngress")
        assert "headService" not in head
        for template in pod_templates(spec).values():
            assert not template["spec"].get("hostNetwork")
            for container in template["spec"]["containers"]:
                assert not any("hostPort" in port for port in container.get("ports", []))
    elif document["kind"] == "Service":
        assert document["spec"].get("type", "ClusterIP") == "ClusterIP"
    elif document["kind"] == "NetworkPolicy":
        for rule in document["spec"]["ingress"]:
            assert rule["from"], "a rule without `from` admits everyone"
            for peer in rule["from"]:
                assert peer.keys() <= {"podSelector", "namespaceSelector"}
                whole_cluster = peer.get("namespaceSelector") == {}
                assert not (whole_cluster and not peer.get("podSelector"))


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kubernetes_takes_the_manifests(path):
    for document in documents(path):
        check_resource(document)
        check_private(document)


def ray_cluster() -> dict:
    [document] = documents(CLUSTER / "kuberay" / "raycluster.yaml")
    return copy.deepcopy(document)


def broken(path: str, value) -> dict:
    """The RayCluster with one field set, named like `spec.headGroupSpec.serviceType`."""
    document = place = ray_cluster()
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    return document


HEAD_POD = "spec.headGroupSpec.template.spec"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("apiVersion", "ray.io/v1alpha1"),
        ("spec.enableAutoscaling", True),
        ("spec.workerGroupSpecs.0.maxReplicas", -1),
        ("spec.headGroupSpec.rayStartParams", {"num-cpus": 0}),
        (f"{HEAD_POD}.containerz", []),
        (f"{HEAD_POD}.containers.0.resources.limits", {"cpu": "8"}),
        (f"{HEAD_POD}.containers.0.ports.0.containerPort", "many"),
    ],
)
def test_a_broken_manifest_would_be_noticed(path, value):
    failures = (
        AssertionError,
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
    )
    with pytest.raises(failures):
        check_resource(broken(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.headGroupSpec.serviceType", "LoadBalancer"),
        ("spec.headGroupSpec.serviceType", "NodePort"),
        ("spec.headGroupSpec.enableIngress", True),
        ("spec.authOptions", {"mode": "disabled"}),
        (f"{HEAD_POD}.hostNetwork", True),
        (f"{HEAD_POD}.containers.0.ports.0.hostPort", 8265),
    ],
)
def test_an_opened_manifest_would_be_noticed(path, value):
    with pytest.raises(AssertionError):
        check_private(broken(path, value))


def test_each_kind_of_worker_grows_by_itself_and_may_sit_on_spot_machines():
    for spec in ray_cluster_specs().values():
        assert spec["enableInTreeAutoscaling"] is True
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        gpus, tolerated = {}, {}
        for name, template in pod_templates(spec).items():
            limits = template["spec"]["containers"][0]["resources"]["limits"]
            gpus[name] = limits.get("nvidia.com/gpu", "0")
            tolerated[name] = {one["key"] for one in template["spec"].get("tolerations", [])}
        assert gpus == {"head": "0", "cpu": "0", "gpu": "1"}
        assert not tolerated["head"]
        assert tolerated["gpu"] == tolerated["cpu"] | {"nvidia.com/gpu"}


def test_job_cluster_and_service_run_the_same_nodes():
    names = ("rayjob.yaml", "raycluster.yaml", "rayservice.yaml")
    job, cluster, service = (copy.deepcopy(ray_cluster_specs()[name]) for name in names)
    assert job == cluster
    for group in service["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (1, 1)  # a server always answers
        group |= {"replicas": 0, "minReplicas": 0}
    assert service == cluster


def test_pods_name_the_account_and_namespace_that_exist():
    manifests = [document for path in KUBERAY for document in documents(path)]
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for one in manifests:
        if one["kind"] != "Namespace":
            assert ("Namespace", one["metadata"]["namespace"]) in names
    for spec in ray_cluster_specs().values():
        for template in pod_templates(spec).values():
            assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in names


# The image


def image_names() -> dict[str, set[str]]:
    pattern = r"registry\.example\.com/[\w./:-]+\w"
    paths = [*LAUNCHER, *KUBERAY, CLUSTER / "Dockerfile", CLUSTER / "README.md"]
    return {path.name: set(re.findall(pattern, path.read_text())) for path in paths}


def test_versions_of_image_manifests_and_project_agree():
    texts = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    pin, *others = [r for text in texts if (r := Requirement(text)).name == "ray"]
    assert all(other.specifier == pin.specifier for other in others)
    minor = re.fullmatch(r"==(\d+\.\d+)\.\*", str(pin.specifier))[1]
    instruction, base = dockerfile()[0]
    python = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", base)[1]
    assert instruction == "FROM"
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    expected = f"registry.example.com/raydiar:ray{minor}-py{python.replace('.', '')}"
    for name, images in image_names().items():
        assert images == ({expected} if name != "namespace.yaml" else set()), name
    for spec in ray_cluster_specs().values():
        assert pin.specifier.contains(spec["rayVersion"])
        assert spec["rayVersion"] == ray.__version__


def test_the_image_copies_what_exists_and_is_not_ignored():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "what is not named must stay out: .venv, outputs, secrets"
    copied = [word for name, text in dockerfile() if name == "COPY" for word in text.split()[:-1]]
    assert {"pyproject.toml", "raydiar", "jobs"} <= set(copied)
    assert {f"!{source}" for source in copied} == {rule for rule in rules if rule[0] == "!"}
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_installs_the_projects_dependencies():
    [step] = [text for name, text in dockerfile() if name == "RUN" and "tomllib" in text]
    [python] = [command for command in split(step) if command[0] == "python"]
    code = [sys.executable, *python[1:3]]
    printed = subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {Requirement(line).name for line in printed.splitlines()}
    assert {"ray", "torch", "av", "s3fs", "gcsfs", "google-api-python-client"} <= names


def test_the_image_has_what_both_launchers_call():
    steps = dockerfile()
    [packages] = [text for name, text in steps if name == "RUN" and "apt-get" in text]
    assert {"bash", "openssh-client", "rsync", "wget"} <= set(packages.split())
    [environment] = [dict(p.split("=") for p in t.split()) for name, t in steps if name == "ENV"]
    assert environment["HOME"] == "/home/ray", "`ray up` mounts below it"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert "PATH" not in environment, "login shells forget it: nothing may depend on it"
    assert ("USER", "1000") in steps, "Kubernetes knows a number, not a name, to be no root"
    assert not any(name == "ENTRYPOINT" for name, _ in steps), "`ray up` starts `bash`"


def test_a_node_without_the_token_does_not_start(tmp_path):
    environment = os.environ | {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    for key in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        environment.pop(key, None)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address=127.0.0.1:1"]
    start = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert start.returncode != 0
    assert "no authentication token was found" in start.stdout + start.stderr


# Commands


def run_commands() -> list[list[str]]:
    """Every command of the page, and the entrypoint of the manifest."""
    [job] = documents(CLUSTER / "kuberay" / "rayjob.yaml")
    return [*commands((CLUSTER / "README.md").read_text()), *split(job["spec"]["entrypoint"])]


def parse_job(command: list[str]) -> None:
    """Parse `python jobs/diarize_corpus.py …`, whose options are those of the command."""
    assert command[1] == "jobs/diarize_corpus.py"
    assert (ROOT / command[1]).is_file()
    parse_raydiar(["raydiar", "corpus", "diarize", *command[2:]])
    assert command[command.index("--manifest") + 1].startswith(("s3://", "gs://"))


def check_command(command: list[str]) -> None:
    """A command whose files, subcommands and options exist, as far as they are ours or Ray's."""
    if ">" in command:
        command = command[: command.index(">")]
    for word in command:
        if word.startswith(("cluster/", "jobs/")):
            assert (ROOT / word).is_file(), f"there is no {word}"
    if command[0] == "ray":
        parse_ray(command)
    elif command[0] == "serve":
        parse_ray(command, serve_cli)
    elif command[0] == "raydiar":
        parse_raydiar(command)
    elif command[0] == "python":
        parse_job(command)
    else:
        assert command[0] in ("docker", "aws", "gcloud", "helm", "kubectl", "export"), command[0]


def test_every_command_exists_with_its_options():
    found = run_commands()
    tools = [command[0] for command in found]
    assert tools.count("ray") >= 10
    assert tools.count("python") >= 5
    for command in found:
        check_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "ray upp cluster/aws.yaml",
        "ray up --yess cluster/aws.yaml",
        "ray job submit --detach",
        "kubectl apply --filename cluster/absent.yaml",
        "python jobs/diarize_corpus.py --manifest s3://a --outputs s3://b",
        "python jobs/diarize.py --manifest s3://a --output s3://b",
        "raydiar corpus manifests s3://a --output b",
        "raydiar corpus manifest s3://a --out b",
        "serve deploi cluster/serve.yaml",
        "serve deploy --adress http://localhost:8265 cluster/serve.yaml",
        "raydiar serve keys make somebody",
        "rm -rf cluster",
    ],
)
def test_a_wrong_command_would_be_noticed(command):
    with pytest.raises((AssertionError, click.UsageError, SystemExit)):
        check_command(split(command)[0])


def test_the_stack_takes_the_parameters_of_the_page():
    template = yaml.safe_load((CLUSTER / "aws-roles.yaml").read_text())
    [deploy] = [command for command in run_commands() if command[:2] == ["aws", "cloudformation"]]
    given = deploy[deploy.index("--parameter-overrides") + 1 :]
    assert {text.partition("=")[0] for text in given} == set(template["Parameters"])
