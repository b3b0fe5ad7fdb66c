"""What a command shows to others: the sockets it listens on, who may use them, and that it tells no secret."""

import re
import shutil
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from time import sleep

import boto3
import grpc
import pytest
from command import Live
from listening import listening

from saltray.data.synthetic import write_dataset

BUCKET = "saltray-test"
SMALL = (
    *("--model.num-filters", "4", "--model.encoder-width", "8", "--train.batch-size", "4", "--folds.count", "2"),
    *("--train.precision", "fp32", "--train.checkpoint-every", "0", "--train.epochs", "8", "--workers-per-fold", "2"),
)
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "DATABASE_PASSWORD")
NODE = {
    "gcs_server": "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "RayTrainWorker": "/ray.rpc.CoreWorkerService/PushTask",
}
"""By whom a request that runs code, or tells of the node, is taken."""


@dataclass
class Seen:
    """What was seen of a command's processes until it ended."""

    sockets: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Addresses by the kind of process."""
    answers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """To a request without a token, by the kind of process."""
    titles: set[str] = field(default_factory=set)
    output: str = ""


@dataclass
class Commands:
    """A training and a prediction on S3, in an environment of secrets."""

    train: Seen
    predict: Seen
    secrets: list[str]
    places: list[Path]
    """All that they left, as files."""


@pytest.fixture(scope="module")
def commands(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    home = tmp_path_factory.mktemp("home")
    data = write_dataset(home / "data", tiles=8, seed=1, test_tiles=2)
    store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    secrets = {name: uuid.uuid4().hex for name in SECRETS}
    temporary = Path(tempfile.mkdtemp(dir="/tmp"))  # short enough for Ray
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in secrets.items():
                patch.setenv(name, value)
            patch.setenv("TMPDIR", str(temporary))
            train = watch(Live("train", "--data", data, "--store", store, *SMALL, home=home))
            predict = watch(Live("predict", "--data", data, "--ensemble", f"{store}/ensembles/r1", home=home))
            left = home / "store"
            download(store, left)
        yield Commands(train, predict, list(secrets.values()), [home, left, temporary])
    finally:
        shutil.rmtree(temporary)


def watch(live: Live) -> Seen:
    """Look at the processes of a command repeatedly until it has ended."""
    seen = Seen()
    while live.process.poll() is None:
        titles = {process.pid: process.title() for process in live.family()}
        seen.titles.update(titles.values())
        for (host, port), pid in listening(titles).items():
            kind = kind_of(titles[pid])
            seen.sockets[kind].add(host)
            if kind in NODE and not seen.answers[kind] - {"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}:
                seen.answers[kind].add(answer(port, NODE[kind]))
        sleep(0.2)
    assert live.process.stderr is not None
    seen.output = "".join(live.seen) + live.process.stderr.read()
    assert live.process.wait() == 0, seen.output
    live.end()
    return seen


def kind_of(title: str) -> str:
    """Ray's name of a process."""
    if match := re.match(r"ray::(\w+)|\S*/(gcs_server|raylet) ", title):
        return match[1] or match[2]
    return title.partition(" ")[2] or title


def answer(port: int, method: str) -> str:
    """What a server says to an empty request of a client that has no token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=1)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def download(uri: str, target: Path) -> None:
    prefix = uri.removeprefix(f"s3://{BUCKET}/")
    client = boto3.session.Session().client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for item in page["Contents"]:
            path = target / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(BUCKET, item["Key"], str(path))
            head = client.head_object(Bucket=BUCKET, Key=item["Key"])
            path.with_name(f"{path.name}.metadata").write_text(str(head["Metadata"]))


@pytest.mark.ray
@pytest.mark.parametrize("verb", ["train", "predict"])
def test_what_listens_is_on_the_loopback(commands: Commands, verb: str) -> None:
    seen: Seen = getattr(commands, verb)
    assert {"gcs_server", "raylet"} <= set(seen.sockets)
    elsewhere = {kind: hosts for kind, hosts in seen.sockets.items() if not all(map(is_loopback, hosts))}
    assert not elsewhere


@pytest.mark.ray
def test_ray_takes_no_request_without_a_token(commands: Commands) -> None:
    for seen in (commands.train, commands.predict):
        for kind in NODE.keys() & seen.answers.keys():
            assert "UNAUTHENTICATED" in seen.answers[kind]
            assert "OK" not in seen.answers[kind]
    assert set(commands.train.answers) == set(NODE)


@pytest.mark.ray
def test_no_secret_is_told(commands: Commands) -> None:
    text = commands.train.output + commands.predict.output + "\n".join(commands.train.titles | commands.predict.titles)
    assert not [secret for secret in commands.secrets if secret in text]
    files = [path for place in commands.places for path in place.rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in files)
    assert any(path.name == "raylet.out" for path in files)
    needles = [secret.encode() for secret in commands.secrets]
    assert not [path for path in files if any(needle in path.read_bytes() for needle in needles)]


def is_loopback(host: str) -> bool:
    address = ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
