"""cluster.yaml as parsed, and moto's AWS, whose machines accept the SSH commands of Ray's launcher."""

import copy
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import pytest
import yaml
from cluster_yaml.cloud import ROOT, TOKEN, Autoscaler, Cloud
from moto import mock_aws

ANSWERS = {
    "command -v docker": "/usr/bin/docker",
    ".State.Running": "false",
    ".Config.Env": '["PATH=/usr/bin", "HOME=/home/saltray"]',
    "printenv HOME": "/home/saltray",
    "docker info": "map[runc:{runc}]",
    "/proc/meminfo": "MemAvailable: 16000000 kB",
}
"""Text in a command -> the answer of a machine."""


@pytest.fixture(scope="session")
def parsed() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


@pytest.fixture
def cluster(parsed: dict[str, Any]) -> dict[str, Any]:
    """A copy of cluster.yaml's content, which a test may change."""
    return copy.deepcopy(parsed)


def instance_types(region: str, _: object) -> list[dict[str, Any]]:
    """The instance types of cluster.yaml with their CPUs and GPUs; moto takes seconds to list all that EC2 has."""
    named = sorted(set(re.findall(r"InstanceType: (\S+)", (ROOT / "cluster.yaml").read_text())))
    found: list[dict[str, Any]] = boto3.client("ec2", region).describe_instance_types(InstanceTypes=named)[
        "InstanceTypes"
    ]
    return found


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """AWS, simulated in this process, with the roles that cluster.yaml needs, and a user with a token."""
    from ray.autoscaler._private.aws import node_provider, utils
    from ray.autoscaler._private.command_runner import SSHCommandRunner

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(tmp_path / "user"),
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",  # half a second a test; the image's name is not one of theirs
    }.items():
        monkeypatch.setenv(name, value)
    token = tmp_path / "user" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text(TOKEN)

    cloud = Cloud()
    request, create = botocore.client.BaseClient._make_api_call, node_provider.AWSNodeProvider._create_node

    def counted(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        cloud.calls.add(f"{self.meta.service_model.service_name}:{operation}")
        return request(self, operation, arguments)

    def one_by_one(self: Any, config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        # EC2 starts MaxCount machines if it can, moto MinCount.
        return {name: node for _ in range(count) for name, node in create(self, config, dict(tags), 1).items()}

    def record(self: Any, command: list[str], with_output: bool = False, *_: object, **__: object) -> bytes | None:
        cloud.commands.append(command)
        if command[0] == "rsync":
            place = command[-1].partition("/tmp/ray_tmp_mount/saltray/")[2]
            cloud.uploads[place] = Path(command[-2]).read_bytes()
        return next((a.encode() for text, a in ANSWERS.items() if text in command[-1]), b"") if with_output else None

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", counted)
    monkeypatch.setattr(node_provider.AWSNodeProvider, "_create_node", one_by_one)
    monkeypatch.setattr(node_provider, "list_ec2_instances", instance_types)
    monkeypatch.setattr(node_provider, "TAG_BATCH_DELAY", 0.0)
    monkeypatch.setattr(SSHCommandRunner, "_run_helper", record)
    for cache in (utils.resource_cache, utils.client_cache):
        cache.cache_clear()
    with mock_aws():
        make_roles()
        yield cloud
    for cache in (utils.resource_cache, utils.client_cache):
        cache.cache_clear()


def make_roles() -> None:
    """Create the roles, as the comment at the top of cluster.yaml does on the command line."""
    iam = boto3.client("iam")
    policies = {
        "saltray-head": {"data": "iam-policy.json", "machines": "iam-head-policy.json"},
        "saltray-worker": {"data": "iam-policy.json"},
    }
    for role, named in policies.items():
        trust = (ROOT / "docker" / "iam-trust.json").read_text()
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
        for policy, file in named.items():
            text = (ROOT / "docker" / file).read_text()
            iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=text)
        iam.create_instance_profile(InstanceProfileName=role)
        iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)


@pytest.fixture
def ray_up(cloud: Cloud) -> Callable[..., None]:
    """`ray up FILE -y`, without the cache of AWS's earlier answers."""
    from ray.autoscaler._private.commands import create_or_update_cluster

    def up(file: Path = ROOT / "cluster.yaml", no_restart: bool = False) -> None:
        create_or_update_cluster(str(file), None, None, no_restart, False, True, no_config_cache=True)

    return up


@pytest.fixture
def autoscaler(
    cloud: Cloud, ray_up: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Autoscaler:
    """The autoscaler of a head node that `ray up` has just created."""
    ray_up()
    return Autoscaler(cloud, tmp_path / "head", monkeypatch)
