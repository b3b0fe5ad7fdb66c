"""The Ray cluster: join the one this process belongs to, or start one on this machine."""

import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saltray.distributed.address import cannot_join, check_address, joins_cluster
from saltray.distributed.fork_server import fork_server
from saltray.distributed.machine import this_machine
from saltray.errors import ResourceError, SaltrayError
from saltray.progress import Observer, RayConnected

log = logging.getLogger(__name__)

ENVIRONMENT = {
    # OpenMP threads sleep while they wait, so that ranks can share cores.
    "OMP_WAIT_POLICY": "passive",
    # saltray starts a job only when it fits; an autoscaling cluster may take its time.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # Ray Train's controller takes one report per poll; at its default of 2 s, jobs of shorter epochs wait at their end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # One process less per job.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A rank stays in the folder it was started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Under `uv run` Ray would start each worker by a `uv run` of its own and upload the working folder.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A machine with a cold disk takes longer to start Ray than the 30 s that Ray waits.
    "RAY_gcs_server_port_wait_time_s": "120",
    # Likewise a worker, which Ray kills after 60 s; it may wait for its fork, and then start on its own.
    "RAY_worker_register_timeout_seconds": "300",
    # A container's /dev/shm has 64 MB unless told otherwise; then the object store is a file on the disk.
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    # Messages of Ray's that a user cannot act on: many worker processes are intended, and where one died saltray tells
    # the consequence.
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_DEDUP_LOGS_SKIP_REGEX": (
        "worker processes have been started|A worker died or was killed|Raylet is terminated|"
        "ServeController.graceful_shutdown"
    ),
    # Ctrl-C ends a search at once, as it ends training; saltray writes its own records of the trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""What Ray reads from the environment, on a cluster too."""
SINGLE_MACHINE_ONLY = {
    # A single machine is not preempted, and one helper process per job is saved.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers have a runtime environment, so that those which Ray starts beforehand, without one, would stay idle.
    "RAY_prestart_worker_first_driver": "0",
    # Ranks listen, without authentication, on the interface that the host name resolves to, unless told otherwise.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}
"""The rest, for a Ray that runs on one machine: on a cluster the ranks could not reach each other."""
FOLDER = re.compile(r"[\w./+@=-]{1,38}", re.ASCII)
"""A folder in which Ray can start: its sockets' paths are up to 68 characters longer, of at most 107."""

END_S = 15.0
"""Longest wait for the actors and threads of a job that is stopped, and again once the rest of Ray was killed."""
LOOK_S = 0.1
QUIET_LOOKS = 3
"""Looks in a row at which nothing was left, before a process disconnects from Ray."""

_one_thread = threading.RLock()
"""Held by the thread that uses Ray: a process connects to one Ray at a time, and whoever ends it ends it for all."""


def set_environment(*, single_machine: bool) -> None:
    """Set what Ray reads from the environment of this process, where the user has not.

    Args:
        single_machine: whether all processes of Ray are on this machine.
    """
    for name, value in (ENVIRONMENT | (SINGLE_MACHINE_ONLY if single_machine else {})).items():
        os.environ.setdefault(name, value)


@contextmanager
def some_home() -> Iterator[None]:
    """Let this process and its children have a home: Ray cannot be imported without one.

    A process has none without HOME and a user of its number, as in some containers. A folder that others can write
    would not do: AWS's libraries take settings from the home, and with them commands to run.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = os.environ["HOME"] = tempfile.mkdtemp(prefix="saltray-home-")
        try:
            yield
        finally:
            os.environ.pop("HOME", None)
            shutil.rmtree(folder, ignore_errors=True)
    else:
        yield


@contextmanager
def only_thread() -> Iterator[None]:
    """Refuse a second thread while one is in such a block.

    Raises:
        ResourceError: another thread is in it.
    """
    if not _one_thread.acquire(blocking=False):
        raise ResourceError(
            "another thread of this process runs a command of saltray's, and a process has one Ray; run them one after "
            "the other, or in processes of their own"
        )
    try:
        yield
    finally:
        _one_thread.release()


@contextmanager
def ray_cluster(*, num_cpus: int | None = None, observer: Observer | None = None) -> Iterator[str]:
    """Connect to Ray for the duration of the block; yields a description of the cluster.

    A Ray that the caller has already connected to is used and left as it is. RAY_ADDRESS, which every Ray job has,
    names the cluster to join. Otherwise a Ray of its own is started on this machine and ended with the block; a cluster
    that merely happens to run here is not joined.

    What Ray and its workers print goes to their logs, and also to this process's output if the logger "saltray" has the
    level DEBUG.

    Args:
        num_cpus: logical CPUs of a Ray that is started here; those of the machine unless given.
        observer: receives a RayConnected event, unless the caller had connected before.

    Raises:
        ConfigError: RAY_ADDRESS names no cluster that can be joined.
        ResourceError: Ray does not start here, or another thread is in such a block.
    """
    with only_thread(), some_home(), _connected(num_cpus, observer) as where:
        yield where


@contextmanager
def _connected(num_cpus: int | None, observer: Observer | None) -> Iterator[str]:
    joins = joins_cluster()
    where = f"the Ray cluster at {os.environ['RAY_ADDRESS']}" if joins else "Ray on this machine"
    if is_connected():
        set_environment(single_machine=False)  # it has started with what was set then
        yield where
        return
    set_environment(single_machine=not joins)
    logging.getLogger("ray.widgets").setLevel(logging.ERROR)  # in a notebook it asks for packages that nothing needs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # likewise
        from saltray.distributed.ray_internals import logs_folder
    with _joined() if joins else _started(num_cpus):
        if observer is not None:
            observer(RayConnected(where, logs_folder()))
        yield where


@contextmanager
def _joined() -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names."""
    from saltray.distributed.ray_internals import remove_orphaned_placement_groups, shut_down

    try:
        check_address(os.environ["RAY_ADDRESS"])
        _connect(cannot_join)
        remove_orphaned_placement_groups()
        yield
    finally:
        shut_down()


@contextmanager
def _started(num_cpus: int | None) -> Iterator[None]:
    """Start a Ray on this machine."""
    from saltray.distributed.ray_internals import on_loopback, own_token, quick_setup, shut_down
    from saltray.distributed.ray_watch import ray_watched

    base, machine = short_folder(), this_machine()
    with fork_server(base) as python, own_token(), on_loopback():
        try:
            with quick_setup():
                _connect(
                    lambda reason: ResourceError(
                        f"Ray does not start on this machine: {reason}; its logs are in {base}/ray"
                    ),
                    address="local",
                    num_cpus=num_cpus or int(machine["CPU"]),
                    num_gpus=int(machine["GPU"]),
                    include_dashboard=False,
                    runtime_env={"py_executable": python},
                    _temp_dir=f"{base}/ray",
                )
            with ray_watched():
                yield
        finally:
            shut_down()


def is_connected() -> bool:
    """Whether the caller has connected to a Ray, which is not imported for that."""
    ray: Any = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def short_folder() -> Path:
    """Where Ray's files and sockets go: the folder for temporary files, if Ray can start in it."""
    named = [Path(os.environ[name]).absolute() for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    for folder in [*named, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]:
        if FOLDER.fullmatch(str(folder)) and _writable(folder):
            if named and folder != named[0]:
                log.warning(
                    "Ray cannot start in %s, which is too long, has blanks or is not writable; its files are in %s",
                    named[0],
                    folder,
                )
            return folder
    raise ResourceError("no folder for temporary files can be written; set TMPDIR to one, of at most 38 characters")


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _connect(failed: Callable[[str], SaltrayError], **settings: Any) -> None:
    """`ray.init` without its SIGTERM handler, by which `ray job stop` would just end us.

    Its messages are shown at the level DEBUG alone.
    """
    import ray

    from saltray.distributed.ray_internals import JobConfig, reread_skipped_messages, reread_uv_setting

    verbose = log.isEnabledFor(logging.DEBUG)
    reread_uv_setting()
    reread_skipped_messages()
    before, terminated = signal.getsignal(signal.SIGTERM), False
    try:
        level = logging.INFO if verbose else logging.ERROR
        ray.init(log_to_driver=verbose, logging_level=level, job_config=JobConfig(), **settings)
    except Exception as error:  # Ray raises some of every kind here, none of which the caller can tell apart
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # Of Ray or of Python, told in several lines.
        reason = " ".join(lines) if lines[0].startswith("Version mismatch") else lines[0]
        raise failed(reason.rstrip(".")) from error
    except SystemExit:  # by Ray's handler
        terminated = True
    finally:
        # Elsewhere Ray sets none either; and a handler that is not Python's (None) cannot be set again.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


def end_ray_job(threads: Sequence[threading.Thread] = ()) -> None:
    """Kill all actors of this process's Ray job, free what they have reserved, and disconnect from Ray.

    Ray itself would kill them when the process disconnects, but a placement group that is being created meanwhile
    keeps its CPUs and GPUs for ever.

    Args:
        threads: those that wait for a trainer, and get an error. One that still waits when the process has disconnected
            touches Ray afterwards, and Ray then ends the whole process.
    """
    from saltray.distributed.ray_internals import (
        CONTROLLER,
        RANK,
        RayDied,
        kill_actor,
        kill_ray,
        live_actors,
        remove_placement_groups,
        shut_down,
    )

    end, quiet = time.monotonic() + END_S, 0
    try:
        while quiet < QUIET_LOOKS and time.monotonic() < end:
            left = any(thread.is_alive() for thread in threads)  # it may be about to start a trainer
            try:
                killed = [actor for actor in live_actors() if kill_actor(actor)]
                removed = remove_placement_groups()
                left = left or bool(killed or removed or live_actors(CONTROLLER, RANK))
            except RayDied:
                break
            except Exception:  # whatever Ray raises when its GCS is away
                log.debug("cannot end the trainers now", exc_info=True)
                left = True
            quiet = 0 if left else quiet + 1
            time.sleep(LOOK_S)
        if quiet < QUIET_LOOKS:
            kill_ray()
            end = time.monotonic() + END_S
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))
    finally:
        shut_down()


def wait_for_trainers(seconds: float) -> None:
    """Wait until all trainers of this process have ended, also those whose trial was stopped: Ray ends them later."""
    from saltray.distributed.ray_internals import CONTROLLER, RANK, live_actors

    end = time.monotonic() + seconds
    while live_actors(CONTROLLER, RANK) and time.monotonic() < end:
        time.sleep(0.1)
