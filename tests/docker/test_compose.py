"""docker/compose.yaml. Each check is shown to find a fault."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .dockerfile import parse

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = DOCKER / "compose.yaml"
NODES = ("head", "worker")

Compose = dict[str, Any]


def words(service: Compose) -> str:
    return " ".join(service["command"])


def check_the_image_is_the_dockerfile_s(compose: Compose) -> None:
    for node in NODES:
        build = compose["services"][node]["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).resolve() == DOCKER / "Dockerfile"
        assert (DOCKER / build["context"]).resolve() == DOCKER.parent
        assert build["target"] in parse((DOCKER / "Dockerfile").read_text())
        assert compose["services"][node]["image"] == f"saltray:{build['target']}"


def check_other_images_have_a_version(compose: Compose) -> None:
    others = [service["image"] for service in compose["services"].values() if "build" not in service]
    assert len(others) == 1
    assert all(re.fullmatch(r"[\w/.-]+:\d+\.\d+", image) for image in others)


def check_nothing_is_open_to_the_network(compose: Compose) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8265:8265"]
    assert not any("network_mode" in service for service in compose["services"].values())


def check_the_head_does_no_training_and_two_workers_do(compose: Compose) -> None:
    head, worker = (compose["services"][node] for node in NODES)
    assert "--head --block --num-cpus=0" in words(head)
    assert worker["deploy"]["replicas"] == 2
    assert "--address=head:6379 --block" in words(worker)


def check_nodes_share_the_token(compose: Compose) -> None:
    home = parse((DOCKER / "Dockerfile").read_text())["cpu"].env["HOME"]
    for node in NODES:
        assert compose["services"][node]["volumes"] == [f"home:{home}"]
    assert "get-auth-token --generate > /dev/null &&" in words(compose["services"]["head"])


def check_nodes_reach_the_store(compose: Compose) -> None:
    s3 = compose["services"]["s3"]["environment"]
    for node in NODES:
        environment = compose["services"][node]["environment"]
        assert environment["AWS_ENDPOINT_URL_S3"] == "http://s3:8333"
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert environment[key] == s3[key]
    (bucket,) = re.findall(r"--store s3://(\w+)/", COMPOSE.read_text())
    assert s3["S3_BUCKET"] == bucket


def check_objects_fit_into_shared_memory(compose: Compose) -> None:
    for node in NODES:
        service = compose["services"][node]
        (size,) = re.findall(r"--object-store-memory=(\d+)", words(service))
        assert int(size) < int(service["shm_size"].removesuffix("gb")) * 2**30


def check_each_service_waits_for_those_it_needs(compose: Compose) -> None:
    healthy = {"condition": "service_healthy"}
    assert compose["services"]["worker"]["depends_on"] == {"head": healthy}
    assert compose["services"]["head"]["depends_on"] == {"s3": healthy}
    assert compose["services"]["s3"]["healthcheck"]["test"][0] == "CMD"


def check_volumes_are_declared(compose: Compose) -> None:
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert used == set(compose["volumes"])


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS)
def test_the_file_passes(check: Callable[[Compose], None]) -> None:
    check(yaml.safe_load(COMPOSE.read_text()))


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (check_the_image_is_the_dockerfile_s, "context: ..", "context: ."),
        (check_the_image_is_the_dockerfile_s, "target: cpu", "target: cuda"),
        (check_the_image_is_the_dockerfile_s, "image: saltray:cpu", "image: saltray:gpu"),
        (check_other_images_have_a_version, ":4.47", ":latest"),
        (check_other_images_have_a_version, ":4.47", ""),
        (check_nothing_is_open_to_the_network, '"127.0.0.1:8265:8265"', '"8265:8265"'),
        (check_nothing_is_open_to_the_network, "init: true", "network_mode: host"),
        (check_the_head_does_no_training_and_two_workers_do, "--num-cpus=0", "--num-cpus=2"),
        (check_the_head_does_no_training_and_two_workers_do, "replicas: 2", "replicas: 1"),
        (check_the_head_does_no_training_and_two_workers_do, "head:6379", "main:6379"),
        (check_nodes_share_the_token, "home:/home/saltray", "home:/root"),
        (check_nodes_share_the_token, "get-auth-token --generate > /dev/null", "get-auth-token"),
        (check_nodes_reach_the_store, "http://s3:8333", "http://s3:9000"),
        (check_nodes_reach_the_store, "*secret", "other"),
        (check_nodes_reach_the_store, "S3_BUCKET: saltray", "S3_BUCKET: salt"),
        (check_objects_fit_into_shared_memory, "shm_size: 2gb", "shm_size: 1gb"),
        (check_each_service_waits_for_those_it_needs, "service_healthy", "service_started"),
        (check_volumes_are_declared, "  home:\n", ""),
    ],
)
def test_a_check_finds_a_fault(check: Callable[[Compose], None], old: str, new: str) -> None:
    text = COMPOSE.read_text()
    assert old in text
    with pytest.raises((AssertionError, KeyError)):
        check(yaml.safe_load(text.replace(old, new)))
