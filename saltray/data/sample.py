"""A competition's sample_submission.csv: the ids that a submission must have."""

from collections.abc import Collection

from saltray.data.problems import Problem, and_more, raise_problems
from saltray.data.source import SAMPLE, Source
from saltray.data.tables import read_sample_ids, read_table
from saltray.errors import DataError, NotFoundError


def check_against_sample(source: Source, ids: Collection[str]) -> None:
    """Refuse tiles whose ids are not those of the data set's sample_submission.csv, if it has one.

    Raises:
        DataError: the ids differ, or the table cannot be read.
        StorageError: the source cannot be reached.
    """
    problems: list[Problem] = []
    expected: set[str] = set()
    entry = next((entry for entry in source.list() if entry.key.lower() == SAMPLE), None)
    if entry is None:
        return
    try:
        expected = set(read_sample_ids(read_table(source, entry), problems))
    except NotFoundError:
        problems.append(Problem(entry.key, "a link that leads nowhere; restore or remove it"))
    except DataError as error:
        problems.append(Problem(entry.key, str(error)))
    raise_problems(source.uri, problems)
    missing, surplus = sorted(expected - set(ids)), sorted(set(ids) - expected)
    faults = []
    if missing:
        have = "has" if len(missing) == 1 else "have"
        faults.append(f"{len(missing):,} of its {len(expected):,} ids {have} no image ({and_more(missing)})")
    if surplus:
        images = "1 image is" if len(surplus) == 1 else f"{len(surplus):,} images are"
        faults.append(f"{images} not in it ({and_more(surplus)})")
    if faults:
        raise DataError(
            f"the images are not those of {SAMPLE} in {source.uri}: {', and '.join(faults)}; correct one of them, or "
            "give the folder of the images alone as the data set to predict them as they are"
        )
