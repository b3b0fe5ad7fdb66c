"""A run in MLflow: its settings, each fold's epochs, the scores, and the ensemble as a version of a model.

Everything sent is read from the store; `mirror` says how nothing is sent twice.
"""

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from saltray.ensemble.manifest import EnsembleManifest
from saltray.ensemble.pyfunc import POINTER
from saltray.ensemble.versions import read_manifest, resolve
from saltray.progress import (
    Event,
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldsFinishedBefore,
    FoldsMissing,
    FoldStarted,
    Published,
)
from saltray.records import flat, to_record
from saltray.runs.history import epochs_of, read_history
from saltray.runs.layout import fold_folder
from saltray.runs.mirror import Mirror, Status
from saltray.runs.records import RunManifest
from saltray.storage.base import Store

ENSEMBLE = "saltray.ensemble"
"""The tag with the URI of the published version."""


class MLflowRun:
    """Sends to MLflow what the store has of a run and MLflow has not; see `tracking.Mirrored`.

    Args:
        home: the run's part of the store.
        manifest: of the run.
    """

    what: Literal["run"] = "run"

    def __init__(self, home: Store, manifest: RunManifest) -> None:
        self._home, self._manifest = home, manifest
        self._mirror: Mirror | None = None
        self._folds: dict[int, Status] = {}
        self._ensemble: str | None = None
        self._status: Status = "RUNNING"

    def take(self, event: Event) -> bool:
        """Take in an event, and say whether there is something to send."""
        match event:
            case FoldsFinishedBefore(folds=folds):
                self._folds |= dict.fromkeys(folds, "FINISHED")
            case FoldStarted(fold=fold):
                self._folds |= {fold: "RUNNING"}
            case FoldFinished(fold=fold):
                self._folds |= {fold: "FINISHED"}
            case FoldFailed(fold=fold):
                self._folds |= {fold: "FAILED"}
            case FoldsMissing():
                self._status = "SCHEDULED"
            case Published(uri=uri):
                self._ensemble, self._status = uri, "FINISHED"
            case _:
                return isinstance(event, FoldEpoch)
        return True

    def end(self, status: Status) -> None:
        """The command ends; unless by an error, the events have told how far the run is."""
        if status != "FINISHED":
            self._folds = {fold: status if known == "RUNNING" else known for fold, known in self._folds.items()}
            self._status = status

    def send(self) -> None:
        """Send what is missing."""
        mirror = self._open()
        for fold, status in dict(self._folds).items():
            if epochs := epochs_of(read_history(self._home.sub(fold_folder(fold)))):
                run = mirror.nested(str(fold), fold_folder(fold))
                mirror.send_epochs(run, epochs)
                mirror.tell_status(run, status)
        ensemble, status = self._ensemble, self._status
        if ensemble is not None and mirror.client.get_run(mirror.run).data.tags.get(ENSEMBLE) != ensemble:
            _send_ensemble(mirror, ensemble)
        mirror.tell_status(mirror.run, status)

    def _open(self) -> Mirror:
        manifest = self._manifest
        self._mirror = mirror = self._mirror or Mirror(
            self._home, manifest.run, manifest.identity, extensible=True, kind="run", part="fold"
        )
        tags = {} if manifest.config.recipe is None else {"saltray.recipe": manifest.config.recipe}
        if (found := manifest.search_provenance) is not None:
            tags |= {"saltray.search": found.uri, "saltray.trial": found.trial}
        mirror.open(dict(flat(to_record(manifest.config))), tags)
        return mirror


def _send_ensemble(mirror: Mirror, uri: str) -> None:
    """The out-of-fold scores, the model, and last the tag that says that they are there."""
    manifest = read_manifest(resolve(uri))
    for name, value in _scores(manifest).items():
        mirror.client.log_metric(mirror.run, name, value, step=manifest.config.train.epochs)
    _register(mirror, uri, manifest)
    mirror.client.set_tag(mirror.run, ENSEMBLE, uri)


def _register(mirror: Mirror, uri: str, manifest: EnsembleManifest) -> None:
    """A version of the model that is named as the ensemble.

    Its files only point to the ensemble: MLflow's server refuses a folder, or a bucket's part, that is not the
    run's own, and could not load it. What is registered here, `mlflow.pyfunc.load_model` loads.
    """
    from mlflow import MlflowException, pyfunc

    versions = mirror.client.search_model_versions(f"name='{manifest.name}'")
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
        mirror.client.log_artifacts(mirror.run, str(Path(place, folder)), folder)
    try:
        mirror.client.create_registered_model(manifest.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{mirror.client.get_run(mirror.run).info.artifact_uri}/{folder}"
    tags = {ENSEMBLE: uri, "saltray.version": version("saltray")}
    mirror.client.create_model_version(manifest.name, source, run_id=mirror.run, tags=tags, await_creation_for=0)


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
