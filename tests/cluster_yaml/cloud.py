"""A cloud that records the commands of Ray's launcher, and Ray's autoscaler on top of it."""

import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 4


@dataclass
class Cloud:
    """What Ray's launcher and autoscaler did."""

    calls: set[str] = field(default_factory=set)
    """Requests to AWS, as ec2:RunInstances."""
    commands: list[list[str]] = field(default_factory=list)
    """Every ssh and rsync, in order, as it would have been started."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    """What the head received by rsync, by its path in the container."""

    def machines(self, node_type: str) -> list[dict[str, Any]]:
        """The running machines of a type, as EC2 describes them; Tags as a dict."""
        found = boto3.client("ec2").describe_instances(
            Filters=[
                {"Name": "tag:ray-user-node-type", "Values": [node_type]},
                {"Name": "instance-state-name", "Values": ["running"]},
            ]
        )
        instances: list[Any] = [instance for group in found["Reservations"] for instance in group["Instances"]]
        return [i | {"Tags": {tag["Key"]: tag["Value"] for tag in i["Tags"]}} for i in instances]

    def commands_to(self, ip: str) -> str:
        """All commands to one machine, one per line."""
        return "\n".join(" ".join(command) for command in self.commands if any(f"@{ip}" in word for word in command))


class Autoscaler:
    """Ray's autoscaler as the head runs it, with the files that `ray up` sent there; a test sets Ray's state."""

    def __init__(self, cloud: Cloud, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ray.autoscaler.v2 import autoscaler
        from ray.autoscaler.v2.instance_manager.config import FileConfigReader
        from ray.core.generated import autoscaler_pb2

        self.words = autoscaler_pb2
        self.state = autoscaler_pb2.ClusterResourceState()
        self._cloud, self._home = cloud, home
        self.unpack()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setattr(autoscaler, "get_cluster_resource_state", lambda _: self.state)
        [head] = cloud.machines("head")
        self.joins(head, {"node:__internal_head__": 1.0})
        gcs = types.SimpleNamespace(address=f"{head['PrivateIpAddress']}:6379", drain_node=lambda *_, **__: (True, ""))
        reader = FileConfigReader(str(home / "ray_bootstrap_config.yaml"), skip_content_hash=False)
        self._autoscaler = autoscaler.Autoscaler("session", reader, gcs)

    def unpack(self) -> None:
        """Write the uploaded files to the head's home folder."""
        for place, content in self._cloud.uploads.items():
            path = self._home / place.removeprefix("~/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def joins(self, machine: dict[str, Any], resources: dict[str, float]) -> Any:
        """Let Ray run on a machine; Ray's state of that node."""
        node = self.words.NodeState(
            node_id=machine["InstanceId"].encode().ljust(28),
            instance_id=machine["InstanceId"],
            ray_node_type_name=machine["Tags"]["ray-user-node-type"],
            total_resources=resources,
            available_resources=resources,
            status=self.words.RUNNING,
        )
        self.state.node_states.append(node)
        return self.state.node_states[-1]

    def request(self, folds: int, ranks: int) -> None:
        """Request resources for folds, each a placement group."""
        rank = self.words.ResourceRequest(resources_bundle={"CPU": 1, "GPU": 1})
        bundles = [self.words.BundleSelector(resource_requests=[rank] * ranks)]
        self.state.pending_gang_resource_requests.extend(
            self.words.GangResourceRequest(bundle_selectors=bundles) for _ in range(folds)
        )

    def step(self) -> None:
        """What the head does every five seconds."""
        assert self._autoscaler.update_autoscaling_state() is not None
