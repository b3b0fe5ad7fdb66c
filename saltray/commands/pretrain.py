"""`saltray pretrain`: the network's weights from images alone, for `--model.weights`."""

from dataclasses import dataclass, replace

import numpy as np

from saltray.commands.prepare import check_fits, open_for_writing
from saltray.config import Config, PretrainConfig
from saltray.data.all_images import AllImages, load_all_images
from saltray.data.hiding import PatchHider
from saltray.distributed.cluster import ray_cluster
from saltray.distributed.preflight import check_cluster, preflight
from saltray.ensemble.layout import is_ensemble_uri
from saltray.ensemble.versions import resolve
from saltray.errors import ConfigError
from saltray.progress import (
    CapacityFound,
    DataNote,
    LockTakenOver,
    Observer,
    PretrainFinishedBefore,
    PretrainPlanned,
    log_event,
)
from saltray.runs.initial_weights import InitialWeights, read_initial_weights, source_of
from saltray.runs.layout import PRETRAINED, WEIGHTS, pretrained_folder
from saltray.runs.pretraining import create_pretraining, pretraining_result
from saltray.runs.records import PretrainRecord
from saltray.storage.base import Store
from saltray.storage.lock import RunLock


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a finished pretraining gave."""

    name: str
    weights: str
    """URI of the network's weights, for `model.weights`."""
    sha256: str
    """Digest of their file, in hex."""
    tiles: int
    """Images that it was trained on."""
    epochs: int
    loss: float
    """Mean absolute error of the hidden pixels in the last epoch, as a share of the full range."""
    seconds: float
    """Time in the training loop, without start-up, summed over interruptions."""


def pretrain(
    config: Config, settings: PretrainConfig | None = None, *, observer: Observer = log_event
) -> PretrainResult:
    """Train the network to fill in hidden patches, on all images of the data set, and keep its weights.

    No mask is read, so the images may be those of the training part, of the test part, or of neither. The weights are
    those of a whole network, encoder and decoder; `Config(model=ModelConfig(weights=result.weights))` starts each fold
    from them. The same call again resumes an interrupted pretraining. With more epochs, and a constant learning rate,
    it trains a finished one longer, whose weights it replaces.

    Args:
        config: data, store, network and how it is trained; its split, run and loss do not count.
        settings: the pretraining's own: its name, and what is hidden.
        observer: receives the events.

    Raises:
        DataError: the images cannot be used; all faults at once.
        ConfigError: the images do not fit the configuration, or the pretraining has trained with other settings or
            images.
        ModelError: the initial weights cannot be read, or do not fit.
        EnsembleError: the initial weights are of an ensemble, and there is no such one.
        RunLockedError: another live process works on this pretraining.
        ResourceError: the cluster can never hold it, or has a GPU that torch cannot use.
        TrainingError: the training failed.
        StorageError: the store cannot be reached or written.
    """
    settings = settings or PretrainConfig()
    weights = config.model.weights
    if weights is not None and _has_learnt_from_masks(weights):
        raise ConfigError(
            f"model.weights {weights} is of an ensemble or a run, which has learnt from masks: no fold could be scored "
            "honestly after the pretraining; fine-tune it with `saltray train` instead"
        )
    config = replace(config, model=replace(config.model, deep_supervision=False))  # its outputs tell salt
    store = open_for_writing(config.store)
    home = store.sub(pretrained_folder(settings.name))
    result = pretraining_result(home)
    if result is None or result.epochs < config.train.epochs:
        preflight(config.cluster, jobs=1)
    initial = read_initial_weights(config)
    images = load_all_images(config.data, store)
    planned = _planned(config, settings, images)
    with RunLock(home, f"pretraining {settings.name}") as lock:
        if lock.taken_from is not None:
            observer(LockTakenOver(lock.taken_from))
        home = lock.guard(home)
        for note in images.notes:
            observer(DataNote(note))
        create_pretraining(home, config, settings, images, initial)
        observer(planned)
        result = pretraining_result(home)
        if result is not None:
            observer(PretrainFinishedBefore(settings.name))
        else:
            parent = lock.guard(store.sub(PRETRAINED))
            result = _train(config, settings, parent, images, initial, lock, observer)
    return PretrainResult(
        name=settings.name,
        weights=f"{home.uri}/{WEIGHTS}",
        sha256=result.weights_sha256,
        tiles=len(images.tiles),
        epochs=result.epochs,
        loss=result.loss,
        seconds=result.seconds,
    )


def _has_learnt_from_masks(weights: str) -> bool:
    """Whether these are of an ensemble or a run.

    Raises:
        EnsembleError: there is no such ensemble.
    """
    if is_ensemble_uri(weights):
        resolve(weights)
        return True
    return source_of(weights) is not None


def _planned(config: Config, settings: PretrainConfig, images: AllImages) -> PretrainPlanned:
    """The numbers of the pretraining, whose images fit it.

    Raises:
        ConfigError: they do not.
    """
    tiles, train = images.tiles, config.train
    check_fits([config], tiles.height, tiles.width)
    hider = PatchHider(settings.hidden, settings.patch, train.seed)
    return PretrainPlanned(
        name=settings.name,
        tiles=len(tiles),
        height=tiles.height,
        width=tiles.width,
        input_size=train.input_size,
        hidden=hider.count(tiles.height, tiles.width),
        patch=settings.patch,
        epochs=train.epochs,
        steps=-(-len(tiles) // train.batch_size),
        batch_size=train.batch_size,
        ranks=config.cluster.workers_per_fold,
    )


def _train(
    config: Config,
    settings: PretrainConfig,
    parent: Store,
    images: AllImages,
    initial: InitialWeights | None,
    lock: RunLock,
    observer: Observer,
) -> PretrainRecord:
    with ray_cluster(observer=observer) as where:
        from saltray.distributed.jobs import Job
        from saltray.distributed.pretrain_job import run_pretraining
        from saltray.training.tile_pool import TilePart

        home = parent.sub(settings.name)
        capacity = check_cluster(config.cluster, home, jobs=1, observer=observer)
        needs = str(capacity.resources)
        observer(
            CapacityFound(where=where, job="pretraining", needs=needs, jobs=1, concurrency=1, ready=capacity.ready)
        )
        template = Job.template(
            config,
            parent,
            tiles=TilePart.several(images.tiles),
            fold_of=np.zeros(len(images.tiles), np.int64),
            initial_weights=() if initial is None else initial.by_fold,
        )
        job = replace(template, name=settings.name, folds=(0,))
        return run_pretraining(job, settings, capacity, lock.check, observer)
