"""What MLflow has of a run or a search: one of its runs, and one nested in that for each fold or trial.

`mlflow.json` in the store has the ids of MLflow's runs. So the same command, or a later one, sends what is missing, and
nothing twice: after an interruption, or after MLflow could not be reached.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from saltray.errors import NotFoundError
from saltray.records import Sha256
from saltray.runs.layout import MLFLOW
from saltray.runs.tensorboard import SCALARS
from saltray.storage.base import Store
from saltray.training.epoch_metrics import EpochMetrics

if TYPE_CHECKING:
    from mlflow.entities import Metric

Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
"""MLflow's."""
BATCH = 100
"""Parameters, or epochs, of a request."""
LONGEST = 5000
"""Characters of a parameter or a tag: MLflow refuses longer ones."""


@dataclass(frozen=True, kw_only=True)
class MLflowIds:
    """`mlflow.json` of a run or a search: the runs of MLflow that mirror it."""

    identity: Sha256
    """Of the run or the search that they mirror."""
    experiment: str
    run: str
    nested: Annotated[dict[str, str], Field(alias="folds")] = field(default_factory=dict)
    """Fold, or name of a trial -> its own run, nested in the other."""


class Mirror:
    """The runs of MLflow, those of an earlier command or new ones; `open` comes before all else.

    Args:
        home: the part of the store of the run or the search.
        name: of MLflow's run.
        identity: of the run or the search.
        extensible: whether another identity may be that of the same one, with more epochs.
        kind: what it is.
        part: what its parts are.
    """

    def __init__(
        self,
        home: Store,
        name: str,
        identity: Sha256,
        *,
        extensible: bool,
        kind: Literal["run", "search"],
        part: Literal["fold", "trial"],
    ) -> None:
        from mlflow import MlflowClient

        self.client: MlflowClient = MlflowClient()
        self._home, self._name, self._identity = home, name, identity
        self._extensible, self._kind, self._part = extensible, kind, part
        self._sent: dict[str, int] = {}
        self._new: set[str] = set()  # created by this command, so that MLflow has nothing of them yet
        self._told: dict[str, str] = {}
        self._known: MLflowIds | None = None

    def open(self, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Find the runs, or create one, and send what it is; once.

        Raises:
            mlflow.MlflowException, and others of its many clients: MLflow cannot be reached, or refuses.
            StorageError: the store cannot.
        """
        if self._known is None:
            ids = self._find()
            self._home.put_record(MLFLOW, ids)
            self.send_settings(ids.run, settings)
            self.set_tags(ids.run, tags)
            self._known = ids

    @property
    def _ids(self) -> MLflowIds:
        assert self._known is not None
        return self._known

    @property
    def run(self) -> str:
        """The id of the run that the others are nested in."""
        return self._ids.run

    def has_told(self, part: str, status: Status) -> bool:
        """Whether a fold or a trial has this last status, which is sent after all the rest."""
        run = self._ids.nested.get(part)
        return run is not None and self._told.get(run) == status and status not in ("RUNNING", "SCHEDULED")

    def nested(self, part: str, name: str) -> str:
        """The id of the nested run of a fold or a trial, whose charts lie over those of the others."""
        if (found := self._ids.nested.get(part)) is not None:
            return found
        tags = {"mlflow.parentRunId": self.run, "mlflow.source.name": "saltray", f"saltray.{self._part}": part}
        run = str(self.client.create_run(self._ids.experiment, run_name=name, tags=tags).info.run_id)
        self._new.add(run)
        self._sent[run] = 0
        self._known = replace(self._ids, nested=self._ids.nested | {part: run})
        self._home.put_record(MLFLOW, self._ids)
        return run

    def send_settings(self, run: str, settings: Mapping[str, Any]) -> None:
        """Those that MLflow lacks: it lets none be changed, and another number of GPUs makes no other run."""
        from mlflow.entities import Param

        known = {} if run in self._new else self.client.get_run(run).data.params
        params = [Param(name, str(value)[:LONGEST]) for name, value in settings.items() if name not in known]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run, params=params[start : start + BATCH])

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """New ones, or other values of old ones."""
        for name, value in tags.items():
            self.client.set_tag(run, name, value[:LONGEST])

    def send_epochs(self, run: str, epochs: Sequence[EpochMetrics]) -> None:
        """Those that MLflow lacks."""
        if run not in self._sent:
            history = self.client.get_metric_history(run, "loss")
            self._sent[run] = max((metric.step for metric in history), default=0)
        missing = [epoch for epoch in epochs if epoch.epoch > self._sent[run]]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            self.client.log_batch(run, metrics=[metric for epoch in part for metric in _metrics(epoch, time.time())])
            self._sent[run] = part[-1].epoch

    def set_metric(self, run: str, name: str, value: float, *, step: int) -> None:
        """A number of which the last one counts, unless it is there."""
        known = None if run in self._new else self.client.get_run(run).data.metrics.get(name)
        if known != value:
            self.client.log_metric(run, name, value, step=step)

    def tell_status(self, run: str, status: Status) -> None:
        """After all that the status is about."""
        if self._told.get(run) == status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run, status=status)
        else:
            self.client.set_terminated(run, status)
        self._told[run] = status

    def _find(self) -> MLflowIds:
        """The ids of an earlier command, but for runs that somebody has deleted, or those of a new run."""
        known: MLflowIds | None = None
        with suppress(NotFoundError):
            known = self._home.get_record(MLFLOW, MLflowIds)
        # What never trained an epoch may have been begun anew with other settings; after that, a run only gets longer.
        identity = self._identity
        same = known is not None and (known.identity == identity or (self._extensible and bool(known.nested)))
        if known is not None and same and self._is_alive(known):
            self._told = self._statuses(known)
            nested = {part: run for part, run in known.nested.items() if run in self._told}
            return replace(known, identity=identity, nested=nested)
        experiment = self._experiment()
        tags = {
            "mlflow.source.name": "saltray",
            f"saltray.{self._kind}": self._home.uri,
            "saltray.version": version("saltray"),
        }
        run = self.client.create_run(experiment, run_name=self._name, tags=tags)
        return MLflowIds(identity=identity, experiment=experiment, run=run.info.run_id)

    def _is_alive(self, ids: MLflowIds) -> bool:
        """Whether the run is on this server, and nobody has deleted it."""
        from mlflow import MlflowException

        try:
            return bool(self.client.get_run(ids.run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _statuses(self, ids: MLflowIds) -> dict[str, str]:
        """The status of each nested run that is there."""
        found: dict[str, str] = {}
        token: str | None = None
        while ids.nested:
            page = self.client.search_runs([ids.experiment], f"tags.mlflow.parentRunId = '{ids.run}'", page_token=token)
            found |= {run.info.run_id: run.info.status for run in page}
            if not (token := page.token):
                break
        return found

    def _experiment(self) -> str:
        """The id of the experiment that MLflow's own variables name."""
        if experiment := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return experiment
        if not (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
            return "0"
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self.client.create_experiment(name))


def _metrics(epoch: EpochMetrics, now: float) -> "Iterator[Metric]":
    """At the time when the epoch ended, or now where that is not known."""
    from mlflow.entities import Metric

    for name in SCALARS:
        if (value := getattr(epoch, name)) is not None:
            yield Metric(name, value, int(getattr(epoch, "at", now) * 1000), epoch.epoch)
