"""A cluster of several hosts: created by `ray up`, used by `ray job submit`, terminated by `ray down`."""

import re
import shutil
from pathlib import Path

import pytest
from command import upload

import saltray
from saltray.runs.history import epochs_of, read_history
from saltray.storage.uri import open_store

from .cluster import THIN, Cluster, Job, Progress
from .hosts import wait_until

pytestmark = pytest.mark.cluster

EPOCHS, FOLDS = 30, 3
TRIAL_EPOCHS, FOLD_EPOCHS = 20, 40
"""Of trials and folds that are stopped: twice as many as they train until the stop arrives."""
RAY_AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
"""They end a minute later, which the fixture `cluster` checks."""
OF_RAY = {"JobSupervisor", "_AutoscalingCoordinatorActor"}
"""Actors that are not the job's own: its supervisor, which ends a moment later, and one per cluster for all jobs."""


def test_a_job_without_the_token_is_refused(cluster: Cluster) -> None:
    process = cluster.start("job", "submit", "--address", cluster.address, "--", "true", token=False)
    out, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "401" in out or "Unauthorized" in out or "token" in out


def test_a_store_that_only_the_head_sees_is_refused(cluster: Cluster, tiles: Path) -> None:
    # /tmp/ray is another folder on each host.
    job = cluster.submit("blind", "train", "--data", tiles, "--store", "/tmp/ray/store", *THIN)
    assert job.wait() != 0
    line = next(line.text for line in job.lines if line.text.startswith("saltray: "))
    assert "not every node sees" in line
    assert cluster.hosts[0].address not in line
    assert "use s3://" in line
    assert "exit code 2" in job.log
    assert "fold 0  " not in job.log


def test_tiles_that_only_the_head_sees_are_refused(cluster: Cluster, tiles: Path, untrained: str) -> None:
    head = cluster.hosts[0]
    ensemble = shutil.copytree(untrained, cluster.hosts.folder / "ensemble/v1")
    shutil.copytree(tiles, head.home / "tmp-ray/tiles")  # /tmp/ray/tiles on this host alone
    command = ("predict", "--ensemble", ensemble, "--data", "/tmp/ray/tiles", "--out", cluster.hosts.folder / "x.csv")
    job = cluster.submit("half-blind", *command)
    assert job.wait() != 0
    line = next(line.text for line in job.lines if line.text.startswith("saltray: "))
    assert line.startswith("saltray: not every node sees /tmp/ray/tiles (")
    assert head.address not in line
    assert all(host.address in line for host in list(cluster.hosts)[1:])
    assert "use s3://" in line
    assert "exit code 2" in job.log
    assert not list(cluster.hosts.folder.glob("*x.csv*"))


def test_a_prediction_into_the_folder_of_a_job_is_refused(cluster: Cluster, tiles: Path, untrained: str) -> None:
    job = cluster.submit("lost", "predict", "--ensemble", untrained, "--data", tiles, "--out", "x.csv")
    assert job.wait() != 0
    assert "saltray: --out x.csv is in the working directory of this one job of the cluster" in job.log
    assert "exit code 2" in job.log


def test_a_stopped_search_and_a_stopped_run_resume(cluster: Cluster, tmp_path: Path) -> None:
    shared = cluster.hosts.folder / "store"  # a folder that all hosts share is a store, too
    data = saltray.synth(cluster.hosts.folder / "more-tiles", tiles=40, seed=1, test_tiles=2)
    (tmp_path / "job.toml").write_text(
        f'data = "{data}"\nstore = "{shared}"\nrun = "r2"\n[folds]\ncount = 2\n'
        f"[train]\nepochs = {FOLD_EPOCHS}\n"
        f"[search]\nepochs = {TRIAL_EPOCHS}\nprune = false\n[search.space]\n'optim.lr' = [1e-3, 3e-3]\n"
    )

    def submit(name: str, *, forked: bool = True) -> Job:
        command = ("run", "--config", "job.toml", *THIN, "--workers-per-fold", 1)
        return cluster.submit(name, *command, folder=tmp_path, forked=forked)

    first = submit("first")
    first.wait_for("trial-000  epoch   2/")
    check_stopped(cluster, first)

    second = submit("second")
    second.wait_for("started before: ")
    assert "(from epoch" in second.wait_for("trial-000  ")
    second.wait_for("fold 0  epoch   2/")
    assert f"trial-001  finished after epoch {TRIAL_EPOCHS}" in second.log
    check_stopped(cluster, second)

    third = submit("third", forked=False)
    assert third.wait() == 0, third.log
    assert re.search(r"fold 0  resumes after epoch \d", third.log)
    assert "trial-000  epoch" not in third.log
    assert len(saltray.Ensemble.load(f"{shared}/ensembles/r2").models) == 2


def check_stopped(cluster: Cluster, job: Job) -> None:
    """`ray job stop` ends the job, and within seconds none of its actors and placement groups is left."""
    cluster.stop(job.name)
    job.wait(60)
    assert "saltray: interrupted; run the same command again to resume" in job.log

    def left() -> list[str]:
        actors = [row["class_name"] for row in cluster.table("actors") if row["state"] != "DEAD"]
        groups = [row["state"] for row in cluster.table("placement_groups") if row["state"] != "REMOVED"]
        return [name for name in actors if name not in OF_RAY] + groups

    wait_until(lambda: not left(), 30, lambda: f"left of {job.name}: {left()}")


def test_folds_survive_the_loss_of_a_host(cluster: Cluster, tiles: Path, in_s3: str) -> None:
    upload(tiles, f"{in_s3}/tiles")
    sizes = ("--folds.count", FOLDS, "--train.epochs", EPOCHS)
    command = ("train", "--data", f"{in_s3}/tiles", "--store", in_s3, *sizes, *THIN)
    job = cluster.submit("train", *command)
    victim = cluster.hosts[2]
    job.wait_until(lambda: Progress(job).may_lose(victim.address, EPOCHS - 10), "folds on both workers")
    before = Progress(job)
    saved = {fold.fold: fold.checkpoint for fold in saltray.status(store=in_s3, run="r1").folds}
    victim.kill()
    assert job.wait() == 0, job.log

    starts = Progress(job).starts
    assert [len(starts[fold][0]) for fold in range(FOLDS)].count(2) == 1  # three CPUs a worker, and pairs
    assert cluster.hosts[0].address not in set().union(*(hosts for each in starts.values() for hosts in each))
    hit = {fold for fold, each in starts.items() if victim.address in each[0]} - before.done
    assert hit >= before.training_on(victim.address)
    for fold in range(FOLDS):
        history = [row.epoch for row in epochs_of(read_history(open_store(f"{in_s3}/runs/r1/fold-{fold}")))]
        assert history == list(range(1, EPOCHS + 1))
        resumed = [int(epoch) for epoch in re.findall(rf"fold {fold}  resumes after epoch (\d+)", job.log)]
        if fold in hit:
            assert len(starts[fold]) > 1
            assert victim.address not in starts[fold][-1]
        else:
            assert (len(starts[fold]), resumed) == (1, [])
        if fold in before.training_on(victim.address):
            assert resumed[0] >= (saved[fold] or 1)
    assert len(saltray.Ensemble.load(f"{in_s3}/ensembles/r1").models) == FOLDS
    assert saltray.status(store=in_s3, run="r1").state == "finished"


def test_ray_down_leaves_nothing(cluster: Cluster) -> None:
    cluster.down()

    def left() -> list[str]:
        return [command for command in cluster.hosts.left() if command not in RAY_AGENTS]

    wait_until(lambda: not left(), 30, left)
