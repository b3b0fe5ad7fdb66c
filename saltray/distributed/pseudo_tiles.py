"""The test tiles that a fold trains on: labelled once by its ranks together, kept in the store, the same on resume."""

from typing import Any

import numpy as np
import ray
import torch.distributed

from saltray.data.tiles import LabelledTiles, Tiles
from saltray.distributed.jobs import Job
from saltray.errors import ConfigError, EnsembleError, NotFoundError
from saltray.runs.pseudo_labels import PseudoLabels, has_labels, label, read_labels, write_labels
from saltray.training.process_group import ProcessGroup


def pseudo_tiles(job: Job, fold: int, group: ProcessGroup) -> LabelledTiles | None:
    """The most confident test tiles with the masks of the fold's teacher; None where the job has none.

    Every rank must call it.

    Raises:
        ConfigError: the teacher cannot be read on this node.
        IntegrityError: the labels or a model of the teacher are damaged.
    """
    if job.teacher is None or job.pseudo_labels is None:
        return None
    source = job.pseudo_labels.digest
    there = group.rank == 0 and has_labels(job.home, fold, source)
    if group.sum(torch.tensor(float(there), device=group.device)) == 0:
        labels = _label(job, fold, group)
        if labels is not None:
            write_labels(job.home, fold, labels, source)
        group.sum(torch.zeros((), device=group.device))  # the others read when they are written
    labels = read_labels(job.home, fold)
    return _chosen(job, labels, job.pseudo_labels.tiles)


def _label(job: Job, fold: int, group: ProcessGroup) -> PseudoLabels | None:
    """The labels of all test tiles, on rank 0; each rank labels every size-th tile of each shard."""
    assert job.teacher is not None
    try:
        models = job.teacher.models(fold, group.device)
    except (NotFoundError, EnsembleError) as error:  # the driver has read it
        raise ConfigError(
            f"{error}; name an ensemble in s3://, or in a folder that all nodes share, by --pseudo-labels.ensemble"
        ) from error
    mine = []
    for reference in job.test:
        shard = ray.get(reference)
        part = shard.select(np.arange(group.rank, len(shard), group.size))
        if len(part):
            mine.append(label(models, job.teacher.manifest.config, part, group.device))
    own = PseudoLabels.join(mine)
    del models
    if group.device.type == "cuda":
        torch.cuda.empty_cache()  # what is free decides where the tiles are kept
    if group.size == 1:
        return own
    parts: list[Any] | None = [None] * group.size if group.rank == 0 else None
    torch.distributed.gather_object(own, parts)
    return None if parts is None else PseudoLabels.join(parts)


def _chosen(job: Job, labels: PseudoLabels, count: int) -> LabelledTiles:
    """The `count` test tiles of the most confident labels, with these as their masks."""
    position = {labels.ids[at]: at for at in labels.most_confident(count).tolist()}
    found: list[Tiles] = []
    for reference in job.test:
        shard = ray.get(reference)
        found.append(shard.select(np.array([tile in position for tile in shard.ids])))
    ids = tuple(tile for part in found for tile in part.ids)
    images = np.concatenate([part.images for part in found])
    masks = [labels.mask(position[tile], *images.shape[1:]) for tile in ids]
    return LabelledTiles(ids, images, np.stack(masks))
