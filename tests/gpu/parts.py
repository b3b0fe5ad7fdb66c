"""The parts of the campaign: each measures one thing and adds its rows as it goes, so that what is cut leaves some."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
import typing
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

import saltray
from saltray.config import ClusterConfig, Config, FoldConfig, LateLossConfig, ModelConfig, TrainConfig
from saltray.data.tiles import LabelledTiles
from saltray.distributed.cluster import ray_cluster
from saltray.progress import Event, FoldEpoch, Published
from saltray.recipes import RECIPES
from saltray.records import own_field_types
from saltray.runs.history import epochs_of, read_history
from saltray.storage.uri import open_store

GFLOP_PER_IMAGE = 19.88
"""Of a training step of the full-width network at 128x128."""
TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """What the parts share."""

    data: str
    """The tiles."""
    work: Path
    """Folder for stores and test files."""
    dry: bool
    """On the CPU, with a thin network and few tiles: shows that it runs."""
    whole: bool
    """Train recipes for all of their epochs, however long that takes."""

    @property
    def store(self) -> str:
        """Of all runs."""
        return str(self.work / "store")


@dataclass
class Record:
    """What a part gave so far, kept in a file."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start and mean score of the folds."""
    status: str = "running"
    seconds: float = 0.0
    started: float = field(default_factory=time.time)

    def add(self, **row: Any) -> None:
        """One more row of the part's table."""
        self.rows.append(row)
        self.save()

    def save(self) -> None:
        """Whole or not at all."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({name: value for name, value in vars(self).items() if name != "path"}))
        new.replace(self.path)

    @classmethod
    def read(cls, path: Path) -> "Record":
        """As it was saved."""
        return cls(path, **json.loads(path.read_text()))


def alone(options: Options) -> AbstractContextManager[Any]:
    """Nothing around a part."""
    return nullcontext()


def ray_here(options: Options) -> AbstractContextManager[Any]:
    """One Ray for several parts."""
    return ray_cluster(num_cpus=2 if options.dry else None)


@dataclass(frozen=True)
class Part:
    """One part."""

    run: Callable[[Options, Record], None]
    title: str
    aim: str
    least: float
    """It is not begun with less time, in seconds."""
    limit: float
    """Nor does it take more."""
    around: Callable[[Options], AbstractContextManager[Any]] = alone
    """Parts in a row with the same share a process, in this block."""


@contextmanager
def ray_over_mps(options: Options) -> Iterator[None]:
    """Ray whose processes share the GPU by NVIDIA's MPS, where the machine has it."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None:
        yield  # and the part says so
        return
    folder = options.work / "mps"
    folder.mkdir(exist_ok=True)
    os.environ |= {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    subprocess.run([control, "-d"], check=True)
    try:
        with ray_here(options):
            yield
    finally:
        subprocess.run([control], input="quit\n", text=True, check=False)


# 1. Device tests


def device_tests(options: Options, record: Record) -> None:
    """The tests that are marked `gpu`, by the files that have some: the others need what such a machine lacks."""
    files = sorted(str(path) for path in TESTS.rglob("test_*.py") if "pytest.mark.gpu" in path.read_text())
    if options.dry:
        files = [str(Path(__file__).with_name("test_device.py"))]
    report = options.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
    environment = os.environ | ({"SALTRAY_GPU_DRY": "1"} if options.dry else {})
    code = subprocess.run(command, check=False, cwd=TESTS.parent, env=environment).returncode
    for case in ET.parse(report).getroot().iter("testcase"):
        found = [child for child in case if child.tag in ("failure", "error", "skipped")]
        outcome = found[0].tag if found else "passed"
        why = found[0].get("message", "").splitlines()[0][:120] if found else ""
        record.add(test=case.get("name"), outcome=outcome, seconds=round(float(case.get("time", 0)), 1), why=why)
    counts = {
        kind: sum(row["outcome"] == kind for row in record.rows) for kind in ("passed", "failure", "error", "skipped")
    }
    record.note = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    if code:
        raise RuntimeError(f"pytest ended with {code}: {record.note}")


# 2, 4 and 6. Runs


@dataclass(frozen=True)
class Trained:
    """A run, and when its folds trained."""

    result: saltray.TrainResult
    seconds: float
    """Of the whole command."""
    first: float
    """Seconds until the first epoch of any fold was over."""
    epoch: float
    """Seconds of an epoch of all folds, in the steady state."""
    curve: list[tuple[float, float]]


def train(config: Config, record: Record, *, at_once: bool) -> Trained:
    """Train a run and tell how far it is."""
    latest: dict[int, FoldEpoch] = {}
    started, wall = time.monotonic(), time.time()

    def observe(event: Event) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {event}", flush=True)
        if isinstance(event, FoldEpoch):
            latest[event.fold] = event
            scores = [each.score for each in latest.values() if each.score is not None]
            epochs = [each.epoch for each in latest.values()]
            record.note = (
                f"{config.run}: epochs {min(epochs)}..{max(epochs)} of {event.epochs}, "
                f"mean validation score {mean(scores or [0]):.4f}"
            )
            record.save()
        elif isinstance(event, Published):
            record.note = ""

    result = saltray.train(config, observer=observe)
    seconds = time.monotonic() - started
    home = open_store(config.store).sub(f"runs/{config.run}")
    folds = [epochs_of(read_history(home.sub(f"fold-{fold}"))) for fold in range(config.folds.count)]
    spans = [(each[-1].at - each[0].at) / max(1, len(each) - 1) for each in folds]
    curve = []
    for number in range(config.train.epochs):
        epochs = [each[number] for each in folds]
        scores = [each.score for each in epochs if each.score is not None]
        if scores:
            curve.append((max(each.at for each in epochs) - wall, mean(scores)))
    first = min(each[0].at for each in folds) - wall
    return Trained(result, seconds, first, max(spans) if at_once else sum(spans), curve)


def recipe(name: str, options: Options, run: str, *, epochs: int | None = None, share: float | None = 0.2) -> Config:
    """A recipe, all folds on one GPU; for a dry run a thin network on the CPU."""
    config = RECIPES[name](data=options.data, store=options.store, run=run)
    if epochs is not None:
        config = shortened(config, epochs)
    if not options.dry:
        return replace(config, cluster=ClusterConfig(gpus_per_worker=share))
    return replace(
        config,
        folds=FoldConfig(count=2, scheme=config.folds.scheme),
        model=replace(config.model, num_filters=2, encoder_width=4),
        train=replace(config.train, batch_size=8, precision="fp32"),
        cluster=ClusterConfig(gpus_per_worker=0),
    )


def shortened(config: Config, epochs: int) -> Config:
    """The same network and first loss for fewer epochs; without cycles."""
    schedule: Any = "constant" if config.optim.schedule == "constant" else "cosine"
    return replace(
        config,
        recipe=None,
        late_loss=LateLossConfig(),
        optim=replace(config.optim, schedule=schedule, cycles=1),
        train=replace(config.train, epochs=epochs, snapshots=1),
    )


def add_score(record: Record, name: str, config: Config, trained: Trained, **more: Any) -> None:
    found = trained.result.evaluation
    record.add(
        recipe=name,
        epochs=config.train.epochs,
        score=round(found.score, 4),
        interval=str(found.interval),
        spread=found.spread if found.spread is None else round(found.spread, 4),
        seconds=round(trained.seconds, 1),
        first_epoch_after=round(trained.first, 1),
        seconds_an_epoch=round(trained.epoch, 2),
        **more,
    )


def fast_recipe(options: Options, record: Record) -> None:
    """The default recipe, whole."""
    config = recipe("fast", options, "fast", epochs=2 if options.dry else None)
    trained = train(config, record, at_once=True)
    record.curve = trained.curve
    add_score(record, "fast", config, trained, ensemble=trained.result.ensemble)


def other_recipes(options: Options, record: Record) -> None:
    """`best` and `blog`, cut to what fits; how long the whole would take is computed from the seconds of an epoch."""
    for name, cut in {"blog": 1}.items() if options.dry else {"best": 12, "blog": 3}.items():
        whole = RECIPES[name](data=options.data).train.epochs
        config = recipe(name, options, name, epochs=None if options.whole else cut)
        trained = train(config, record, at_once=True)
        rest = (whole - config.train.epochs) * trained.epoch
        add_score(
            record, name, config, trained, whole_epochs=whole, whole_minutes=round((trained.seconds + rest) / 60, 1)
        )


WAYS = {"all at once": 0.2, "one after another": 1.0}
"""GPUs of a fold by the way."""
FIFTY = 50


def folds_by_ways(options: Options, record: Record) -> None:
    """Five folds on one GPU, a few epochs of each way; the seconds of 50 are computed from those of an epoch."""
    for batch in (8,) if options.dry else (32, 128):
        for way, share in list(WAYS.items())[: 1 if options.dry else None]:
            _folds(options, record, way, share, batch)


def folds_over_mps(options: Options, record: Record) -> None:
    """The same over MPS."""
    if shutil.which("nvidia-cuda-mps-control") is None:
        record.add(way="MPS", batch=0, note="this machine has no nvidia-cuda-mps-control")
        return
    for batch in (32, 128):
        _folds(options, record, "at once, MPS", 0.2, batch)


def _folds(options: Options, record: Record, way: str, share: float, batch: int) -> None:
    name = f"folds-{way.replace(' ', '-').replace(',', '')}-{batch}"
    config = recipe("fast", options, name, epochs=1 if options.dry else 5, share=share)
    config = replace(config, train=replace(config.train, batch_size=batch))
    trained = train(config, record, at_once=share < 1)
    tiles = sum(each.tiles for each in trained.result.results) * (config.folds.count - 1)
    record.add(
        way=way,
        batch=batch,
        epochs=config.train.epochs,
        seconds=round(trained.seconds, 1),
        first_epoch_after=round(trained.first, 1),
        seconds_an_epoch=round(trained.epoch, 2),
        images_per_second=round(tiles / trained.epoch) if trained.epoch else None,
        computed_seconds_of_50=round(trained.seconds + (FIFTY - config.train.epochs) * trained.epoch),
    )


# 3. The step


def step(options: Options, record: Record) -> None:
    """Images a second of whole epochs, by batch and mode, and the ceiling of the machine's bf16 matrix products."""
    import torch

    device = torch.device("cpu" if options.dry else "cuda")
    products = _products(device)
    record.note = f"bf16 products {products:.0f} TFLOP/s: at most {products * 1000 / GFLOP_PER_IMAGE:.0f} images/s"
    for batch in (2, 4) if options.dry else (32, 64, 128, 256, 512):
        for mode, changes in ({"eager": {}} if options.dry else modes()).items():
            row: dict[str, Any] = {"batch": batch, "mode": mode}
            try:
                first, speed, memory = _speed(device, batch, changes, options.dry)
            except RuntimeError as error:  # out of memory, or a mode that this torch cannot compile
                record.add(**row, images_per_second=None, note=str(error).splitlines()[0][:160])
                continue
            share = speed * GFLOP_PER_IMAGE / 1000 / products
            record.add(
                **row,
                images_per_second=round(speed, 1),
                percent_of_bf16=None if options.dry else round(100 * share, 1),
                gib=round(memory / 2**30, 2),
                first_epoch_s=round(first, 1),
            )


def modes() -> dict[str, dict[str, Any]]:
    """Eager, and each other value of the setting that compiles the step, where there is one."""
    found: dict[str, dict[str, Any]] = {"eager": {}}
    for section, kind in (("train", TrainConfig), ("cluster", ClusterConfig)):
        asked = own_field_types(typing.cast("Any", kind)).get("compile")
        default = next((each.default for each in dataclasses.fields(kind) if each.name == "compile"), None)
        values = [True] if asked is bool else typing.get_args(asked)
        found |= {str(value): {section: {"compile": value}} for value in values if value not in (default, type(None))}
    return found


def _speed(device: Any, batch: int, changes: dict[str, Any], dry: bool) -> tuple[float, float, int]:
    """Seconds of the first epoch, images a second of the later ones, and the most bytes of the device."""
    import torch

    from saltray.training.engine import fit
    from saltray.training.process_group import ProcessGroup
    from saltray.training.state import FitState

    steps, epochs = (1, 2) if dry else (max(8, 8192 // batch), 4)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (batch * steps, 101, 101), np.uint8)
    masks = draw.integers(0, 2, images.shape, np.uint8)
    tiles = on_device(LabelledTiles(tuple(f"{at:06}" for at in range(len(images))), images, masks), device)
    settings = TrainConfig(epochs=epochs, eval_every=epochs, batch_size=batch, precision="fp32" if dry else "bf16")
    config = Config(
        data="unused",
        model=ModelConfig(num_filters=2, encoder_width=4) if dry else ModelConfig(),
        train=replace(settings, **changes.get("train", {})),
        cluster=replace(ClusterConfig(), **changes.get("cluster", {})),
    )
    group = ProcessGroup.single(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    first, *rest = list(fit(FitState.create(config, group), tiles, None, config, group))
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return first.seconds, median(each.images_per_second for each in rest), memory


def on_device(tiles: LabelledTiles, device: Any) -> Any:
    """The tiles as those of a run, on the device."""
    import torch

    from saltray.training.tile_tensors import TileTensors

    try:
        from saltray.training.tile_pool import TilePart, open_pool
    except ImportError:  # this saltray has no pools, and copies to the device
        return TileTensors.create(tiles, device)
    return TileTensors(open_pool([TilePart.of(tiles)], device, "device"), torch.arange(len(tiles), device=device))


def _products(device: Any) -> float:
    """TFLOP/s of large square products in bfloat16: the median of several."""
    import torch

    n, repeats = (8192, 20) if device.type == "cuda" else (256, 2)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    speeds = []
    for _ in range(4):
        wait()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        wait()
        speeds.append(repeats * 2 * n**3 / 1e12 / (time.perf_counter() - started))
    return median(speeds[1:])


# 5. Prediction


def prediction(options: Options, record: Record) -> None:
    """The whole command on 18,000 tiles, twice, and the models alone."""
    count = 12 if options.dry else 18_000
    data = test_tiles(options.work / f"test-{count}", count)
    ensemble = f"{options.store}/ensembles/fast"
    if not Path(ensemble).is_dir():
        ensemble = untrained(options)
    for attempt in ("first", "again")[: 1 if options.dry else 2]:
        started = time.monotonic()
        result = saltray.predict(ensemble=ensemble, data=str(data), out=options.work / "submission.csv")
        seconds = time.monotonic() - started
        record.add(
            what=f"command, {attempt}", tiles=result.tiles, seconds=round(seconds, 1), per_second=round(count / seconds)
        )
    models = saltray.Ensemble.load(ensemble, device="cpu" if options.dry else "cuda")
    few = np.random.default_rng(0).integers(0, 256, (8 if options.dry else 2048, 101, 101), np.uint8)
    models.predict(few[:512], batch_size=256)  # what is chosen and compiled at first
    started = time.monotonic()
    models.predict(few, batch_size=256)
    seconds = time.monotonic() - started
    record.add(
        what="models alone, TTA", tiles=len(few), seconds=round(seconds, 2), per_second=round(len(few) / seconds)
    )
    record.note = ensemble


def test_tiles(folder: Path, count: int) -> Path:
    """So many test tiles, made from a few of which each has many names."""
    if not folder.is_dir():
        made = saltray.synth(folder.with_suffix(".new"), tiles=1, test_tiles=min(count, 300))
        images = Path(made) / "test/images"
        first = sorted(images.iterdir())
        for number in range(len(first), count):
            (images / f"{number:010x}.png").hardlink_to(first[number % len(first)])
        for more in ("sample_submission.csv", "depths.csv"):  # of the first ones alone
            (Path(made) / more).unlink(missing_ok=True)
        Path(made).rename(folder)
    return folder


def untrained(options: Options) -> str:
    """An ensemble of random weights, as fast as any other: one epoch on a few tiles."""
    tiles = options.work / "few-tiles"
    if not tiles.is_dir():
        saltray.synth(tiles, tiles=60)
    config = recipe("fast", replace(options, data=str(tiles)), "untrained", epochs=1)
    return saltray.train(config).ensemble


PARTS: dict[str, Part] = {
    "tests": Part(device_tests, "device tests", "all pass", 45, 180),
    "fast": Part(fast_recipe, "the default recipe on all tiles", "0.83 in 300 s", 100, 480, ray_here),
    "step": Part(step, "the step", "15,000 images/s", 30, 240, ray_here),
    "folds": Part(folds_by_ways, "five folds on one GPU", "50 epochs in 180 s", 60, 300, ray_here),
    "predict": Part(prediction, "prediction of 18,000 tiles", "20 s", 30, 120, ray_here),
    "recipes": Part(other_recipes, "best and blog", "0.87 in an hour", 90, 480, ray_here),
    "mps": Part(folds_over_mps, "five folds over MPS", "beside the other ways", 45, 150, ray_over_mps),
}
"""In order of worth."""
