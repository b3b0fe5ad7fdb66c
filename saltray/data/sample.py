"""A competition's sample_submission.csv: the ids that a submission must have."""

from collections.abc import Collection

from saltray.data.problems import Problem, and_more, raise_problems
from saltray.data.source import Source
from saltray.data.tables import read_sample_ids
from saltray.errors import DataError, NotFoundError

SAMPLE = "sample_submission.csv"


def check_against_sample(source: Source, ids: Collection[str]) -> None:
    """Refuse tiles whose ids are not those of the data set's sample_submission.csv, if it has one.

    Raises:
        DataError: the ids differ, or the table cannot be read.
        StorageError: the source cannot be reached.
    """
    problems: list[Problem] = []
    try:
        expected = set(read_sample_ids(source.read(SAMPLE), problems))
    except NotFoundError:
        return
    except DataError as error:
        problems.append(Problem(SAMPLE, str(error)))
    raise_problems(source.uri, problems)
    missing, surplus = sorted(expected - set(ids)), sorted(set(ids) - expected)
    faults = [f"{len(missing):,} of its {len(expected):,} ids have no image ({and_more(missing)})"] if missing else []
    faults += [f"{len(surplus):,} images are not in it ({and_more(surplus)})"] if surplus else []
    if faults:
        raise DataError(
            f"the images are not those of {SAMPLE} in {source.uri}: {', and '.join(faults)}; correct one of them, or "
            "give the folder of the images alone as the data set to predict them as they are"
        )
