"""Ray Serve with the models of an ensemble: masks, overload, and new versions while requests are answered."""

import hashlib
import io
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from ray._private.state import state
from safetensors.torch import save

from saltray.commands.serve import Follower
from saltray.data.rle import encode_rle
from saltray.distributed import serving
from saltray.distributed.model_replica import BATCH
from saltray.distributed.ray_internals import live_actors
from saltray.distributed.replica_placement import place_replicas
from saltray.distributed.serving import MODELS, ServeOptions, Service, url_of
from saltray.ensemble.load import Ensemble
from saltray.ensemble.postprocess import Postprocess
from saltray.ensemble.versions import read_manifest
from saltray.errors import ConfigError, ResourceError
from saltray.progress import ServingKept, ServingUpdated
from saltray.storage.uri import open_store

TILES = np.random.default_rng(0).integers(0, 256, (8, 101, 101), np.uint8)


def file_of(tile: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(tile).save(file, format="PNG")
    return file.getvalue()


def publish(store: Path, template: str, version: str) -> None:
    """A version that finds salt in some of the pixels, and is complete at once."""
    home, target = open_store(template), open_store(str(store)).sub(f"ensembles/r1/{version}")
    manifest = read_manifest(home)
    for member in manifest.members:
        target.put(member.key, home.get(member.key))
    loaded = Ensemble.load(template, device="cpu")
    # In the widest gap between probabilities, which differ by up to 6e-8 between batches of different sizes.
    probabilities = np.sort(loaded.predict(TILES).ravel())[TILES.size // 20 : -TILES.size // 20]
    widest = int(np.diff(probabilities).argmax())
    assert probabilities[widest + 1] - probabilities[widest] > 2.5e-7
    threshold = float(probabilities[widest : widest + 2].mean())
    target.put_record("manifest.json", replace(manifest, version=version, postprocess=Postprocess(threshold=threshold)))


def test_urls() -> None:
    assert url_of("127.0.0.1", 8000, "/") == "http://127.0.0.1:8000/"
    assert url_of("::1", 80, "/salt") == "http://[::1]:80/salt/"


@pytest.fixture(scope="module")
def store(untrained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("served")
    publish(store, untrained, "v1")
    return store


@pytest.fixture(scope="module")
def service(ray_here: None, store: Path) -> Iterator[Service]:
    """The first version, behind Ray Serve; at most 80 requests at once."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    device, cpus = place_replicas(1)
    options = ServeOptions(
        host="127.0.0.1",
        port=port,
        route="/salt",
        replicas=1,
        max_replicas=1,
        queue=16,
        token_digest=None,
        tta=True,
        device=device,
        cpus=cpus,
    )
    with serving.serving(f"{store}/ensembles/r1/v1", "r1", options) as service:
        assert service.wait(180)
        yield service


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        yield client


def replicas_of(service: Service) -> list[int]:
    """Process ids of the replicas with the models."""
    actors = [actor for actor in state.actor_table(None).values() if actor["State"] == "ALIVE"]
    return [actor["Pid"] for actor in actors if actor["ActorClassName"] == f"ServeReplica:{service.name}:{MODELS}"]


Predict = Callable[..., httpx.Response]


@pytest.fixture
def predict(service: Service, client: httpx.Client) -> Predict:
    """Sends a tile: `predict(tile)`, or `predict(tile, form="png")`."""

    def predict(tile: np.ndarray, form: str = "rle") -> httpx.Response:
        return client.post(f"{service.url}predict", params={"format": form}, content=file_of(tile))

    return predict


@pytest.mark.ray
def test_the_served_mask_is_that_of_the_ensemble(service: Service, predict: Predict) -> None:
    ensemble = Ensemble.load(service.uri, device="cpu")
    with ThreadPoolExecutor(len(TILES)) as pool:  # in batches
        answers = list(pool.map(predict, TILES))
    for answer, mask in zip(answers, ensemble.predict_masks(TILES), strict=True):
        assert answer.status_code == 200
        assert answer.headers["x-saltray-ensemble"] == "r1 v1"
        assert answer.text == encode_rle(mask)
        assert 0.01 < mask.mean() < 0.99
    png = np.asarray(Image.open(io.BytesIO(predict(TILES[0], "png").content)))
    np.testing.assert_array_equal(png, ensemble.predict_masks(TILES[:1])[0] * np.uint8(255))
    record = predict(TILES[0], "json").json()
    assert record["mean_probability"] == pytest.approx(ensemble.predict(TILES[:1]).mean(), abs=1e-5)


@pytest.mark.ray
def test_ready_tells_what_is_served(service: Service, client: httpx.Client) -> None:
    told = client.get(f"{service.url}ready").json()
    assert (told["status"], told["ensemble"], told["height"], told["width"]) == ("ready", "r1 v1", 101, 101)
    assert service.uri not in str(told)
    assert client.get(f"{service.url}health").json() == {"status": "running"}


@pytest.mark.ray
def test_what_is_no_tile_is_refused_by_the_replica(service: Service, predict: Predict) -> None:
    answer = predict(TILES[0][:7])
    assert answer.status_code == 422
    assert answer.json() == {"error": "7x101 pixels, but the ensemble was trained on 101x101; crop or pad it"}


@pytest.mark.ray
def test_overload_is_answered_by_503_and_passes(predict: Predict) -> None:
    with ThreadPoolExecutor(160) as pool:
        answers = list(pool.map(lambda number: predict(TILES[number % 8]), range(160)))
    seen = Counter(answer.status_code for answer in answers)
    assert set(seen) == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert int(refused.headers["retry-after"]) >= 1
    assert "send it again" in refused.json()["error"]
    assert predict(TILES[0]).status_code == 200


@pytest.mark.ray
def test_a_new_version_is_served_without_a_failed_request(
    service: Service, store: Path, untrained: str, predict: Predict
) -> None:
    follower = Follower(service, f"{store}/ensembles/r1/latest", "r1 v1")
    assert follower.look() is None  # there is none yet
    before, ended, answers = set(live_actors()), threading.Event(), []

    def ask() -> None:
        while not ended.is_set():
            answers.append(predict(TILES[0]))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        try:
            publish(store, untrained, "v2")
            assert follower.look() == ServingUpdated("r1 v2")
            assert predict(TILES[0]).headers["x-saltray-ensemble"] == "r1 v2"
        finally:
            ended.set()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-saltray-ensemble"] for answer in answers} == {"r1 v1", "r1 v2"}
    assert set(live_actors()) == before  # by the same processes
    assert follower.look() is None


@pytest.mark.ray
def test_a_damaged_version_leaves_the_old_one(service: Service, store: Path, untrained: str, predict: Predict) -> None:
    follower = Follower(service, f"{store}/ensembles/r1", service.describe()["ensemble"])
    serving_now = service.describe()["ensemble"]
    publish(store, untrained, "v9")
    (damaged,) = store.glob("ensembles/r1/v9/fold-1.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    event = follower.look()
    assert isinstance(event, ServingKept)
    assert f"still serving {serving_now}: " in str(event)
    assert "fold-1.safetensors" in event.reason
    assert predict(TILES[0]).headers["x-saltray-ensemble"] == serving_now
    assert follower.look() is None  # told once
    shutil.rmtree(store / "ensembles" / "r1" / "v9")


@pytest.mark.ray
def test_a_serve_that_runs_elsewhere_is_not_taken(service: Service) -> None:
    options = replace(service.options, port=service.options.port + 1, host="0.0.0.0")
    with (
        pytest.raises(ConfigError, match=f"already runs on this cluster, at 127.0.0.1:{service.options.port}; give"),
        serving.serving(service.uri, "other", options),
    ):
        pytest.fail("it was taken")
    assert service.is_ready()  # and is left as it was


@pytest.mark.ray
def test_models_that_cannot_be_loaded_are_told_and_another_application_is_left(
    service: Service, untrained: str, predict: Predict, tmp_path: Path
) -> None:
    home = open_store(str(tmp_path)).sub("ensembles/other/v1")
    manifest = read_manifest(open_store(untrained))
    data = save({"weight": torch.zeros(3)})
    digest = hashlib.sha256(data).hexdigest()
    for member in manifest.members:
        home.put(member.key, data)
    members = tuple(replace(member, sha256=digest) for member in manifest.members)
    home.put_record("manifest.json", replace(manifest, name="other", members=members))
    options = replace(service.options, route="/other", cpus=0)
    with (
        pytest.raises(ResourceError, match="the models cannot be served: .*does not fit its architecture"),
        serving.serving(home.uri, "other", options) as other,
    ):
        assert other.wait(180)
    assert predict(TILES[0]).status_code == 200
    with (
        pytest.raises(ConfigError, match="Ray Serve refuses the application: .*give another --route than /salt"),
        serving.serving(home.uri, "other", replace(options, route="/salt")),
    ):
        pytest.fail("it was taken")
    assert predict(TILES[0]).status_code == 200


@pytest.mark.ray
def test_where_requests_wait_there_are_more_replicas(service: Service, client: httpx.Client) -> None:
    options = replace(service.options, route="/busy", max_replicas=2, queue=1000, cpus=0)
    ended, answers = threading.Event(), []

    with serving.serving(service.uri, "busy", options) as busy, ThreadPoolExecutor(4 * BATCH) as pool:
        assert busy.wait(180)
        assert len(replicas_of(busy)) == 1

        def ask() -> None:
            while not ended.is_set():
                answers.append(client.post(f"{busy.url}predict", content=file_of(TILES[0])).status_code)

        for _ in range(4 * BATCH):
            pool.submit(ask)
        try:
            end = time.monotonic() + 120
            while len(replicas_of(busy)) < 2:
                assert time.monotonic() < end
                time.sleep(0.2)
        finally:
            ended.set()
    assert set(answers) == {200}


@pytest.mark.ray
def test_a_replica_that_is_killed_is_replaced(service: Service, predict: Predict) -> None:
    (pid,) = replicas_of(service)
    os.kill(pid, signal.SIGKILL)
    answers, end = [], time.monotonic() + 120
    while (answer := predict(TILES[0])).status_code != 200:
        answers.append((answer.status_code, answer.text))
        assert time.monotonic() < end, answers[-1]
        time.sleep(0.2)
    assert {code for code, _ in answers} <= {503}, answers
    assert answer.text == encode_rle(Ensemble.load(service.uri, device="cpu").predict_masks(TILES[:1])[0])
