"""What the loss of a host costs: five folds of two ranks on two hosts, one of which is killed; and a run without loss.

    uv run python tests/bench/host_loss.py          # as root, with iproute2, openssh-server, rsync and Ceph; 10 minutes

Hosts are network namespaces of this machine, Ray is started by `ray up`, the store is a Ceph gateway.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import boto3
from ceph import Ceph
from cluster.cluster import THIN, Cluster, Job, Progress
from cluster.hosts import Hosts, missing

import saltray

EPOCHS = 20


def main() -> None:
    if reason := missing():
        sys.exit(reason)
    folder = Path(tempfile.mkdtemp(prefix="saltray-bench-"))
    (folder / "ceph").mkdir()
    with Hosts(folder, 3) as hosts, Ceph(folder / "ceph", address=hosts.gateway) as s3:
        os.environ.update(s3.environment)
        boto3.session.Session().client("s3").create_bucket(Bucket="bench")
        tiles = saltray.synth(folder / "tiles", tiles=40, seed=1, test_tiles=2)
        with Cluster(hosts, s3.environment, cpus=5) as cluster:  # one of five folds of two ranks is on both workers
            flags = ("--data", tiles, "--store", "s3://bench/store", "--train.epochs", EPOCHS, *THIN)
            whole = cluster.submit("whole", "train", *flags, "--run", "whole", forked=False)
            assert whole.wait() == 0, whole.log
            print(f"without a loss: {duration(whole):.0f} s")
            lost = cluster.submit("lost", "train", *flags, "--run", "lost", forked=False)
            victim = hosts[2]
            lost.wait_until(lambda: Progress(lost).may_lose(victim.address, EPOCHS - 3), "folds on both workers")
            before = Progress(lost)
            killed = lost.lines[-1].at
            victim.kill()
            assert lost.wait() == 0, lost.log
            print(f"with the loss of a host {killed - lost.lines[0].at:.0f} s after its start: {duration(lost):.0f} s")
            for fold in sorted(before.training_on(victim.address)):
                print(of_fold(lost, fold, before.epochs[fold], killed))


def duration(job: Job) -> float:
    return job.lines[-1].at - job.lines[0].at


def of_fold(job: Job, fold: int, before: int, killed: float) -> str:
    """How far a fold was set back, by the log."""
    after = [line for line in job.lines if line.at > killed]
    resumed = [
        int(match[1]) for line in after if (match := re.match(rf"fold {fold}  resumes after epoch (\d+)", line.text))
    ]
    first = next(line.at for line in after if re.match(rf"fold {fold}  epoch +{resumed[0] + 1}/", line.text))
    return (
        f"fold {fold}: {before} epochs before, resumes after epoch {resumed}; "
        f"its next epoch ends {first - killed:.0f} s after the loss"
    )


if __name__ == "__main__":
    main()
