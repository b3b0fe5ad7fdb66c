"""`ray up` and Ray's autoscaler on cluster.yaml, against moto's EC2: which nodes start, and with which commands."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from cluster_yaml.cloud import ROOT, TOKEN, Autoscaler, Cloud

from saltray.distributed.nodes import nodes_possible


def until(condition: Callable[[], bool], step: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        step()
        time.sleep(0.05)


def set_up(cloud: Cloud, node_type: str, count: int) -> Callable[[], bool]:
    """Whether there are so many machines of a type, and Ray was started on each."""

    def done() -> bool:
        status = [machine["Tags"]["ray-node-status"] for machine in cloud.machines(node_type)]
        return status == ["up-to-date"] * count

    return done


def test_ray_up_creates_the_head(cloud: Cloud, ray_up: Callable[..., None]) -> None:
    ray_up()
    [head] = cloud.machines("head")
    assert head["InstanceType"] == "m7i.2xlarge"
    assert "InstanceLifecycle" not in head
    assert head["IamInstanceProfile"]["Arn"].endswith("/saltray-head")
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert (head["KeyName"], head["Tags"]["ray-cluster-name"]) == ("saltray", "saltray")
    [volume] = boto3.client("ec2").describe_volumes()["Volumes"]
    assert (volume["VolumeType"], volume["Encrypted"]) == ("gp3", True)
    commands = cloud.commands_to(head["PublicIpAddress"])
    assert "docker login" in commands
    assert "saltray:0.1.0-cpu bash" in commands
    assert "--gpus" not in commands
    assert '{"CPU":0}' in commands
    assert "--autoscaling-config=/home/saltray/ray_bootstrap_config.yaml" in commands
    assert "pip" not in commands
    assert not cloud.machines("gpu_spot")
    assert not cloud.machines("gpu_on_demand")


def test_only_ssh_is_open_to_the_world_and_a_narrower_rule_is_kept(cloud: Cloud, ray_up: Callable[..., None]) -> None:
    ray_up()
    ec2 = boto3.client("ec2")

    def rules() -> dict[str, Any]:
        [group] = ec2.describe_security_groups(GroupNames=["saltray"])["SecurityGroups"]
        assert [pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]] == [
            group["GroupId"]
        ]
        return {
            source["CidrIp"]: (rule["IpProtocol"], rule["FromPort"], rule["ToPort"])
            for rule in group["IpPermissions"]
            for source in rule["IpRanges"]
        }

    assert rules() == {"0.0.0.0/0": ("tcp", 22, 22)}
    ssh = {"GroupName": "saltray", "IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    ec2.authorize_security_group_ingress(**ssh, CidrIp="192.0.2.1/32")
    ec2.revoke_security_group_ingress(**ssh, CidrIp="0.0.0.0/0")
    ray_up()
    assert rules() == {"192.0.2.1/32": ("tcp", 22, 22)}
    for machine in cloud.machines("head"):
        assert [group["GroupName"] for group in machine["SecurityGroups"]] == ["saltray"]


@pytest.mark.parametrize(("ranks", "machines"), [(1, 5), (2, 10)])
def test_five_folds_get_their_nodes_each_with_the_token(
    cloud: Cloud, autoscaler: Autoscaler, ranks: int, machines: int
) -> None:
    cloud.calls.clear()
    autoscaler.request(5, ranks)
    until(set_up(cloud, "gpu_spot", machines), autoscaler.step)
    assert not cloud.machines("gpu_on_demand")
    for machine in cloud.machines("gpu_spot"):
        assert (machine["InstanceType"], machine["InstanceLifecycle"]) == ("g6.xlarge", "spot")
        assert machine["IamInstanceProfile"]["Arn"].endswith("/saltray-worker")
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        commands = cloud.commands_to(machine["PrivateIpAddress"])
        assert "/.ray/auth_token ubuntu@" in commands
        assert "-v /tmp/ray_tmp_mount/saltray/~/.ray/auth_token:/home/saltray/.ray/auth_token" in commands
        assert "--gpus=all" in commands
        assert "saltray:0.1.0-gpu bash" in commands
        assert commands.index("docker run") < commands.index(
            "export RAY_AUTH_MODE=token; ulimit -n 65536; ray start --address="
        )
    assert cloud.uploads["~/.ray/auth_token"].decode() == TOKEN
    allowed = json.loads((ROOT / "docker" / "iam-head-policy.json").read_text())["Statement"]
    assert cloud.calls <= {action for statement in allowed for action in listed(statement["Action"])}


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_a_job_on_the_head_knows_how_far_the_cluster_grows(
    autoscaler: Autoscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    head, *workers = nodes_possible()  # by the file that `ray up` has sent there
    assert head["CPU"] == 0
    assert [(node["CPU"], node["GPU"]) for node in workers] == [(4, 1)] * 10


def test_idle_nodes_are_terminated(cloud: Cloud, autoscaler: Autoscaler) -> None:
    autoscaler.request(1, 1)
    until(set_up(cloud, "gpu_spot", 1), autoscaler.step)
    del autoscaler.state.pending_gang_resource_requests[:]
    node = autoscaler.joins(cloud.machines("gpu_spot")[0], {"CPU": 4, "GPU": 1})
    node.status, node.idle_duration_ms = autoscaler.words.IDLE, 9 * 60_000
    for _ in range(3):
        autoscaler.step()
    assert len(cloud.machines("gpu_spot")) == 1
    node.idle_duration_ms = 11 * 60_000
    for _ in range(3):
        autoscaler.step()
    node.status = autoscaler.words.DEAD  # drained
    until(lambda: not cloud.machines("gpu_spot"), autoscaler.step)
    assert len(cloud.machines("head")) == 1


def test_without_spot_capacity_the_remedy_in_the_comment_starts_on_demand_nodes(
    cloud: Cloud,
    autoscaler: Autoscaler,
    ray_up: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    create, asked = AWSNodeProvider._create_node, []

    def no_spot(self: Any, config: dict[str, Any], tags: dict[str, str], count: int) -> Any:
        asked.append(tags["ray-user-node-type"])
        if "InstanceMarketOptions" in config:
            raise NodeLaunchException("InsufficientInstanceCapacity", "no spot", None)
        return create(self, config, tags, count)

    monkeypatch.setattr(AWSNodeProvider, "_create_node", no_spot)
    autoscaler.request(5, 1)
    until(lambda: len(asked) >= 6, autoscaler.step)
    assert set(asked) == {"gpu_spot"}

    file = tmp_path / "cluster.yaml"
    first, _, rest = (ROOT / "cluster.yaml").read_text().partition("  gpu_spot:\n")
    file.write_text(first + "  gpu_spot:\n" + rest.replace("max_workers: 10", "max_workers: 0", 1))
    [head] = cloud.machines("head")
    cloud.commands.clear()
    with monkeypatch.context() as at_home:
        at_home.setenv("HOME", str(tmp_path / "user"))
        ray_up(file, no_restart=True)
    assert [machine["InstanceId"] for machine in cloud.machines("head")] == [head["InstanceId"]]
    assert not any("ray stop" in word or "ray start" in word for command in cloud.commands for word in command)
    autoscaler.unpack()
    until(set_up(cloud, "gpu_on_demand", 5), autoscaler.step)
    for machine in cloud.machines("gpu_on_demand"):
        assert "InstanceLifecycle" not in machine
        assert machine["IamInstanceProfile"]["Arn"].endswith("/saltray-worker")


def test_the_resources_match_the_instance_types(cloud: Cloud, cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    declared = {name: kind.pop("resources") for name, kind in cluster["available_node_types"].items()}
    filled = AWSNodeProvider.fillout_available_node_types_resources(cluster)["available_node_types"]
    for name in ("gpu_spot", "gpu_on_demand"):
        assert {kind: filled[name]["resources"][kind] for kind in ("CPU", "GPU")} == declared[name]
