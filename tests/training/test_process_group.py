"""Sums over the ranks of a real process group, and over one rank without any."""

from typing import Any

import pytest
import torch

from saltray.training.process_group import ProcessGroup


@pytest.mark.parametrize("device", ["cpu", torch.device("meta")])
def test_single_is_the_only_rank(device: str | torch.device) -> None:
    group = ProcessGroup.single(device)
    assert (group.rank, group.size, group.device) == (0, 1, torch.device(device))
    tensor = torch.tensor([3.0])
    assert group.sum(tensor) is tensor


@pytest.mark.parametrize("rank", ["0", "1"])
def test_every_rank_gets_the_sum(two_ranks: dict[str, dict[str, Any]], rank: str) -> None:
    assert two_ranks["alone"]["sum"].tolist() == [1, 10]
    assert two_ranks[rank]["sum"].tolist() == [1 + 2, 10 + 20]
