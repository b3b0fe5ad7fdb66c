"""A run in MLflow: its settings, each fold's epochs, the scores, and the ensemble as a version of a model.

Everything sent is read from the store, and `mlflow.json` there has the ids of MLflow's runs. So the same command, or a
later one, sends what is missing, and nothing twice: after an interruption, or after MLflow could not be reached.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.pyfunc import POINTER
from saltray.ensemble.versions import read_manifest, resolve
from saltray.errors import NotFoundError
from saltray.records import Fold, Sha256, flat, to_record
from saltray.runs.history import EpochRecord, epochs_of, read_history
from saltray.runs.layout import MLFLOW, fold_folder
from saltray.runs.records import RunManifest
from saltray.runs.tensorboard import SCALARS
from saltray.storage.base import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric

Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
"""MLflow's; SCHEDULED is a run some of whose folds were not asked for yet."""
BATCH = 100
"""Parameters, or epochs, of a request."""
ENSEMBLE = "saltray.ensemble"
"""The tag with the URI of the published version."""


@dataclass(frozen=True, kw_only=True)
class MLflowIds:
    """`runs/<run>/mlflow.json`: the runs of MLflow that mirror this one."""

    identity: Sha256
    """Of the run that they mirror."""
    experiment: str
    run: str
    folds: dict[str, str] = field(default_factory=dict)
    """Fold -> its own run, nested in the other."""


class MLflowRun:
    """Sends to MLflow what the store has of a run and MLflow has not.

    Args:
        home: the run's part of the store.
        manifest: of the run.
    """

    def __init__(self, home: Store, manifest: RunManifest) -> None:
        from mlflow import MlflowClient

        self._home, self._manifest = home, manifest
        self._client: MlflowClient = MlflowClient()
        self._ids: MLflowIds | None = None
        self._sent: dict[int, int] = {}
        self._told: dict[str, Status] = {}

    def send(self, folds: Mapping[int, Status], ensemble: str | None, status: Status) -> None:
        """Send what is missing.

        Args:
            folds: those that have started, and how far they are.
            ensemble: URI of the published version, once there is one.
            status: of the run.

        Raises:
            mlflow.MlflowException, and others of its many clients: MLflow cannot be reached, or refuses.
            StorageError: the store cannot.
        """
        ids = self._ids = self._ids or self._open()
        for fold in folds:
            self._send_fold(fold, folds[fold])
        if ensemble is not None and self._client.get_run(ids.run).data.tags.get(ENSEMBLE) != ensemble:
            self._send_ensemble(ids.run, ensemble)
        self._tell_status(ids.run, status)

    def _open(self) -> MLflowIds:
        """The runs of an earlier command, or a new one."""
        known: MLflowIds | None = None
        with suppress(NotFoundError):
            known = self._home.get_record(MLFLOW, MLflowIds)
        # One that never trained an epoch may have been begun anew with other settings; after that, it only gets longer.
        if known is not None and (known.identity == self._manifest.identity or known.folds) and self._is_alive(known):
            ids = replace(known, identity=self._manifest.identity)
        else:
            experiment = self._experiment()
            tags = {
                "mlflow.source.name": "saltray",
                "saltray.run": self._home.uri,
                "saltray.version": version("saltray"),
            }
            run = self._client.create_run(experiment, run_name=self._manifest.run, tags=tags)
            ids = MLflowIds(identity=self._manifest.identity, experiment=experiment, run=run.info.run_id)
        self._home.put_record(MLFLOW, ids)
        self._send_settings(ids.run)
        return ids

    def _is_alive(self, ids: MLflowIds) -> bool:
        """Whether the run is on this server, and nobody has deleted it."""
        from mlflow import MlflowException

        try:
            return bool(self._client.get_run(ids.run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _experiment(self) -> str:
        """The id of the experiment that MLflow's own variables name."""
        if experiment := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return experiment
        if not (name := os.environ.get("MLFLOW_EXPERIMENT_NAME")):
            return "0"
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _send_settings(self, run: str) -> None:
        """Those that MLflow lacks: it lets none be changed, and another number of GPUs makes no other run."""
        from mlflow.entities import Param

        known = self._client.get_run(run).data.params
        settings = dict(flat(to_record(self._manifest.config)))
        params = [Param(name, str(value)) for name, value in settings.items() if name not in known]
        for start in range(0, len(params), BATCH):
            self._client.log_batch(run, params=params[start : start + BATCH])
        if (recipe := self._manifest.config.recipe) is not None:
            self._client.set_tag(run, "saltray.recipe", recipe)

    def _send_fold(self, fold: Fold, status: Status) -> None:
        epochs = epochs_of(read_history(self._home.sub(fold_folder(fold))))
        if not epochs:
            return
        run = self._fold_run(fold)
        if fold not in self._sent:
            history = self._client.get_metric_history(run, "loss")
            self._sent[fold] = max((metric.step for metric in history), default=0)
        missing = [epoch for epoch in epochs if epoch.epoch > self._sent[fold]]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            self._client.log_batch(run, metrics=[metric for epoch in part for metric in _metrics(epoch)])
            self._sent[fold] = part[-1].epoch
        self._tell_status(run, status)

    def _fold_run(self, fold: Fold) -> str:
        """The nested run of a fold, whose charts then lie over those of the others."""
        assert self._ids is not None
        if (found := self._ids.folds.get(str(fold))) is not None:
            return found
        tags = {"mlflow.parentRunId": self._ids.run, "mlflow.source.name": "saltray", "saltray.fold": str(fold)}
        created = self._client.create_run(self._ids.experiment, run_name=fold_folder(fold), tags=tags)
        run = str(created.info.run_id)
        self._ids = replace(self._ids, folds=self._ids.folds | {str(fold): run})
        self._home.put_record(MLFLOW, self._ids)
        return run

    def _send_ensemble(self, run: str, uri: str) -> None:
        """The out-of-fold scores, the model, and last the tag that says that they are there."""
        manifest = read_manifest(resolve(uri))
        for name, value in _scores(manifest).items():
            self._client.log_metric(run, name, value, step=manifest.config.train.epochs)
        self._register(run, uri, manifest)
        self._client.set_tag(run, ENSEMBLE, uri)

    def _register(self, run: str, uri: str, manifest: EnsembleManifest) -> None:
        """A version of the model that is named as the ensemble.

        Its files only point to the ensemble: MLflow's server refuses a folder, or a bucket's part, that is not the
        run's own, and could not load it. What is registered here, `mlflow.pyfunc.load_model` loads.
        """
        from mlflow import MlflowException, pyfunc

        versions = self._client.search_model_versions(f"name='{manifest.name}'")
        if any(found.tags.get(ENSEMBLE) == uri for found in versions):
            return
        folder = f"model-{manifest.version}"
        with tempfile.TemporaryDirectory(prefix="saltray-") as place:
            pointer = Path(place, POINTER)
            pointer.write_text(json.dumps({"uri": uri}))
            pyfunc.save_model(
                Path(place, folder),
                loader_module="saltray.ensemble.pyfunc",
                data_path=pointer,
                pip_requirements=["saltray[mlflow]==" + version("saltray")],
            )
            self._client.log_artifacts(run, str(Path(place, folder)), folder)
        try:
            self._client.create_registered_model(manifest.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(run).info.artifact_uri}/{folder}"
        tags = {ENSEMBLE: uri, "saltray.version": version("saltray")}
        self._client.create_model_version(manifest.name, source, run_id=run, tags=tags, await_creation_for=0)

    def _tell_status(self, run: str, status: Status) -> None:
        if self._told.get(run) == status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status)
        self._told[run] = status


def _metrics(epoch: EpochRecord) -> "Iterator[Metric]":
    from mlflow.entities import Metric

    for name in SCALARS:
        if (value := getattr(epoch, name)) is not None:
            yield Metric(name, value, int(epoch.at * 1000), epoch.epoch)


def _scores(manifest: EnsembleManifest) -> dict[str, float]:
    """Of the ensemble, out of fold."""
    scores = {"out_of_fold_score_at_half": manifest.score, "baseline_score": manifest.baseline}
    if (found := manifest.evaluation) is not None:
        scores["out_of_fold_score"] = found.score
        scores["out_of_fold_score_low"] = found.interval.low
        scores["out_of_fold_score_high"] = found.interval.high
        if found.spread is not None:
            scores["spread_over_folds"] = found.spread
    return scores
