"""`ray up` and its files: accepted, private, and with a token on every node; no machine is started.

What a real cloud would refuse is looked for with `ray up`'s own schema and AWS launcher, a mock of
AWS, and the schema of Google's Compute Engine.
"""

import json
from importlib.resources import files
from itertools import chain
from pathlib import Path

import pytest
import yaml
from cluster_files import CLUSTER, LAUNCHER, parse_ray, split
from jsonschema import ValidationError
from ray.autoscaler._private.docker import docker_start_cmds
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.sdk import get_docker_host_mount_location
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

TOKEN = "/home/ray/.ray/auth_token"


def launcher_config(path: Path, **changes) -> dict:
    """A configuration as `ray up` prepares it."""
    return prepare_config(yaml.safe_load(path.read_text()) | changes)


@pytest.fixture(params=LAUNCHER, ids=lambda path: path.name)
def launcher(request) -> dict:
    return launcher_config(request.param)


def test_ray_up_accepts_the_file(launcher):
    validate_config(launcher)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_node_type": "absent"},
        {"max_worker": 4},
        {"docker": {"image": "x", "container_name": "x", "pull": True}},
        {"available_node_types": {"head": {"resources": {}}}},
        {"available_node_types": {"head": {"resources": {}, "node_config": {}, "min_workers": 99}}},
    ],
    ids=["unknown head type", "unknown key", "unknown docker key", "no machine", "too many"],
)
def test_ray_up_would_refuse_a_broken_copy(changes):
    with pytest.raises((ValueError, ValidationError)):
        validate_config(launcher_config(LAUNCHER[0], **changes))


def test_each_kind_of_worker_grows_by_itself_on_spot_machines(launcher):
    types = launcher["available_node_types"]
    head = types.pop(launcher["head_node_type"])
    assert head["resources"] == {"CPU": 0}, "the head must not take work"
    assert "GPU" not in types["cpu"]["resources"]
    assert types["gpu"]["resources"]["GPU"] == 1
    for node in types.values():
        assert node["min_workers"] == 0
        assert node["max_workers"] > 0
        assert "spot" in json.dumps(node["node_config"]).lower()
    assert "spot" not in json.dumps(head["node_config"]).lower()
    assert sum(node["max_workers"] for node in types.values()) == launcher["max_workers"]


def test_every_container_gets_the_token_and_gpu_workers_their_gpus(launcher):
    assert launcher["file_mounts"] == {TOKEN: "~/.ray/auth_token"}
    config = AutoscalingConfig(launcher)
    on_host = get_docker_host_mount_location(launcher["cluster_name"]) + TOKEN
    for node_type in launcher["available_node_types"]:
        docker = config.get_docker_config(node_type)
        options = docker["run_options"] + docker.get("worker_run_options", [])
        start = docker_start_cmds(
            launcher["auth"]["ssh_user"],
            docker["image"],
            launcher["file_mounts"],
            docker["container_name"],
            options,
            launcher["cluster_name"],
            "/home/ray",
            "docker",
        )
        assert f"-v {on_host}:{TOKEN}" in start.replace("//", "/")
        assert "--env RAY_AUTH_MODE=token" in start
        assert ("--gpus all" in start) == (node_type == "gpu")
        before = config.get_initialization_commands(node_type)
        assert f"sudo chgrp 100 {on_host}" in before, "the container's user cannot read the token"
        assert f"sudo chmod 640 {on_host}" in before


def test_nodes_install_nothing(launcher):
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert launcher[key] == []


def test_ray_start_takes_the_commands_of_the_file(launcher):
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for command in chain.from_iterable(map(split, launcher[key])):
            if command[0] == "ray":
                parse_ray(command)
    [head] = [line for line in launcher["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in head, "Ray's default opens the dashboard to the network"


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """A mock of AWS that has the roles of `aws-roles.yaml`."""
    import boto3
    from moto import mock_aws

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher writes its ssh key there
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        stack = {"StackName": "raydiar", "Capabilities": ["CAPABILITY_NAMED_IAM"]}
        boto3.client("cloudformation", "us-west-2").create_stack(
            TemplateBody=(CLUSTER / "aws-roles.yaml").read_text(),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "your-bucket"}],
            **stack,
        )
        yield boto3.client("ec2", "us-west-2")


def launched_on_aws(config: dict, ec2) -> dict:
    """Bootstrap as `ray up` does, and start one machine of each type; gives them by type."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    config = bootstrap_aws(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    image = ec2.describe_images()["Images"][0]["ImageId"]  # the mock knows no public parameters
    for name, node in config["available_node_types"].items():
        node_config = node["node_config"] | {"ImageId": image}
        provider.create_node(node_config, {"ray-user-node-type": name}, 1)
    return {
        {tag["Key"]: tag["Value"] for tag in instance["Tags"]}["ray-user-node-type"]: instance
        for reservation in ec2.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
    }


def public_ports(ec2, instances: dict) -> set[tuple]:
    """Port ranges that anything but the cluster's own security group may reach."""
    groups = {group["GroupId"] for one in instances.values() for group in one["SecurityGroups"]}
    described = ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    found = set()
    for permission in chain.from_iterable(group["IpPermissions"] for group in described):
        foreign = {pair["GroupId"] for pair in permission["UserIdGroupPairs"]} - groups
        if permission["IpRanges"] or permission["Ipv6Ranges"] or foreign:
            found.add((permission.get("FromPort"), permission.get("ToPort")))
    return found


def test_aws_starts_the_machines_with_their_roles_and_no_public_port_but_ssh(aws):
    instances = launched_on_aws(launcher_config(CLUSTER / "aws.yaml"), aws)
    assert public_ports(aws, instances) == {(22, 22)}
    assert {name: one.get("InstanceLifecycle") for name, one in instances.items()} == {
        "head": None,
        "cpu": "spot",
        "gpu": "spot",
    }
    roles = {name: one["IamInstanceProfile"]["Arn"] for name, one in instances.items()}
    assert roles["head"].endswith("/raydiar-head")
    assert roles["cpu"].endswith("/raydiar-worker")
    assert roles["gpu"].endswith("/raydiar-worker")

    group = instances["head"]["SecurityGroups"][0]["GroupId"]
    aws.authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=8265, ToPort=8265, CidrIp="0.0.0.0/0"
    )
    assert (8265, 8265) in public_ports(aws, instances), "this test cannot fail"


def test_aws_machines_have_what_the_file_says(aws):
    types = launcher_config(CLUSTER / "aws.yaml")["available_node_types"]
    names = {types[name]["node_config"]["InstanceType"]: name for name in ("cpu", "gpu")}
    described = aws.describe_instance_types(InstanceTypes=list(names))["InstanceTypes"]
    assert len(described) == len(names)
    for instance in described:
        real = {"CPU": instance["VCpuInfo"]["DefaultVCpus"]}
        if "GpuInfo" in instance:
            real["GPU"] = sum(gpu["Count"] for gpu in instance["GpuInfo"]["Gpus"])
        assert types[names[instance["InstanceType"]]]["resources"] == real


def test_the_head_may_end_machines_of_this_cluster_only():
    from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME

    template = yaml.safe_load((CLUSTER / "aws-roles.yaml").read_text())
    head = template["Resources"]["Head"]["Properties"]["Policies"][0]["PolicyDocument"]
    [ending] = [
        rule for rule in head["Statement"] if "ec2:TerminateInstances" in rule.get("Action")
    ]
    name = launcher_config(CLUSTER / "aws.yaml")["cluster_name"]
    assert ending["Condition"]["StringEquals"] == {f"ec2:ResourceTag/{TAG_RAY_CLUSTER_NAME}": name}


def unknown_fields(value, schema: dict, schemas: dict, path: str = "") -> list[str]:
    """Where a value is not of a schema of Google's API discovery."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if isinstance(value, list):
        if schema.get("type") != "array":
            return [path]
        items = schema["items"]
        return [one for item in value for one in unknown_fields(item, items, schemas, path)]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found = [f"{path}.{key}" for key in value.keys() - known.keys()]
        for key in value.keys() & known.keys():
            found += unknown_fields(value[key], known[key], schemas, f"{path}.{key}")
        return found
    return [path] if "enum" in schema and value not in schema["enum"] else []


def test_google_knows_the_fields_of_the_machines():
    cache = files("googleapiclient") / "discovery_cache/documents/compute.v1.json"
    schemas = json.loads(cache.read_text())["schemas"]
    for name, node in launcher_config(CLUSTER / "gcp.yaml")["available_node_types"].items():
        assert unknown_fields(node["node_config"], schemas["Instance"], schemas, name) == []
    broken = {"scheduling": [{"preemptible": True}], "disks": [{"autoDeletes": True}]}
    assert set(unknown_fields(broken, schemas["Instance"], schemas)) == {
        ".scheduling",
        ".disks.autoDeletes",
    }
