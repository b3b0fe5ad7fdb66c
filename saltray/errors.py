"""The exceptions that saltray raises on purpose.

    SaltrayError                 the user can fix it: one line, exit code 2
    ├── ConfigError              a setting is wrong, or two settings contradict each other
    ├── DataError                a data set cannot be used as it is; `problems` lists every fault by file
    ├── ModelError               weights or an input size do not fit the model
    ├── StorageError             the object store refuses, or cannot be reached
    │   ├── NotFoundError        no object of that key
    │   └── IntegrityError       an object is not the one that was written
    ├── RunLockedError           another live process owns the run or search
    ├── ResourceError            the cluster can never hold what was asked for
    ├── EnsembleError            an ensemble is incomplete or unusable
    └── TrainingError            training itself went wrong: exit code 1
        ├── DivergedError        a loss that is NaN or infinite
        ├── FoldsFailedError     some folds did not finish; the finished ones are kept
        └── SearchFailedError    no trial of a search has a score

A message says what happened, the value and the remedy, in that order, on one line.
Every exception is rebuilt from its `args` alone, so all of them survive pickling between processes.
"""


class SaltrayError(Exception):
    """Something the user can fix. `str(error)` is one line."""

    exit_code = 2


class ConfigError(SaltrayError):
    """A setting has an impossible value, or two settings contradict each other."""


class DataError(SaltrayError):
    """A data set cannot be used.

    Args:
        message: one line for the terminal.
        problems: every fault found, one line each, starting with the file's name; many of one kind are one line.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, problems)
        self.problems = problems

    def __str__(self) -> str:
        return str(self.args[0])


class ModelError(SaltrayError):
    """Weights or an input do not fit the model."""


class StorageError(SaltrayError):
    """The object store refused a request, or could not be reached within the deadline."""


class NotFoundError(StorageError):
    """There is no object of that key."""


class IntegrityError(StorageError):
    """An object's bytes are not those whose digest was recorded."""


class RunLockedError(SaltrayError):
    """Another live process owns the run or search."""


class ResourceError(SaltrayError):
    """The cluster can never hold what the configuration asks for."""


class EnsembleError(SaltrayError):
    """An ensemble is incomplete, damaged or does not exist."""


class TrainingError(SaltrayError):
    """Training itself went wrong."""

    exit_code = 1


class DivergedError(TrainingError):
    """A loss became NaN or infinite."""


class FoldsFailedError(TrainingError):
    """Some folds did not finish. The finished ones are kept, and the same command trains the rest.

    Args:
        message: one line for the terminal.
        failures: fold number -> what went wrong there, one line.
    """

    def __init__(self, message: str, failures: dict[int, str]) -> None:
        super().__init__(message, failures)
        self.failures = failures

    def __str__(self) -> str:
        return str(self.args[0])


class SearchFailedError(TrainingError):
    """No trial of a search has a score.

    Args:
        message: one line for the terminal.
        failures: name of a trial -> what went wrong there, one line.
    """

    def __init__(self, message: str, failures: dict[str, str]) -> None:
        super().__init__(message, failures)
        self.failures = failures

    def __str__(self) -> str:
        return str(self.args[0])


def one_line(error: BaseException, limit: int | None = None) -> str:
    """An exception's message on one line, or the name of its type if the message is empty.

    Args:
        error: of any library.
        limit: the most characters of it; some messages quote a whole file.
    """
    return (" ".join(str(error).split()) or type(error).__name__)[:limit]
