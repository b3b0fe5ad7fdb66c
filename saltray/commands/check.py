"""`saltray check`: whether a data set can be used, and a summary of it."""

from saltray.data.summary import DatasetSummary, summarise
from saltray.progress import Observer, log_event


def check(data: str, *, observer: Observer = log_event) -> DatasetSummary:
    """Read every file of a data set and count.

    Args:
        data: a folder, a zip or s3://bucket/prefix with train/images and train/masks, or images and masks, and
            optionally test/images, train.csv and depths.csv.
        observer: receives the events.

    Raises:
        DataError: something is wrong; `problems` lists every fault by file, those of one kind in one line.
        StorageError: the place cannot be reached.
    """
    return summarise(data, observer)
