"""TensorBoard files of a search: `tensorboard --logdir <store>/searches/<name>/tensorboard`."""

import tempfile
from pathlib import Path

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from saltray.distributed.search.records import Trial
from saltray.storage.base import Store

SCALARS = ("loss", "valid_loss", "score", "iou", "dice", "lr", "images_per_second")


def write_events(store: Store, trial: Trial) -> None:
    """Write a trial's epochs and its values, as TensorBoard's HPARAMS page wants them, in one file of a fixed name."""
    with tempfile.TemporaryDirectory(prefix="saltray-") as folder:
        writer = SummaryWriter(folder, max_queue=1_000_000)
        for epoch in trial.epochs:
            for name in SCALARS:
                if epoch.get(name) is not None:
                    writer.add_scalar(name, epoch[name], epoch["epoch"], walltime=epoch.get("at"))
        if trial.best is not None:
            for summary in hparams(dict(trial.values), {"score": trial.best["score"]}):
                writer.file_writer.add_summary(summary)
            writer.add_scalar("best score", trial.best["score"], len(trial.epochs))
        writer.close()
        (file,) = Path(folder).iterdir()
        store.put_file(f"tensorboard/{trial.name}/events.out.tfevents.{trial.name}", file)
