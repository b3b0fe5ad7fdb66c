"""`saltray status`: how far a run is, or which runs and pretrainings a store has, from the store alone."""

from saltray.commands.root import open_root
from saltray.runs.status import PretrainStatus, RunStatus, RunSummary, pretrain_statuses, run_status, run_summaries


def status(store: str, run: str) -> RunStatus:
    """How far each fold of a run is.

    Times, and whether an owner is alive, are as accurate as the clocks of the machines.

    Args:
        store: a folder or s3://bucket/prefix.
        run: name of the run.

    Raises:
        NotFoundError: there is no such run.
        ConfigError: that is no store.
        StorageError: the store cannot be reached.
    """
    return run_status(open_root(store), run)


def list_runs(store: str) -> list[RunSummary]:
    """All runs of a store, by name.

    Args:
        store: a folder or s3://bucket/prefix.

    Raises:
        ConfigError: that is no store.
        StorageError: the store cannot be reached.
    """
    return run_summaries(open_root(store))


def list_pretrainings(store: str) -> list[PretrainStatus]:
    """All pretrainings of a store, by name.

    Args:
        store: a folder or s3://bucket/prefix.

    Raises:
        ConfigError: that is no store.
        StorageError: the store cannot be reached.
    """
    return pretrain_statuses(open_root(store))
