"""What the driver says of folds that run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saltray.config import Config
from saltray.distributed import folds
from saltray.distributed.history import History
from saltray.distributed.jobs import Job
from saltray.storage.names import open_store


def test_a_fold_without_machines_says_that_it_waits(
    small: Callable[..., Config],
    tiles_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(folds, "PATIENCE_S", 0.0)
    run = open_store(f"{tmp_path}/runs/r1")
    job = Job(small(tiles_folder, tmp_path), "fold-3", (3,), None, np.zeros(1, np.int64), run)
    progress = folds._Progress(job)
    progress.show()
    assert capsys.readouterr().out.startswith("fold 3  has waited 0 min for its machines; `ray status` ")
    with History(job.home) as history:
        history.note("runs on 10.0.0.1")
    progress.show()
    progress.show()
    assert capsys.readouterr().out == "fold 3  runs on 10.0.0.1\n"
