"""An ensemble behind Ray Serve: replicas with the models, and the web service before them.

The web service has no models, so it answers while they are busy, and slow clients take none of their time. A new
version is loaded by the replicas that serve the old one, beside it: no replica is restarted, and no GPU is needed.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Literal

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig

from saltray.distributed.causes import cause_in_a_line
from saltray.distributed.model_replica import BATCH, Models
from saltray.distributed.ray_internals import keep_replica_on_loopback, serve_http_options, with_code_version
from saltray.distributed.served_masks import Masked, Refused
from saltray.distributed.web import RETRY_AFTER_S, make_web
from saltray.errors import ConfigError, ResourceError, SaltrayError

log = logging.getLogger(__name__)

WEB_REQUESTS = 256
"""Requests that one process of the web service handles at once: it bounds the memory for their bodies."""
DESCRIBE_S = 5.0
"""Longest wait for what a replica tells of itself."""
CHECK_S = 600.0
"""Longest time that a replica may take to load a version."""
BUSY_S = 10.0
"""Time for which more requests must wait than the replicas take at once, before there is another replica."""
DRAIN_S = 10.0
"""Longest time for the requests that run when the service ends."""
REQUEST_S = 120.0
"""Longest time for a request, from its first byte to the last of its answer."""
MODELS, WEB = "models", "web"
"""The deployments of an application."""
READY_POLL_S = 0.2


class _Replicas:
    """The web service's way to the models."""

    def __init__(self, models: Any) -> None:
        self.models = models

    async def predict(self, data: bytes) -> Masked | Refused:
        masked: Masked | Refused = await _answer(self.models.predict.remote(data))
        return masked

    async def describe(self) -> dict[str, Any] | Refused:
        told: dict[str, Any] | Refused = await _answer(self.models.describe.remote(), DESCRIBE_S)
        if isinstance(told, Refused):
            return told
        return {name: value for name, value in told.items() if name != "uri"}  # not everybody's business


async def _answer(response: Any, timeout_s: float | None = None) -> Any:
    """What a replica answers, or that it cannot now."""
    try:
        return await asyncio.wait_for(response, timeout_s)
    except BackPressureError:
        return _unavailable("too many requests wait; send it again later, or serve with more --replicas")
    except (TimeoutError, DeploymentUnavailableError, ray.exceptions.RayActorError):
        return _unavailable("no replica answers; send it again later")


def _unavailable(message: str) -> Refused:
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, message)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How an ensemble is served."""

    host: str
    port: int
    route: str
    """Path before those of the web service; "/" for none."""
    replicas: int
    max_replicas: int
    queue: int
    """Requests that wait for the models, at most, in each process of the web service."""
    token_digest: str | None
    """SHA-256 of the token; None for no token."""
    tta: bool
    device: Literal["GPU", "CPU"]
    cpus: float
    """Of a replica with the models."""


class Service:
    """An ensemble that is served.

    Attributes:
        uri: of the version that the replicas are to serve.
        url: where the service answers.
    """

    def __init__(self, uri: str, name: str, options: ServeOptions) -> None:
        self.uri, self.name, self.options = uri, f"saltray-{name}", options
        self.url = url_of(options.host, options.port, options.route)
        # Replicas of a command that was killed are taken over, if they are of the same code with the same options.
        self._code = hashlib.sha256(f"{version('saltray')} {options}".encode()).hexdigest()[:16]

    def deploy(self) -> None:
        """Let Serve have the replicas serve `uri`; does not wait for them."""
        application = _application(self.name, self.uri, self._code, self.options)
        # Without a wait: that of Serve's own prints, and says nothing of what it waits for.
        target = serve.RunTarget(application, name=self.name, route_prefix=self.options.route)
        try:
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        except (RayServeException, ValueError) as error:
            remedy = f"give another --route than {self.options.route}"
            raise ConfigError(f"Ray Serve refuses the application: {cause_in_a_line(str(error))}; {remedy}") from error
        except ray.exceptions.RayError as error:
            cause = cause_in_a_line(str(error))
            raise ResourceError(f"Ray Serve does not answer: {cause}; stop the command, and start it again") from error

    def is_ready(self) -> bool:
        """Whether all replicas are there.

        Raises:
            ResourceError: they cannot be started.
        """
        application = serve.status().applications.get(self.name)
        if application is None:
            return False
        if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            told = [deployment.message for deployment in application.deployments.values()]
            cause = cause_in_a_line("\n".join([application.message, *told]))
            raise ResourceError(f"the models cannot be served: {cause}; Ray's logs of the replicas say more")
        return bool(application.status == ApplicationStatus.RUNNING)

    def wait(self, seconds: float) -> bool:
        """Wait for the replicas; whether they are there.

        Raises:
            ResourceError: they cannot be started.
        """
        end = time.monotonic() + seconds
        while not self.is_ready():
            if time.monotonic() > end:
                return False
            time.sleep(READY_POLL_S)
        return True

    def check(self, uri: str) -> SaltrayError | None:
        """Load a version in a replica, beside the one that is served; why it cannot be, if so."""
        fault: SaltrayError | None = self._ask("check", uri)
        return fault

    def update(self, uri: str) -> None:
        """Serve another version, which a replica has checked, and wait until one does."""
        self.uri = uri
        self.deploy()
        end = time.monotonic() + CHECK_S
        while self.describe()["uri"] != uri and time.monotonic() < end:
            time.sleep(READY_POLL_S)

    def describe(self) -> dict[str, Any]:
        """What one of the replicas serves."""
        told: dict[str, Any] = self._ask("describe")
        return told

    def _ask(self, method: str, *args: object) -> Any:
        """What a replica answers.

        Raises:
            ResourceError: none does, as it has died or is too busy.
        """
        models: Any = serve.get_deployment_handle(MODELS, app_name=self.name)
        try:
            return getattr(models, method).remote(*args).result(timeout_s=CHECK_S)
        except (TimeoutError, RayServeException, ray.exceptions.RayError) as error:
            raise ResourceError(f"no replica answers: {cause_in_a_line(str(error)) or type(error).__name__}") from error


def _application(name: str, uri: str, code: str, options: ServeOptions) -> Any:
    """The application: the web service, bound to the models."""

    def web() -> Any:  # called in the process of the web service
        keep_replica_on_loopback()
        return make_web(_Replicas(serve.get_deployment_handle(MODELS, app_name=name)), options.token_digest)

    def replicas(at_once: int) -> AutoscalingConfig:
        return AutoscalingConfig(
            min_replicas=options.replicas,
            max_replicas=options.max_replicas,
            target_ongoing_requests=at_once,
            upscale_delay_s=BUSY_S,
        )

    common: dict[str, Any] = {
        "graceful_shutdown_timeout_s": DRAIN_S,
        "graceful_shutdown_wait_loop_s": 0.2,
        "max_constructor_retry_count": 2,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        "logging_config": LoggingConfig(enable_access_log=False),
    }
    on_gpu = options.device == "GPU"
    models: Any = serve.deployment(
        Models,
        name=MODELS,
        user_config={"ensemble": uri},
        autoscaling_config=replicas(BATCH),
        max_ongoing_requests=2 * BATCH,  # one batch waits while another is computed
        max_queued_requests=options.queue,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": int(on_gpu)},
        **common,
    )
    front: Any = serve.deployment(
        serve.ingress(web)(),
        name=WEB,
        autoscaling_config=replicas(WEB_REQUESTS // 4),
        max_ongoing_requests=WEB_REQUESTS,
        max_queued_requests=WEB_REQUESTS,
        ray_actor_options={"num_cpus": 0},
        **common,
    )
    bound = with_code_version(models, code).bind("cuda" if on_gpu else "cpu", tta=options.tta)
    return with_code_version(front, code).bind(bound)


def url_of(host: str, port: int, route: str) -> str:
    """Where a service answers, with a slash at the end."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}{route.rstrip('/')}/"


@contextmanager
def serving(uri: str, name: str, options: ServeOptions) -> Iterator[Service]:
    """Serve one version of an ensemble, on the Ray that this process is connected to, until the block ends.

    A Serve that runs there already is used, and the applications of others are left as they are.

    Args:
        uri: of the version.
        name: of the ensemble, by which the application is named.
        options: how.

    Raises:
        ConfigError: the Serve that runs listens where it may not, or another application has the route.
    """
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        found = serve_http_options()
        if found is None:
            http = HTTPOptions(host=options.host, port=options.port, request_timeout_s=REQUEST_S)
            serve.start(http_options=http, logging_config=LoggingConfig(enable_access_log=False))
        elif (found.host, found.port) != (options.host, options.port):
            raise ConfigError(
                f"Ray Serve already runs on this cluster, at {found.host}:{found.port}; give --host {found.host} "
                f"--port {found.port}"
            )
        service = Service(uri, name, options)
        try:
            service.deploy()
            yield service
        finally:
            _end(service, own_serve=found is None)
    finally:
        logger.setLevel(level)


def _end(service: Service, *, own_serve: bool) -> None:
    """Delete the application, and end a Serve that was started for it, unless others use it by now."""
    try:
        others = set(serve.status().applications) - {service.name}
        if own_serve and not others:
            serve.shutdown()  # type: ignore[no-untyped-call]
        else:
            serve.delete(service.name)
    except (ray.exceptions.RayError, RayServeException, TimeoutError):  # with a Ray that has died, all is gone
        log.debug("cannot end the application", exc_info=True)
