"""The keys of a search in a store, each written once.

searches/<search>/{manifest.json, trial-007/..., trials.parquet, best.json, search.png, tensorboard/...,
                   range-test.json, range-test.png, mlflow.json}
trial-007/{trial.json, result.json} beside the history, checkpoints and error of `runs.layout`, as are `tensorboard`
and `mlflow.json`
"""

SEARCHES = "searches"
MANIFEST = "manifest.json"
TRIALS = "trials.parquet"
BEST = "best.json"
FIGURE = "search.png"

TRIAL = "trial.json"
"""What a trial tries; written before it starts."""
RESULT = "result.json"
"""How it ended."""
TRIAL_PREFIX = "trial-"

RANGE_TEST = "range-test"
"""Folder of a range test while it runs."""
RANGE_TEST_NUMBERS = "range-test.json"
RANGE_TEST_FIGURE = "range-test.png"


def search_folder(search: str) -> str:
    """A search's part of the store."""
    return f"{SEARCHES}/{search}"


def trial_folder(index: int) -> str:
    """A trial's part of its search; also the trial's name."""
    return f"{TRIAL_PREFIX}{index:03d}"
