"""What MLflow is told of a run while it trains, where MLFLOW_TRACKING_URI is set: in a thread, and never in its way."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType

from saltray.errors import ConfigError, RunLockedError, one_line
from saltray.progress import (
    Event,
    FoldEpoch,
    FoldFailed,
    FoldFinished,
    FoldsFinishedBefore,
    FoldsMissing,
    FoldStarted,
    MLflowFailed,
    Observer,
    Published,
)
from saltray.runs.mlflow_run import MLflowRun, Status
from saltray.runs.records import RunManifest
from saltray.storage.base import Store

URI = "MLFLOW_TRACKING_URI"
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # each of its own would be a warning on the terminal
}
"""MLflow's own settings, unless they are set, for the time of a run: by default it tries for a quarter of an hour."""
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
RETRIES_S = (5.0, 60.0)
"""Delay before a retry: after the first failure, of which nobody is told, and after each further one in a row."""
LAST_S = 60.0
"""For what is left to send at the end; after an exception, Ctrl-C for one, a tenth of it."""


def check_tracking() -> None:
    """Refuse to start where MLflow is asked for and not installed.

    Raises:
        ConfigError: it is.
    """
    if os.environ.get(URI) and find_spec("mlflow") is None:
        raise ConfigError(f"{URI} is set, but MLflow is not installed; `pip install 'saltray[mlflow]'`, or unset it")


@contextmanager
def tracked(home: Store, manifest: RunManifest, observer: Observer) -> Iterator[Observer]:
    """An observer that tells another one all, and MLflow what the store has of the run, if there is a tracking URI.

    Args:
        home: the run's part of the store.
        manifest: of the run.
        observer: is told once when MLflow fails; that does no harm to the run.
    """
    if not os.environ.get(URI):
        yield observer
        return
    set_here = {name: value for name, value in (PATIENCE | QUIET).items() if name not in os.environ}
    os.environ.update(set_here)
    try:
        with Tracking(home, manifest, observer) as tracking:
            yield tracking
    finally:
        for name in set_here:
            os.environ.pop(name, None)


class Tracking:
    """The observer, and the thread that sends; a context manager."""

    def __init__(self, home: Store, manifest: RunManifest, observer: Observer) -> None:
        self._home, self._manifest, self._observer = home, manifest, observer
        self._folds: dict[int, Status] = {}
        self._ensemble: str | None = None
        self._status: Status = "RUNNING"
        self._fault: str | None = None
        self._told = False
        self._imported, self._news, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, name="mlflow", daemon=True)

    def __call__(self, event: Event) -> None:
        """Tell the observer, and wake the thread."""
        self._observer(event)
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
            case FoldEpoch():
                pass
            case _:
                return
        self._news.set()
        self._tell_fault()

    def __enter__(self) -> "Tracking":
        self._news.set()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None and not issubclass(kind, RunLockedError):  # another process runs it then
            status: Status = "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._folds = {fold: status if known == "RUNNING" else known for fold, known in self._folds.items()}
            self._status = status
        self._ending.set()
        self._news.set()
        if kind is None:
            self._imported.wait()  # some seconds, where there was nothing to train
        self._thread.join(LAST_S if kind is None else LAST_S / 10)
        if self._thread.is_alive() and self._fault is None:
            self._fault = "it does not answer"
        self._tell_fault()

    def _tell_fault(self) -> None:
        if self._fault is not None and not self._told:
            self._told = True
            self._observer(MLflowFailed(self._fault))

    def _keep_sending(self) -> None:
        """Send whenever there is news, until the end; some time after a fault, anew."""
        run: MLflowRun | None = None
        ended, faults = False, 0
        try:
            import mlflow.pyfunc  # noqa: F401
        except Exception as error:  # whatever a broken installation raises
            self._fault = _plain(one_line(error))
            return
        finally:
            self._imported.set()
        while not ended:
            self._news.wait()
            self._news.clear()
            ended = self._ending.is_set()
            try:
                run = run or MLflowRun(self._home, self._manifest)
                run.send(dict(self._folds), self._ensemble, self._status)
            except Exception as error:  # whatever its clients, proxies and plugins raise: the run must not end by it
                faults += 1
                if faults > 1 or ended:
                    self._fault = _plain(one_line(error))
                self._ending.wait(RETRIES_S[faults > 1])
                self._news.set()
            else:
                self._fault, faults = None, 0


def _plain(text: str) -> str:
    """Without the user and the password that a URI may have."""
    return re.sub(r"//[^/\s]*@", "//", text)
