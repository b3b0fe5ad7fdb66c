"""cluster.yaml and the policies beside it, without any cloud: keys, capacity, token, images, permissions."""

import json
import re
from typing import Any

import botocore.session
import jsonschema
import pytest
from botocore.validate import ParamValidator
from cluster_yaml.cloud import ROOT

from saltray.config import ClusterConfig, FoldConfig
from saltray.distributed.capacity import Node, jobs_that_fit, resources_per_job

PROVIDER_KEYS = {
    "availability_zone",
    "aws_credentials",
    "cache_stopped_nodes",
    "cloudwatch",
    "disable_launch_config_check",
    "disable_node_updaters",
    "foreground_node_launch",
    "key_pair",
    "region",
    "security_group",
    "type",
    "use_external_head_ip",
    "use_internal_ips",
    "worker_liveness_check",
}
"""What Ray reads of `provider` for AWS (ray/autoscaler/_private: aws/, autoscaler.py, updater.py)."""


def check(cluster: dict[str, Any]) -> dict[str, Any]:
    """The cluster with Ray's defaults filled in; also refuses the misspelt keys that Ray's schema lets through.

    Raises:
        ValueError: a key is not known to Ray or to EC2's RunInstances, or a value is of the wrong type.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(cluster)
    try:
        validate_config(prepared)
    except jsonschema.ValidationError as error:
        raise ValueError(f"{error.json_path}: {error.message}") from error
    provider = prepared["provider"]
    for place, keys, known in [
        ("provider", set(provider), PROVIDER_KEYS),
        ("provider.key_pair", set(provider.get("key_pair", {})), {"key_name"}),
    ]:
        if keys - known:
            raise ValueError(f"{place}: {sorted(keys - known)} unknown; there are {sorted(known)}")
    request = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in prepared["available_node_types"].items():
        # Ray adds the counts, and picks one of SubnetIds, its own key.
        arguments = {key: value for key, value in kind["node_config"].items() if key != "SubnetIds"}
        found = ParamValidator().validate(arguments | {"MinCount": 1, "MaxCount": 1}, request)
        if found.has_errors():
            raise ValueError(f"{name}.node_config: {found.generate_report()}")
    return prepared


def test_ray_and_ec2_accept_every_key(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []


@pytest.mark.parametrize(
    "place",
    [
        "idle_timeout_minutes",
        "auth/ssh_user",
        "provider/region",
        "provider/cache_stopped_nodes",
        "provider/key_pair/key_name",
        "provider/security_group/GroupName",
        "docker/pull_before_run",
        "docker/worker_run_options",
        "available_node_types/gpu_spot/min_workers",
        "available_node_types/gpu_spot/priority",
        "available_node_types/head/node_config/InstanceType",
        "available_node_types/gpu_spot/node_config/InstanceType",
        "available_node_types/gpu_spot/node_config/InstanceMarketOptions/MarketType",
        "available_node_types/gpu_on_demand/node_config/IamInstanceProfile/Name",
        "available_node_types/gpu_on_demand/node_config/MetadataOptions/HttpTokens",
        "available_node_types/gpu_on_demand/node_config/BlockDeviceMappings/0/Ebs/VolumeSize",
    ],
)
def test_a_misspelt_key_is_refused(cluster: dict[str, Any], place: str) -> None:
    *way, key = place.split("/")
    inner: Any = cluster
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[key[:-1]] = inner.pop(key)
    with pytest.raises(ValueError, match=rf"['\"]?{key[:-1]}['\"]"):
        check(cluster)


def test_a_value_of_the_wrong_type_is_refused(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu_spot"]["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] = "150 GB"
    with pytest.raises(ValueError, match="VolumeSize"):
        check(cluster)


@pytest.mark.parametrize("ranks", [ClusterConfig().workers_per_fold, 2])
@pytest.mark.parametrize("kind", ["gpu_spot", "gpu_on_demand"])
def test_either_kind_of_machine_holds_five_folds(cluster: dict[str, Any], ranks: int, kind: str) -> None:
    machine = cluster["available_node_types"][kind]
    nodes: list[Node] = [machine["resources"]] * min(machine["max_workers"], cluster["max_workers"])
    folds = FoldConfig().count
    resources = resources_per_job(ClusterConfig(workers_per_fold=ranks), [], nodes, jobs=folds)
    assert (resources.gpus, resources.cpus) == (1, 1)
    assert jobs_that_fit(resources, nodes) >= folds


def test_the_head_does_no_training_and_is_permanent_and_workers_start_from_zero(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    head = kinds.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["min_workers"] == head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert [kind["min_workers"] for kind in kinds.values()] == [0, 0]
    assert {name: "InstanceMarketOptions" in kind["node_config"] for name, kind in kinds.items()} == {
        "gpu_spot": True,
        "gpu_on_demand": False,
    }
    assert kinds["gpu_spot"]["priority"] > kinds["gpu_on_demand"].get("priority", 0)
    assert 0 < cluster["idle_timeout_minutes"] <= 30


@pytest.mark.parametrize("node", ["head", "worker"])
def test_ray_starts_with_token_authentication_or_not_at_all(cluster: dict[str, Any], node: str) -> None:
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "-e RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    stop, start = cluster[f"{node}_start_ray_commands"]
    assert stop == "ray stop"
    assert start.startswith("export RAY_AUTH_MODE=token; ")
    assert ("--dashboard-host=127.0.0.1" in start) == (node == "head")


def test_the_images_are_targets_of_the_dockerfile(cluster: dict[str, Any]) -> None:
    targets = set(re.findall(r"^FROM .* AS ([\w-]+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    names = {key: cluster["docker"][key].rpartition("-")[2] for key in ("image", "head_image")}
    assert names == {"image": "gpu", "head_image": "cpu"}
    assert set(names.values()) <= targets


def test_a_worker_gets_the_gpu_image(cluster: dict[str, Any]) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    config = AutoscalingConfig(check(cluster), skip_content_hash=True)
    assert config.get_docker_config("gpu_spot")["image"].endswith("-gpu")
    assert config.get_docker_config("head")["image"].endswith("-cpu")


def policy(name: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads((ROOT / "docker" / name).read_text())["Statement"]
    for statement in statements:
        for key in ("Action", "Resource"):
            if isinstance(statement.get(key), str):
                statement[key] = [statement[key]]
    return statements


def test_machines_touch_one_prefix_of_one_bucket() -> None:
    data = {statement["Sid"]: statement for statement in policy("iam-policy.json")}
    assert all(statement["Effect"] == "Allow" for statement in data.values())
    assert data["ListThePrefix"]["Resource"] == ["arn:aws:s3:::my-bucket"]
    assert data["ListThePrefix"]["Condition"] == {"StringLike": {"s3:prefix": ["saltray", "saltray/*"]}}
    assert data["UseThePrefix"]["Resource"] == ["arn:aws:s3:::my-bucket/saltray/*"]
    s3 = {sid for sid, statement in data.items() for action in statement["Action"] if action.startswith("s3:")}
    assert s3 == {"ListThePrefix", "UseThePrefix"}


@pytest.mark.parametrize("name", ["iam-policy.json", "iam-head-policy.json"])
def test_no_permission_is_wider_than_necessary(name: str) -> None:
    for statement in policy(name):
        assert not any("*" in action for action in statement["Action"])
        if statement["Resource"] == ["*"]:
            assert statement["Action"] in (["ecr:GetAuthorizationToken"], ["ec2:DescribeInstances"])


def test_the_head_manages_only_this_cluster_and_passes_only_the_workers_role(
    cluster: dict[str, Any],
) -> None:
    statements = policy("iam-head-policy.json")
    tagged = [s for s in statements if "ec2:TerminateInstances" in s["Action"]]
    assert [s["Condition"] for s in tagged] == [
        {"StringEquals": {"aws:ResourceTag/ray-cluster-name": cluster["cluster_name"]}}
    ]
    [pass_role] = [s for s in statements if "iam:PassRole" in s["Action"]]
    profile = cluster["available_node_types"]["gpu_spot"]["node_config"]["IamInstanceProfile"]["Name"]
    assert pass_role["Resource"] == [f"arn:aws:iam::123456789012:role/{profile}"]
    assert profile != cluster["available_node_types"]["head"]["node_config"]["IamInstanceProfile"]["Name"]


def test_region_account_and_bucket_are_the_same_everywhere() -> None:
    files = [ROOT / "cluster.yaml", *(ROOT / "docker").glob("iam-*.json")]
    text = "".join(path.read_text() for path in files)
    assert set(re.findall(r"\b[a-z]{2}-[a-z]+-\d\b", text)) == {"us-west-2"}
    assert set(re.findall(r"\b\d{12}\b", text)) == {"123456789012"}
    assert set(re.findall(r"(?:s3:///?|:s3:::)([\w-]+)", text)) == {"my-bucket"}
