"""A search in the store: begun once, its trials written down before they start and when they end.

`trial-007/trial.json` says what the trial tries, `trial-007/result.json` how it ended, and both are JSON; nothing that
Ray Tune keeps is needed to go on, so no pickle crosses the store.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from saltray.config import digest, to_dict
from saltray.distributed.history import epochs_of, read_history
from saltray.distributed.objective import best_epoch, objective
from saltray.distributed.run_records import CHECKPOINTS
from saltray.distributed.search.plan import Plan
from saltray.ensemble.manifest import provenance
from saltray.errors import ConfigError, NotFoundError
from saltray.storage.base import Store

Status = Literal["running", "finished", "stopped", "diverged", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values, and how far it came."""

    index: int
    values: Mapping[str, Any]
    status: Status = "running"
    """running: not ended yet. finished: all epochs. stopped: by ASHA, as others were better after as many epochs.
    diverged: a loss became NaN or infinite. failed: for another reason; the same search again tries it anew."""
    epochs: tuple[dict[str, Any], ...] = ()
    """Its epochs so far."""
    reason: str | None = None
    """Why it diverged or failed."""

    @property
    def name(self) -> str:
        """Its folder in the search's part of the store."""
        return f"trial-{self.index:03d}"

    @property
    def best(self) -> Mapping[str, Any] | None:
        """Its best epoch; None for a trial that diverged or failed, which loses whatever it scored before."""
        return None if self.status in ("diverged", "failed") else best_epoch(self.epochs)

    @property
    def rank(self) -> tuple[float, int]:
        """The greatest is the best trial; of equals the first."""
        return objective(self.best), -self.index

    @property
    def seconds(self) -> float:
        """Time in the loop, start-up left out."""
        return float(sum(epoch["seconds"] for epoch in self.epochs))


def begin(store: Store, plan: Plan, dataset: Mapping[str, Any], initial: str | None) -> None:
    """Write what the search is, once; a later command must agree with it.

    Raises:
        ConfigError: a search of this name exists with other settings or other tiles.
    """
    record = {"identity": digest({**plan.identity, "dataset": dataset["digest"], "initial": initial})}
    manifest = {
        "search": plan.name,
        **record,
        **plan.identity,
        "config": to_dict(plan.config),
        "dataset": dataset["digest"],
        "provenance": provenance(),
    }
    before = manifest if store.put_new_json("manifest.json", manifest) else store.get_json("manifest.json")
    if before["identity"] != record["identity"]:
        raise ConfigError(
            f"search {plan.name} was begun with other {_difference(before, plan, dataset)}; "
            "give those again to go on with it, or choose another --search-name"
        )


def _difference(before: Mapping[str, Any], plan: Plan, dataset: Mapping[str, Any]) -> str:
    names = [] if before["dataset"] == dataset["digest"] else ["tiles"]
    names += [name for name, value in plan.identity.items() if name != "config" and before[name] != value]
    for section, values in plan.config.identity.items():
        was = before["config"].get(section, {})
        names += [f"{section}.{name} ({was.get(name)})" for name, value in values.items() if was.get(name) != value]
    return ", ".join(names) or "encoder weights"


def propose(store: Store, index: int, values: Mapping[str, Any]) -> Trial:
    """Write down a new trial before it starts."""
    trial = Trial(index=index, values=values)
    store.put_json(f"{trial.name}/trial.json", {"index": index, "values": dict(values)})
    return trial


def conclude(store: Store, trial: Trial) -> None:
    """Write down how a trial ended. Its checkpoints have served, unless another attempt is to go on from them."""
    record = {"status": trial.status, "reason": trial.reason, "epochs": list(trial.epochs)}
    store.put_json(f"{trial.name}/result.json", record)
    clear_checkpoints(store, [trial])


def clear_checkpoints(store: Store, trials: Iterable[Trial]) -> None:
    """Delete what nobody goes on from. A trial that was stopped may write one more while its workers are ending."""
    for trial in trials:
        if trial.status not in ("running", "failed"):
            store.delete_prefix(f"{trial.name}/{CHECKPOINTS}")


def take_stock(store: Store, epochs: int) -> list[Trial]:
    """All trials that were proposed, in order.

    Args:
        store: the search's part of the store.
        epochs: those of a whole trial. One that had run them all when its driver died is concluded now.
    """
    names = [name for name in store.folders() if name.startswith("trial-")]
    return sorted((_recall(store, name, epochs) for name in names), key=lambda trial: trial.index)


def _recall(store: Store, name: str, epochs: int) -> Trial:
    trial, home = Trial(**store.get_json(f"{name}/trial.json")), store.sub(name)
    try:
        result = store.get_json(f"{name}/result.json")
    except NotFoundError:
        history = tuple(read_history(home))
        if not history or history[-1]["epoch"] < epochs:
            return dataclasses.replace(trial, epochs=_kept_epochs(home))
        ended = dataclasses.replace(trial, status="finished", epochs=history)
        conclude(store, ended)
        return ended
    return dataclasses.replace(trial, status=result["status"], reason=result["reason"], epochs=tuple(result["epochs"]))


def _kept_epochs(home: Store) -> tuple[dict[str, Any], ...]:
    """The epochs up to a trial's newest checkpoint, from which it goes on; its history may reach further."""
    for folder in reversed(home.folders(CHECKPOINTS)):
        with suppress(NotFoundError):  # not whole: the manifest comes last
            return epochs_of(home.get_json(f"{CHECKPOINTS}/{folder}/manifest.json")["history"])
    return ()


def table_of(trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial, in the order of their names.

    Columns: trial, status, a column for each searched field, score (best validation score; none for a trial that
    diverged or failed), valid_loss and epoch of that score, epochs (run in all), seconds (in the loop), reason.
    """
    rows = []
    for trial in trials:
        best = trial.best or {}
        rows.append(
            {
                "trial": trial.name,
                "status": trial.status,
                **trial.values,
                "score": best.get("score"),
                "valid_loss": best.get("valid_loss"),
                "epoch": best.get("epoch"),
                "epochs": len(trial.epochs),
                "seconds": trial.seconds,
                "reason": trial.reason,
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"score": "float64", "valid_loss": "float64", "epoch": "Int64", "reason": "object"})


def write_results(store: Store, plan: Plan, trials: Sequence[Trial], best: Trial) -> None:
    """`trials.parquet` and `best.json`."""
    store.put_table("trials.parquet", pa.Table.from_pandas(table_of(trials), preserve_index=False))
    assert best.best is not None
    store.put_json(
        "best.json",
        {
            "search": plan.name,
            "trial": best.name,
            "values": dict(best.values),
            "score": best.best["score"],
            "epoch": best.best["epoch"],
            "folds": list(plan.folds),
            "trials": len(trials),
        },
    )
