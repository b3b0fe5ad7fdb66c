"""What MLflow is told of a run or a search, where MLFLOW_TRACKING_URI is set: in a thread, and never in its way."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Literal, Protocol

from saltray.errors import ConfigError, RunLockedError, one_line
from saltray.progress import Event, MLflowFailed, Observer
from saltray.runs.mirror import Status

URI = "MLFLOW_TRACKING_URI"
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # each of its own would be a warning on the terminal
}
"""MLflow's own settings, unless they are set, while a command runs: by default it tries for a quarter of an hour."""
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


class Mirrored(Protocol):
    """What is mirrored in MLflow: a run or a search. `send` is called in a thread of its own."""

    @property
    def what(self) -> Literal["run", "search"]:
        """What it is."""

    def take(self, event: Event) -> bool:
        """Take in an event, and say whether there is something to send."""

    def end(self, status: Status) -> None:
        """The command ends: FINISHED, or by an error, or by Ctrl-C, for one, KILLED."""

    def send(self) -> None:
        """Send what MLflow lacks.

        Raises:
            mlflow.MlflowException, and others of its many clients: MLflow cannot be reached, or refuses.
            StorageError: the store cannot.
        """


@contextmanager
def tracked(mirrored: Mirrored, observer: Observer) -> Iterator[Observer]:
    """An observer that tells another one all, and MLflow what the store has, if there is a tracking URI.

    Args:
        mirrored: the run or the search.
        observer: is told once when MLflow fails; that does no harm to the run or the search.
    """
    if not os.environ.get(URI):
        yield observer
        return
    set_here = {name: value for name, value in (PATIENCE | QUIET).items() if name not in os.environ}
    os.environ.update(set_here)
    try:
        with Tracking(mirrored, observer) as tracking:
            yield tracking
    finally:
        for name in set_here:
            os.environ.pop(name, None)


class Tracking:
    """The observer, and the thread that sends; a context manager."""

    def __init__(self, mirrored: Mirrored, observer: Observer) -> None:
        self._mirrored, self._observer = mirrored, observer
        self._fault: str | None = None
        self._told = False
        self._imported, self._news, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, name="mlflow", daemon=True)

    def __call__(self, event: Event) -> None:
        """Tell the observer, and wake the thread."""
        self._observer(event)
        if self._mirrored.take(event):
            self._news.set()
            self._tell_fault()

    def __enter__(self) -> "Tracking":
        self._news.set()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._mirrored.end("FINISHED")
        elif not issubclass(kind, RunLockedError):  # another process runs it then
            self._mirrored.end("FAILED" if issubclass(kind, Exception) else "KILLED")
        self._ending.set()
        self._news.set()
        if kind is None:
            self._imported.wait()  # some seconds, where there was nothing to train
        self._thread.join(LAST_S if kind is None else LAST_S / 10)
        if self._thread.is_alive() and self._fault is None:
            self._fault = f"it has not taken all within {LAST_S:g} s"
        self._tell_fault()

    def _tell_fault(self) -> None:
        if self._fault is not None and not self._told:
            self._told = True
            self._observer(MLflowFailed(self._fault, self._mirrored.what))

    def _keep_sending(self) -> None:
        """Send whenever there is news, until the end; some time after a fault, anew."""
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
                self._mirrored.send()
            except Exception as error:  # whatever its clients, proxies and plugins raise: no run must end by it
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
