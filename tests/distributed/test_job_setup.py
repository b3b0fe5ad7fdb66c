"""A rank's process group; what it makes of a job is tested with the training, in test_worker.py."""

from types import SimpleNamespace

import pytest
import ray
import ray.train
import ray.train.torch
import torch

from saltray.distributed.job_setup import process_group_of


def test_the_process_group_is_the_one_that_ray_train_started(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 4)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for cpus in (0.01, 0.5, 3.0, 12.0):
        assigned = SimpleNamespace(get_assigned_resources=lambda cpus=cpus: {"CPU": cpus})
        monkeypatch.setattr(ray, "get_runtime_context", lambda assigned=assigned: assigned)
        group = process_group_of()
        assert (group.rank, group.size, group.device.type) == (1, 4, "cpu")
    assert threads == [1, 1, 3, 12]  # no more than the rank's own share of the CPUs
