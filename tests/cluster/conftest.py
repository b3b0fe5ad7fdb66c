"""One cluster for all tests of this folder, and an S3 server that its hosts reach."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import ceph
import pytest
from command import point_to, require

import saltray

from .cluster import QUICK, Cluster
from .hosts import Hosts, missing, wait_until

BUCKET = "saltray-test"
WORKERS, CPUS = 2, 3
"""Three folds of two ranks fill the workers, and one of them has its ranks on both."""


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A head and two workers, not booted yet."""
    require(missing())
    with Hosts(tmp_path_factory.mktemp("hosts"), 1 + WORKERS) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def s3(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """AWS_* variables for a server that the hosts reach, with an empty bucket `saltray-test`."""
    require(ceph.missing())
    with ceph.Ceph(tmp_path_factory.mktemp("ceph"), address=hosts.gateway) as server:
        with pytest.MonkeyPatch.context() as patch:
            point_to(patch, server.environment)
            boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        yield server.environment


@pytest.fixture
def in_s3(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """URI of the bucket, and this test's AWS_* variables point to its server."""
    point_to(monkeypatch, s3)
    return f"s3://{BUCKET}"


@pytest.fixture(scope="session")
def cluster(hosts: Hosts, s3: dict[str, str]) -> Iterator[Cluster]:
    """The hosts as a Ray cluster, created by `ray up`."""
    with Cluster(hosts, s3 | QUICK, cpus=CPUS) as cluster:
        yield cluster
    if cluster.is_down:
        # A minute after `ray down` Ray's agents give up telling the head that their node is lost.
        wait_until(lambda: not hosts.left(), 90, hosts.left)


@pytest.fixture(scope="session")
def tiles(hosts: Hosts) -> Path:
    """12 synthetic training tiles, in a folder that all hosts see."""
    return Path(saltray.synth(hosts.folder / "tiles", tiles=12, seed=1, test_tiles=2))
